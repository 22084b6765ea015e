"""How long the audit of a million images takes, and what it holds: ImageNet's size, synthetic numbers.

Passes over the rows are timed on as many images as ``--images`` says (32,768) and scaled to 1.28 million:
every pass does the same for each image. Memory does not grow with N, so it is taken as it is. The run's own
classes do the work, on blocks as they come from a store: float16 in Parquet, decoded here.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import GIB, Measure, in_own_process, machine, publish
from store.manifest import PartRecord
from store.reader import as_matrix, read_part
from store.schema import KINDS, Dims, tables
from store.storage import open_storage
from store.writer import write_part
from textcam.audit import KIND_WEIGHTS, find_shortcuts
from textcam.presence import ConceptCounts, ConceptPresence
from textcam.records import embedding_rows, pooled_rows
from textcam.replay import replay_blocks
from textcam.shares import ClassMeans, TextShares
from textcam.whatif import Pairs, WhatIf, neutral_head

IMAGES, FULL = 32_768, 1_280_000
K, C, T, D, G, PAIRS, SHARD = 2048, 1000, 2000, 512, 32, 8000, 4096


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_shard(folder: Path) -> tuple[PartRecord, PartRecord]:
    """One shard of activations and embeddings, which every block of the passes reads again."""
    rng, known, storage = np.random.default_rng(0), tables(Dims(K, D, 49)), open_storage(folder)
    pooled = np.maximum(rng.normal(0, 1, (SHARD, K)), 0).astype(np.float16)
    embeddings = unit(rng.normal(0, 1, (SHARD, D))).astype(np.float16)
    ids = np.arange(SHARD)
    return (
        write_part(storage, known["activations"], pooled_rows(known["activations"], ids, pooled), "one"),
        write_part(storage, known["embeddings"], embedding_rows(known["embeddings"], ids, embeddings), "one"),
    )


class Synthetic:
    """The blocks of a store, and what the audit knows beside them."""

    def __init__(self, folder: Path, images: int) -> None:
        self.storage, self.blocks = open_storage(folder), images // SHARD
        self.activations, self.embeddings = write_shard(folder)
        rng = np.random.default_rng(1)
        self.labels = rng.integers(0, C, (self.blocks, SHARD))
        self.weights, self.bias = rng.normal(0, 0.03, (C, K)), np.zeros(C)
        self.texts = unit(rng.normal(0, 1, (T, D)))
        self.kinds = [KINDS[at % 7] for at in range(T)]
        self.group_of = rng.integers(0, G, K)
        chosen = np.sort(rng.choice(C * T, PAIRS, replace=False))
        self.pairs = Pairs(chosen // T, chosen % T, rng.integers(0, G, PAIRS))

    def read(self, part: PartRecord, column: str) -> np.ndarray:
        """One block's vectors, decoded and checked as a run does it."""
        return as_matrix(read_part(self.storage, part)[column].combine_chunks())


def audit(folder: Path, images: int) -> dict[str, float]:
    """Seconds of both passes and of the findings at the end."""
    data, seconds = Synthetic(folder, images), {}
    started = time.perf_counter()
    shares, means = TextShares(C, T), ClassMeans(C, K)
    rng = np.random.default_rng(2)
    words = np.argsort(rng.random((SHARD, 40)), axis=1)[:, :5] * 50
    for labels in data.labels:
        means.update(labels, data.read(data.activations, "pooled"))
        shares.update(labels, words, np.ones(words.shape, np.float32))
    seconds["first"] = time.perf_counter() - started
    presence = ConceptPresence(data.texts, sample=data.read(data.embeddings, "embedding"))
    counts = ConceptCounts(C, T, labelled=True)
    flips = WhatIf(data.weights, data.bias, data.group_of, means.overall, data.pairs)
    started = time.perf_counter()
    for labels in data.labels:
        pooled = data.read(data.activations, "pooled")
        present = presence(data.read(data.embeddings, "embedding"))
        predicted = np.where(np.arange(SHARD) % 4 > 0, labels, (labels + 1) % C)
        counts.update(predicted, present, labels)
        flips.update(pooled, present, labels)
    seconds["second"] = time.perf_counter() - started
    started = time.perf_counter()
    named = {"class_names": [f"class {at}" for at in range(C)], "texts": [f"text {at}" for at in range(T)]}
    found = find_shortcuts(
        data.pairs, shares, counts, flips, text_ids=list(range(T)), kinds=data.kinds, **named
    )
    assert len(found) == PAIRS
    assert {one.kind for one in found} <= set(KIND_WEIGHTS)
    seconds["findings"] = time.perf_counter() - started
    return seconds


