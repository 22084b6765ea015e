"""Small networks that see something, trained here on the demo's scenes: three forms of timm's transformers, a
hybrid of convolutions and attention, and plain convolutions.

A method that says where a network looks can only be judged on a network that looks somewhere. Each tells the
shapes of rendered scenes apart: the transformers two times of three (they would need more pictures), the
hybrid and the convolutions nearly always. Weights lie in the temporary folder (or TEXTCAM_WORLDS), under a
name made of all that shaped them, and are trained when they are missing (some minutes of two cores).
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional
from torchvision import transforms

from demo.models import WEIGHTS, TinyClassifier
from demo.pictures import Pictures, picture_set
from demo.scenes import VALUES, scenes
from demo.train_clip import batches, normalised

SIDE = 64
BATCH = 128
STEPS = {"hybrid": 800, "plain": 1000}  # 2000 of the others
PICTURES = 12000
RATE = 1e-3
CLASSES = len(VALUES["shape"])

Built = tuple[nn.Module, transforms.Compose]


def class_token_vit() -> Built:
    """A ViT that reads its class token: maps of 8 x 8, another block between them and the head."""
    return _vit(global_pool="token"), _transform()


def pooling_vit() -> Built:
    """A ViT that averages its tokens, with a layer norm between the average and the linear layer."""
    return _vit(global_pool="avg", class_token=False), _transform()


def hiera() -> Built:
    """A hierarchical transformer of two stages: 16 x 16 tokens, then 8 x 8; a norm behind the pooling."""
    network = timm.create_model(
        "hiera_tiny_224",
        img_size=(SIDE, SIDE),
        num_classes=CLASSES,
        embed_dim=48,
        stages=(2, 3),
        q_pool=1,
        num_heads=1,
        mask_unit_size=(4, 4),
        mask_unit_attn=(True, False),
    )
    return network, _transform()


class Hybrid(nn.Module):
    """The demo's first convolutions as they are trained there, then tokens and two blocks of attention."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.class_names = VALUES["shape"]
        self.stem = nn.Sequential(*list(TinyClassifier().features)[:4])  # (B, 64, 16, 16)
        self.patch = nn.Conv2d(64, width, 2, 2)
        self.places = nn.Parameter(torch.zeros(1, 64, width))
        self.blocks = nn.Sequential(*(Block(width, 3) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, 64, 64) -> (B, 8)."""
        tokens = self.patch(self.stem(x)).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def hybrid() -> Built:
    """Attention over tokens that convolutions made, averaged."""
    network = Hybrid()
    started = load_file(WEIGHTS / "clean.safetensors")
    kept = {name.removeprefix("features."): value for name, value in started.items()}
    network.stem.load_state_dict({name: kept[name] for name in network.stem.state_dict()})
    return network, _transform()


def plain() -> Built:
    """Convolutions without shortcuts, from nothing: maps of 8 x 8, their mean, a linear layer."""
    widths = (3, 32, 64, 96, 128)
    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(pairwise(widths)):
        stride = 2 if at < 3 else 1
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES)]
    network = nn.Sequential(*layers, *pooled)
    network.class_names = VALUES["shape"]
    return network, _transform()


TRANSFORMERS = ("class_token_vit", "pooling_vit", "hiera")  # their heads are not linear in the map
MODELS: dict[str, Callable[[], Built]] = {
    "class_token_vit": class_token_vit,
    "pooling_vit": pooling_vit,
    "hiera": hiera,
    "hybrid": hybrid,
    "plain": plain,
}


def _vit(**options: object) -> nn.Module:
    return timm.create_model(
        "test_vit",
        img_size=SIDE,
        patch_size=8,
        embed_dim=96,
        depth=4,
        num_heads=3,
        num_classes=CLASSES,
        **options,
    )


def _transform() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )


def weights(name: str) -> Path:
    """The file with the weights of one of MODELS, trained now if it is missing."""
    steps = STEPS.get(name, 2000)
    folder = Path(os.environ.get("TEXTCAM_WORLDS", Path(tempfile.gettempdir()) / "textcam-worlds"))
    shaped = f"{MODELS[name]()[0]} {steps} {PICTURES} {BATCH} {RATE}"
    key = hashlib.sha256(shaped.encode()).hexdigest()[:12]
    path = folder / f"transformer-{name}-{key}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        network = train(name, picture_set(scenes("training", 0, PICTURES), PICTURES, SIDE), steps)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, partial)
        partial.rename(path)
    return path


def train(name: str, pictures: Pictures, steps: int) -> nn.Module:
    """The network after ``steps`` batches of pictures, mirrored at random; progress goes to stdout."""
    torch.manual_seed(0)
    network = MODELS[name]()[0].train()
    labels = torch.from_numpy(pictures.labels_of("shape"))
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    begin = time.perf_counter()
    for step, rows in zip(range(steps), batches(len(labels), BATCH, 0), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(_moved(normalised(pictures.pixels[rows])))
        loss = functional.cross_entropy(logits.float(), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - begin
            print(f"{name} {step + 1}/{steps} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
    return network.eval()


def _moved(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, S, S) shifted by up to 6 pixels and half the time mirrored, alike for the batch."""
    down, right = (int(torch.randint(0, 13, ())) for _ in range(2))
    shifted = functional.pad(pixels, (6, 6, 6, 6), mode="reflect")[:, :, down:, right:][:, :, :SIDE, :SIDE]
    return shifted.flip(-1) if bool(torch.rand(()) < 0.5) else shifted


if __name__ == "__main__":
    for each in MODELS:
        print(weights(each))
