"""A careful script: torch's DataLoader with worker processes, both models in batches, pooled activations."""

from pathlib import Path

import numpy as np
import torch
from peer import classifier, encoder, files, request, timed
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    """A folder's images, decoded once, as both models want them."""

    def __init__(self, folder: str, *transforms: object) -> None:
        self.paths, self.transforms = files(folder), transforms

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> list[torch.Tensor]:
        image = Image.open(self.paths[row]).convert("RGB")
        return [one(image) for one in self.transforms]


def main() -> None:
    """Pooled activations, logits and embeddings of all images, in NumPy files."""
    asked = request()
    (network, for_network), (clip, for_clip) = classifier(asked.weights), encoder(asked.weights)
    Path(asked.out).mkdir(parents=True, exist_ok=True)

    def work(folder: str) -> None:
        made = []
        loader = DataLoader(Images(folder, for_network, for_clip), asked.batch, num_workers=asked.cores)
        with torch.inference_mode():
            for one, other in loader:
                pooled = network.forward_head(network.forward_features(one), pre_logits=True)
                made.append((pooled, network.fc(pooled), clip.encode_image(other)))
        for name, column in zip(("pooled", "logits", "embeddings"), zip(*made, strict=True), strict=True):
            np.save(Path(asked.out) / name, torch.cat(column).numpy())

    timed(work, asked)


if __name__ == "__main__":
    main()
