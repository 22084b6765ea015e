"""Small models for runs in tests: made in a moment, the same in every process, named as a user's own."""

import os
import signal
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

SIZE = 16
CLASSES = ("red", "green", "blue")


class Net(nn.Module):
    """GAP + linear over 7 channels; not linear if a nonlinearity stands before the head."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.class_names = CLASSES
        self.features = nn.Sequential(nn.Conv2d(3, 7, 5, 4, 2), nn.ReLU())
        self.squash = nn.Identity() if linear else nn.Tanh()
        self.head = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.squash(self.features(x).mean((2, 3))))


def transform() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(SIZE),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ]
    )


def linear_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=True), transform()


def squashed_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=False), transform()


class Clip(nn.Module):
    """Images by their colours at 2 x 2 places, texts by their letters, both in 11 dimensions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.image = nn.Linear(12, 11)
        self.text = nn.EmbeddingBag(256, 11)

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return self.image(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.text(tokens)


def tokens(texts: list[str]) -> torch.Tensor:
    rows = [list(text.encode())[:24] for text in texts]
    return torch.tensor([row + [0] * (24 - len(row)) for row in rows])


def clip() -> tuple[nn.Module, transforms.Compose, object]:
    return Clip(3), transform(), tokens


def other_clip() -> tuple[nn.Module, transforms.Compose, object]:
    return Clip(4), transform(), tokens


class Hungry(Net):
    """The same network, for which memory has room for two images at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def hungry_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Hungry(linear=True), transform()


class Slow(Net):
    """The same network, which takes its time: so that something can happen meanwhile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.3)
        return super().forward(x)


def slow_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Slow(linear=True), transform()


class NoRed:
    """A step of a transform that refuses red images."""

    def __call__(self, image: Image.Image) -> Image.Image:
        red, green, blue = np.asarray(image).reshape(-1, 3).mean(0)
        if red > 1.5 * max(green, blue):
            raise ValueError("too red for me")
        return image


def picky_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=True), transforms.Compose([NoRed(), *transform().transforms])


class Deadly(Net):
    """The same network, whose process dies of a batch of four."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def deadly_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Deadly(linear=True), transform()
