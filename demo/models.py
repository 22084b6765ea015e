"""The demo's models: a small convolutional classifier of ours, and the configuration of a tiny stock CLIP.

Both are loaded as a user's models are: the classifier as `python:demo.models:tiny_classifier` with a weights
file, the CLIP by open_clip from a folder (`local-dir:demo/weights/clip`).
"""

import gzip
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import transforms

from demo.scenes import VALUES

WEIGHTS = Path(__file__).parent / "weights"
CLIP_FOLDER = WEIGHTS / "clip"
MERGES = "bpe_merges.txt.gz"
CLASSIFIER_SIZE = 64
CONTEXT = 24
WIDTH = 8


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut; a stride halves the map."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels, h / stride, w / stride), not negative."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class TinyClassifier(nn.Module):
    """Convolutions to maps (B, 128, 8, 8) that are never negative, their mean over space, a linear layer."""

    def __init__(self, class_names: tuple[str, ...] = VALUES["shape"], channels: int = 128) -> None:
        super().__init__()
        self.class_names = class_names
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 5, 2, 2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            Block(32, 64, 2),
            Block(64, channels, 2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, len(class_names))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64) -> logits (B, C)."""
        return self.head(self.pool(self.features(x)).flatten(1))


def tiny_classifier() -> tuple[TinyClassifier, transforms.Compose]:
    """The classifier without its training, and the preprocessing it expects."""
    preprocess = transforms.Compose(
        [
            transforms.Resize(CLASSIFIER_SIZE),
            transforms.CenterCrop(CLASSIFIER_SIZE),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ]
    )
    return TinyClassifier(), preprocess


def byte_pair_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte pair encoding learnt from a list of words until each of them is one token; ties by the alphabet.

    The words are lower-case ASCII. The format is that of CLIP's own merges: the last letter carries "</w>".
    """
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in pieces for pair in pairwise(word))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces of a word after each occurrence of the pair has become one piece."""
    result: list[str] = []
    for piece in word:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def write_merges(path: Path, words: Iterable[str]) -> None:
    """Write the merges as open_clip's SimpleTokenizer reads them: gzip, one header line, one pair a line."""
    lines = ["#version: 0.2", *(" ".join(pair) for pair in byte_pair_merges(words))]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def clip_config(vocabulary: int) -> dict[str, Any]:
    """open_clip's configuration: a ModifiedResNet at 128 px with a 4x4 map, and a small text tower."""
    return {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"layers": [1, 1, 1, 1], "width": WIDTH, "head_width": 64, "image_size": 128},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary,
                "width": 64,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
