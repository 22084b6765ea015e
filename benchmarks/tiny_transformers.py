"""Small transformers that see something: three forms of timm's, trained here on the demo's scenes.

A method that says where a network looks can only be judged on a network that looks somewhere. Each tells the
shapes of rendered scenes apart; weights lie in the temporary folder (or TEXTCAM_WORLDS), under a name made
of all that shaped them, and are trained when they are missing (some minutes of two cores).
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torchvision import transforms

from demo.pictures import Pictures, picture_set
from demo.scenes import VALUES, scenes
from demo.train_clip import batches, normalised

SIDE = 64
BATCH = 128
STEPS = 2000
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


MODELS: dict[str, Callable[[], Built]] = {
    "class_token_vit": class_token_vit,
    "pooling_vit": pooling_vit,
    "hiera": hiera,
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


def weights(name: str, steps: int = STEPS) -> Path:
    """The file with the weights of one of MODELS, trained now if it is missing."""
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
