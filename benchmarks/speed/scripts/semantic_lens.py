"""semanticlens: the examples of each channel, then embeddings of all images, by its own code."""

from peer import classifier, encoder_file, files, request, timed
from PIL import Image
from semanticlens import Lens
from semanticlens.component_visualization import ActivationComponentVisualizer
from semanticlens.component_visualization.aggregators import aggregate_conv_mean
from semanticlens.foundation_models import OpenClip
from torch.utils.data import Dataset


class Images(Dataset):
    """A folder's images, for one of its two passes."""

    def __init__(self, folder: str, transform: object) -> None:
        self.paths, self.transform = files(folder), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[object, int]:
        image = Image.open(self.paths[row]).convert("RGB")
        return self.transform(image), 0


def same(image: Image.Image) -> Image.Image:
    """The encoder's pass takes images as they are."""
    return image


def main() -> None:
    """Its concept database; nothing is written."""
    asked = request()
    network, transform = classifier(asked.weights)
    lens = Lens(OpenClip("ViT-B-32", pretrained=encoder_file(asked.weights)), device="cpu")

    def work(folder: str) -> None:
        visualizer = ActivationComponentVisualizer(
            network,
            Images(folder, transform),
            Images(folder, same),
            layer_names=["layer4"],
            num_samples=min(5, len(files(folder))),
            aggregate_fn=aggregate_conv_mean,
        )
        lens.compute_concept_db(visualizer, batch_size=asked.batch, num_workers=asked.cores)

    timed(work, asked)


if __name__ == "__main__":
    main()
