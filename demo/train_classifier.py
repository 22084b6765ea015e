"""Training of the demo's classifier, on pictures with or without the shortcuts."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from demo.models import TinyClassifier
from demo.pictures import Pictures
from demo.scenes import VALUES
from demo.train_clip import batches, half, normalised, progress

BATCH = 128


def train_classifier(
    pictures: Pictures,
    path: Path,
    *,
    epochs: float,
    seed: int,
    rate: float = 2e-3,
    attributes: Sequence[str] = ("shape",),
    start: Path | None = None,
) -> None:
    """Train on ``attributes`` of the pictures (N, 64, 64, 3) and write the weights. Progress goes to stdout.

    The classes of several attributes lie side by side in one head, each with a softmax of its own. ``start``
    are weights to start from, all but those of the head.
    """
    torch.manual_seed(seed)
    sizes = [len(VALUES[name]) for name in attributes]
    model = TinyClassifier(tuple(value for name in attributes for value in VALUES[name]))
    if start is not None:
        features = {name: value for name, value in load_file(start).items() if not name.startswith("head.")}
        model.load_state_dict({**model.state_dict(), **features})
    model = model.to(memory_format=torch.channels_last)
    labels = torch.from_numpy(np.stack([pictures.labels_of(name) for name in attributes], 1))
    steps = int(epochs * len(labels) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    begin, recent = time.process_time(), []
    model.train()
    for step, rows in zip(range(steps), batches(len(labels), BATCH, seed), strict=False):
        pixels = normalised(pictures.pixels[rows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels)
        each = zip(logits.float().split(sizes, 1), labels[rows].T, strict=True)
        loss = torch.stack([functional.cross_entropy(*one) for one in each]).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            print(progress(path.stem, step, steps, recent, begin), flush=True)
            recent = []
    save_file(half(model), path)
