"""What users write: pytorch-grad-cam and open_clip, image by image."""

import torch
from peer import classifier, encoder, files, request, timed
from PIL import Image
from pytorch_grad_cam import GradCAM


def main() -> None:
    """A map of the predicted class and an embedding for each image."""
    asked = request()
    (network, for_network), (clip, for_clip) = classifier(asked.weights), encoder(asked.weights)
    cam = GradCAM(model=network, target_layers=[network.layer4])

    def work(folder: str) -> None:
        for path in files(folder):
            image = Image.open(path).convert("RGB")
            cam(input_tensor=for_network(image)[None], targets=None)
            with torch.no_grad():
                clip.encode_image(for_clip(image)[None])

    timed(work, asked)


if __name__ == "__main__":
    main()
