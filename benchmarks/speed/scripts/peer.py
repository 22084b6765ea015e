"""What the peers' scripts share: what they are asked, both models from files, and their answer.

They run in environments of their own, so nothing of this project is imported, only torch, timm and open_clip.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from PIL import Image


@dataclass(frozen=True)
class Request:
    """Folders of the images, of a few to warm up with, of both models' weights, and for what is written."""

    images: str
    warm: str
    weights: str
    out: str
    batch: int
    cores: int


def request() -> Request:
    """What the script is asked, from its one argument; torch uses as many cores as are granted."""
    asked = Request(**json.loads(sys.argv[1]))
    torch.set_num_threads(asked.cores)
    return asked


def files(folder: str) -> list[Path]:
    """The images of a folder."""
    return sorted(Path(folder).iterdir())


def classifier(weights: str) -> tuple[Any, Callable[[Image.Image], torch.Tensor]]:
    """ResNet-50 of timm and its own transform."""
    network = timm.create_model("resnet50")
    network.load_state_dict(torch.load(Path(weights) / "classifier.pt"))
    settings = timm.data.resolve_data_config({}, model=network)
    return network.eval(), timm.data.create_transform(**settings)


def encoder_file(weights: str) -> str:
    """The file that open_clip takes for a pretrained model's name."""
    return str(Path(weights) / "encoder.pt")


def encoder(weights: str) -> tuple[Any, Callable[[Image.Image], torch.Tensor]]:
    """ViT-B/32 of open_clip and its own transform."""
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=encoder_file(weights))
    return model.eval(), transform


def timed(work: Callable[[str], Any], asked: Request) -> None:
    """Do it for the few, then for all, and tell how long that took: the script's last line."""
    work(asked.warm)
    begun = time.perf_counter()
    work(asked.images)
    tell(len(files(asked.images)), time.perf_counter() - begun)


def tell(images: int, seconds: float) -> None:
    """The script's last line."""
    print("\n" + json.dumps({"images": images, "seconds": seconds}), flush=True)
