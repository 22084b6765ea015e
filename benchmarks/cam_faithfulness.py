"""Which weights of a transformer's channels are faithful to it? On scenes with known truth.

    python -m benchmarks.cam_faithfulness [--scenes 240] [--models class_token_vit pooling_vit]

The *place*: cells are taken in the order of each method's map, highest first. *Deletion*: they are painted
grey, and the area under the curve of the class's probability should be small. *Insertion*: they appear in a
blurred picture, and it should be large. *Pointing*: does the highest cell lie on the object, whose mask is
known?

The *amount*, on which words rest: *channels* are set to their mean over all scenes in the order of their
contributions, weight times activation, and again the area should be small.

A random order stands beside them. Intervals are of 95 in 100, by resampling scenes; differences to Grad-CAM
are taken scene by scene.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.measure import Measure, interval, machine, publish
from benchmarks.small_networks import MODELS, SIDE, TRANSFORMERS, weights
from demo.pictures import photograph
from demo.scenes import VALUES, Scene, render, scenes
from textcam.arrays import Floats
from textcam.cam import channel_contributions, saliency_map
from textcam.cam_methods import METHODS
from textcam.classifier import TorchClassifier, load_classifier

STEPS = 16
GREY = 128
BLUR = 6.0  # pixels of 64
ON_OBJECT = 0.25  # of a cell that the object covers, as in demo.measure
BETTER = {"deletion": "lower", "insertion": "higher", "pointing": "higher", "channels": "lower"}
PLAIN = "gradcam"
OURS = "gradcam-frozen"


def order_of(maps: Floats, seed: int = 0) -> NDArray[np.int64]:
    """Cells (B, h*w) from the highest down; equal ones in a random order, alike for all methods."""
    flat = maps.reshape(len(maps), -1)
    tie = np.random.default_rng(seed).random(flat.shape)
    return np.lexsort((tie, -flat), axis=1)


def curve(
    classifier: TorchClassifier,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    order: NDArray[np.int64],
    class_ids: NDArray[np.int64],
) -> Floats:
    """The class's probability (B, STEPS + 1) while ``before`` (B, 3, S, S) becomes ``after`` by cells."""
    height, width = classifier.map_size
    cells = order.shape[1]
    rank = np.argsort(order, axis=1).reshape(len(order), 1, height, width)
    rank = rank.repeat(before.shape[2] // height, axis=2).repeat(before.shape[3] // width, axis=3)
    points = []
    for step in range(STEPS + 1):
        mixed = np.where(rank < cells * step / STEPS, after, before)
        points.append(probability(classifier.forward(mixed).logits, class_ids))
    return np.stack(points, axis=1)


def channel_curve(
    classifier: TorchClassifier,
    pixels: NDArray[np.uint8],
    order: NDArray[np.int64],
    class_ids: NDArray[np.int64],
) -> Floats:
    """The class's probability (B, STEPS + 1) while channels in ``order`` (B, K) become their mean."""
    layout, channels = classifier._layout, order.shape[1]
    mean = torch.from_numpy(classifier.forward(pixels).pooled.mean(0))
    rank = torch.from_numpy(np.argsort(order, axis=1))
    gone = torch.zeros((len(pixels), channels, 1, 1), dtype=torch.bool)

    def replace(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        maps = torch.where(gone, mean[:, None, None], layout.to_maps(changed))
        changed[:, layout.prefix :] = maps.flatten(2).transpose(1, 2)
        return changed

    handle = classifier._module.get_submodule(classifier.layer).register_forward_hook(replace)
    points = []
    for step in range(STEPS + 1):
        gone[:, :, 0, 0] = rank < channels * step / STEPS
        points.append(probability(classifier.forward(pixels).logits, class_ids))
    handle.remove()
    return np.stack(points, axis=1)


def probability(logits: Floats, class_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Softmax of each row (B, C) at its class (B,)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares[np.arange(len(logits)), class_ids]


def area(points: Floats) -> Floats:
    """Area (B,) under a curve (B, P) over 0..1."""
    found: Floats = np.trapezoid(points, dx=1 / (points.shape[1] - 1), axis=1)
    return found


def blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures (B, 3, S, S) in which shapes can no longer be told apart."""
    wide = gaussian_filter(pixels.astype(np.float32), (0, 0, BLUR, BLUR), mode="nearest")
    found: NDArray[np.uint8] = np.clip(np.round(wide), 0, 255).astype(np.uint8)
    return found


def object_shares(drawn: Sequence[Scene], map_size: tuple[int, int]) -> Floats:
    """The part of each cell (N, h*w) that the object covers."""
    rows = []
    for scene in drawn:
        mask = render(scene).masks["object"]
        height, width = (side // cells for side, cells in zip(mask.shape, map_size, strict=True))
        rows.append(mask.reshape(map_size[0], height, map_size[1], width).mean((1, 3)).ravel())
    return np.stack(rows)


def measure_model(name: str, count: int) -> list[Measure]:
    """All methods on one of the transformers, over ``count`` held-out scenes that it gets right."""
    classifier = load_classifier(
        f"python:benchmarks.small_networks:{name}",
        weights=str(weights(name)),
        class_names=VALUES["shape"],
        two_sided=False,
    )
    drawn = list(scenes("held-out", 1, 3 * count))
    pixels = np.stack([classifier.prepare(photograph(scene)) for scene in drawn])
    predicted = classifier.forward(pixels).logits.argmax(1)
    labels = np.array([VALUES["shape"].index(scene.shape) for scene in drawn])
    right = predicted == labels
    print(f"{name}: layer {classifier.layer}, maps {classifier.map_size}, accuracy {right.mean():.3f}")
    kept = np.flatnonzero(right)[:count]
    pixels, class_ids = pixels[kept], labels[kept]
    shares = object_shares([drawn[index] for index in kept], classifier.map_size)
    grey, soft = np.full_like(pixels, GREY), blurred(pixels)
    results: dict[str, dict[str, Floats]] = {}
    for method in ["random", *METHODS]:
        if method == "cam" and classifier.head is None:
            continue
        maps, contributions = answers_of(classifier, pixels, class_ids, method)
        order, of_channels = order_of(maps), order_of(contributions)
        results[method] = {
            "deletion": area(curve(classifier, pixels, grey, order, class_ids)),
            "insertion": area(curve(classifier, soft, pixels, order, class_ids)),
            "channels": area(channel_curve(classifier, pixels, of_channels, class_ids)),
            "pointing": (shares[np.arange(len(order)), order[:, 0]] >= ON_OBJECT).astype(np.float64),
        }
        print(
            method,
            {one: round(float(values.mean()), 4) for one, values in results[method].items()},
            flush=True,
        )
    return [Measure(f"{name}: accuracy", float(right.mean()), better="higher"), *rows(name, results)]


def answers_of(
    classifier: TorchClassifier, pixels: NDArray[np.uint8], class_ids: NDArray[np.int64], method: str
) -> tuple[Floats, Floats]:
    """Signed maps (B, h, w) and contributions (B, K) of a method; noise for "random"."""
    if method == "random":
        rng = np.random.default_rng(1)
        shape = (len(pixels), *classifier.map_size)
        return rng.random(shape).astype(np.float32), rng.random((len(pixels), classifier.channels)).astype(
            np.float32
        )
    maps: list[Floats] = []
    contributions: list[Floats] = []
    for start in range(0, len(pixels), 32):
        part = slice(start, start + 32)
        output, channel_weights = classifier.forward_cam(pixels[part], class_ids[part], method, maps=True)
        assert output.maps is not None
        maps.append(saliency_map(output.maps, channel_weights))
        contributions.append(channel_contributions(channel_weights, output.pooled))
    return np.concatenate(maps), np.concatenate(contributions)


def rows(name: str, results: dict[str, dict[str, Floats]]) -> list[Measure]:
    """Means with intervals, and the differences of every method to plain Grad-CAM."""
    made = []
    for kind, better in BETTER.items():
        for method, values in results.items():
            value, low, high = interval(values[kind].tolist(), np.mean)
            baseline = float(results["random"][kind].mean())
            made.append(Measure(f"{name}: {kind}, {method}", value, low, high, None, better, baseline))
        for method in (one for one in results if one not in (PLAIN, "random")):
            difference = results[method][kind] - results[PLAIN][kind]
            value, low, high = interval(difference.tolist(), np.mean)
            label = f"{name}: {kind}, {method} less {PLAIN}"
            goal = 0.0 if method == OURS else None
            made.append(Measure(label, value, low, high, goal, better))
    return made


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--models", nargs="+", default=list(TRANSFORMERS), choices=list(MODELS))
    chosen = parser.parse_args()
    measures = [row for name in chosen.models for row in measure_model(name, chosen.scenes)]
    where = {**machine(), "torch": torch.__version__, "scenes": chosen.scenes, "side": SIDE}
    publish("cam_faithfulness", measures, where, chosen.scenes >= 200)


if __name__ == "__main__":
    main()
