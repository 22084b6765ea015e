"""Training of the demo's classifier, on pictures with or without the shortcuts."""

import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from demo.models import TinyClassifier
from demo.pictures import Pictures
from demo.train_clip import batches, half, normalised, progress

BATCH = 128


def train_classifier(pictures: Pictures, path: Path, *, epochs: float, seed: int, rate: float = 2e-3) -> None:
    """Train on the shapes of the pictures (N, 64, 64, 3) and write the weights. Progress goes to stdout."""
    torch.manual_seed(seed)
    model = TinyClassifier().to(memory_format=torch.channels_last)
    labels = torch.from_numpy(pictures.labels_of("shape"))
    steps = int(epochs * len(labels) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    begin, recent = time.process_time(), []
    model.train()
    for step, rows in zip(range(steps), batches(len(labels), BATCH, seed), strict=False):
        pixels = normalised(pictures.pixels[rows]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels)
        loss = functional.cross_entropy(logits.float(), labels[rows])
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