def what_if(folder: Path, images: int) -> float:
    """Seconds in which all images are answered again without a group, read from the store."""
    data = Synthetic(folder, images)
    changed = neutral_head(data.weights, data.bias, np.flatnonzero(data.group_of == 3), np.full(K, 0.4))
    started = time.perf_counter()
    blocks = ((data.read(data.activations, "pooled"), labels) for labels in data.labels)
    made = replay_blocks(blocks, (data.weights, data.bias), changed)
    assert made.images.sum() == images
    return time.perf_counter() - started


def directions(images: int = 32768) -> float:
    """Explanation directions a second, contributions times channel directions, of all images' own classes."""
    rng = np.random.default_rng(3)
    pooled = np.maximum(rng.normal(0, 1, (SHARD, K)), 0).astype(np.float32)
    weights, channel = rng.normal(0, 0.03, (C, K)).astype(np.float32), unit(rng.normal(0, 1, (K, D)))
    started = time.perf_counter()
    for _ in range(images // SHARD):
        classes = rng.integers(0, C, SHARD)
        unit((weights[classes] * pooled) @ channel)
    return images / (time.perf_counter() - started)


def grad_cam(images: int = 24) -> float:
    """Images a second of Grad-CAM with a forward pass: ResNet-50 at 224 pixels, as our runs do it."""
    from textcam.classifier import load_classifier

    classifier = load_classifier("timm:resnet50", weights="random", device="cpu")
    noise = np.random.default_rng(4).integers(0, 255, (8, 224, 224, 3), np.uint8)
    pixels = np.stack([classifier.prepare(Image.fromarray(one)) for one in noise])
    classifier.forward_cam(pixels, np.zeros(8, np.int64), "gradcam", maps=True)
    started = time.perf_counter()
    for _ in range(images // 8):
        classifier.forward_cam(pixels, np.zeros(8, np.int64), "gradcam", maps=True)
    return images / (time.perf_counter() - started)


def main() -> None:
    """Measure, print, and at full size write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    images = parser.parse_args().images
    if images < SHARD or images % SHARD:
        parser.error(f"--images must be a multiple of {SHARD}")
    scale = FULL / images
    with tempfile.TemporaryDirectory() as temporary:
        seconds, cost = in_own_process(audit, Path(temporary), images)
        again, replayed = in_own_process(what_if, Path(temporary), images)
    made, cam = directions(), grad_cam()
    minutes = (scale * (seconds["first"] + seconds["second"]) + seconds["findings"]) / 60
    measures = [
        Measure("images measured, the rest scaled", images),
        Measure("audit of 1.28 million images, minutes", minutes, goal=20),
        Measure("  first pass, minutes", scale * seconds["first"] / 60),
        Measure("  second pass, minutes", scale * seconds["second"] / 60),
        Measure("  findings of 8,000 pairs, seconds", seconds["findings"]),
        Measure("audit of 1.28 million images, minutes of one core", scale * cost.cpu / 60),
        Measure("audit, most memory, GiB", cost.peak / GIB, goal=4),
        Measure("a what-if on 1.28 million images, seconds", scale * again, goal=60),
        Measure("  seconds of one core", scale * replayed.cpu),
        Measure("explanation directions a second", made, better="higher"),
        Measure("  times the rate of Grad-CAM with a forward pass", made / cam, goal=100, better="higher"),
        Measure("  Grad-CAM with a forward pass, images a second", cam, better="higher"),
    ]
    publish("audit_speed", measures, machine(), write=images >= IMAGES)


if __name__ == "__main__":
    main()
