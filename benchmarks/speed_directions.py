"""How fast channel directions are, beside scikit-learn's discriminant fitted channel by channel.

    python -m benchmarks.speed_directions [--channels 2048] [--dim 512] [--examples 100] [--rounds 5]

Both sides get the same gathered float32 embeddings. Ours solves all channels and also scores every held-out
pair (its ``separation``); scikit-learn's loop fits a few channels a round, and its time for all is scaled up
from them, which favours neither: its channels cost the same. Rounds of both alternate, so that a busy
machine slows both; ratios are taken within a round, and CPU time, which a neighbour disturbs least, is
reported beside wall time.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from textcam.accumulate import TopK
from textcam.arrays import Floats, unit_rows
from textcam.groups import group_channels
from textcam.lda import fit_directions
from textcam.select import select_texts

RESULT = Path(__file__).parent / "results" / "speed_directions.json"
SHRINKAGE = 0.5
PEER = f"scikit-learn {sklearn.__version__}, LDA(solver=lsqr), one fit per channel"


def embeddings(rng: np.random.Generator, *shape: int) -> Floats:
    """Unit vectors in a cone with a falling spectrum, as image encoders make them."""
    spread = rng.standard_normal(shape, dtype=np.float32)
    spread /= np.sqrt(np.arange(1, shape[-1] + 1, dtype=np.float32))
    spread += np.linspace(0.3, -0.3, shape[-1], dtype=np.float32)
    spread /= np.linalg.norm(spread, axis=-1, keepdims=True)
    return spread


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of all threads, and what ``work`` gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    return time.perf_counter() - wall, time.process_time() - cpu, made


def loop(positives: Floats, negatives: Floats, channels: NDArray[np.integer]) -> Floats:
    """What users write: one scikit-learn fit per channel."""
    labels = np.repeat([1, 0], positives.shape[1])
    made = []
    for channel in channels:
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
        made.append(model.fit(np.concatenate([positives[channel], negatives[channel]]), labels).coef_[0])
    return unit_rows(np.stack(made))


def direct(positives: Floats, negatives: Floats) -> NDArray[np.float64]:
    """The formula in D x D and float64, for one channel."""
    p, n = positives.astype(np.float64), negatives.astype(np.float64)
    residuals = np.concatenate([p - p.mean(axis=0), n - n.mean(axis=0)])
    covariance = residuals.T @ residuals / len(residuals)
    dim = len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / dim * np.eye(dim)
    solved = np.linalg.solve(shrunk, p.mean(axis=0) - n.mean(axis=0))
    unit: NDArray[np.float64] = solved / np.linalg.norm(solved)
    return unit


def measure(
    name: str, values: list[float], better: str, goal: float | None = None, baseline: float | None = None
) -> dict[str, Any]:
    """One row of the result: the median of ``values``, the smallest, the largest; a peer's ``baseline``."""
    return {
        "name": name,
        "value": float(np.median(values)),
        "low": min(values),
        "high": max(values),
        "goal": goal,
        "better": better,
        "baseline": baseline,
    }


def beside_scikit_learn(
    positives: Floats, negatives: Floats, rounds: int, sample: int
) -> list[dict[str, Any]]:
    """Ratios of time for all channels, and seconds, with one thread each and with the better of 1 and 2."""
    channels = len(positives)
    picked = np.random.default_rng(1).permutation(channels)
    walls: dict[int, list[tuple[float, float]]] = {1: [], 2: []}  # threads -> (ours, theirs) by round
    cpus = []
    for index in range(rounds + 1):
        part = np.resize(np.roll(picked, -index * sample), sample)
        for threads, held in walls.items():
            ours = timed(partial(fit_directions, positives, negatives, shrinkage=SHRINKAGE, threads=threads))
            with threadpool_limits(threads):
                theirs = timed(partial(loop, positives, negatives, part))
            scale = channels / sample
            if index > 0:  # the first round warms up
                held.append((ours[0], theirs[0] * scale))
                cpus += [theirs[1] * scale / ours[1]] if threads == 1 else []
    best = [tuple(map(min, one, two)) for one, two in zip(walls[1], walls[2], strict=True)]
    rows = [
        measure("times faster, wall, best of 1 and 2 threads each", ratios(best), "higher", 50.0),
        measure("times faster, wall, 1 thread each", ratios(walls[1]), "higher", 50.0),
        measure("times faster, CPU, 1 thread each", cpus, "higher", 50.0),
    ]
    for threads, held in walls.items():
        ours_s, theirs_s = ([pair[side] for pair in held] for side in (0, 1))
        label = f"wall seconds for all channels, threads: {threads}"
        rows.append(measure(label, ours_s, "lower", baseline=float(np.median(theirs_s))))
    return rows


def ratios(pairs: Sequence[tuple[float, ...]]) -> list[float]:
    """Theirs over ours, round by round."""
    return [theirs / ours for ours, theirs in pairs]


def accuracy(positives: Floats, negatives: Floats, sample: int) -> list[dict[str, Any]]:
    """Smallest cosine of our directions with the direct formula and with scikit-learn's."""
    channels = np.arange(min(sample, len(positives)))
    ours = fit_directions(positives[channels], negatives[channels], shrinkage=SHRINKAGE).direction
    slow = np.stack([direct(positives[channel], negatives[channel]) for channel in channels])
    peer = loop(positives, negatives, channels)
    wide = ours.astype(np.float64)
    return [
        measure("smallest cosine with D x D float64", (wide * slow).sum(axis=1).tolist(), "higher", 0.999999)
        | {"value": float((wide * slow).sum(axis=1).min())},
        measure("smallest cosine with scikit-learn", (wide * peer).sum(axis=1).tolist(), "higher", 0.999999)
        | {"value": float((wide * peer).sum(axis=1).min())},
    ]


def neighbours(channels: int, dim: int, examples: int, rounds: int) -> list[dict[str, Any]]:
    """The steps around the directions: examples from a stream, groups, words."""
    rng = np.random.default_rng(2)
    top = TopK(channels, examples)
    pooled = np.maximum(rng.standard_normal((256, channels), dtype=np.float32) - 0.5, 0)
    for start in range(0, 20 * 256, 256):
        top.update(np.arange(start, start + 256), rng.permuted(pooled, axis=0))
    updates = []
    for start in range(10**6, 10**6 + 256 * rounds, 256):
        pooled = rng.permuted(pooled, axis=0)
        updates.append(timed(partial(top.update, np.arange(start, start + 256), pooled))[1])
    directions = embeddings(rng, channels, dim) - np.linspace(0.1, -0.1, dim, dtype=np.float32)
    groups = [timed(partial(group_channels, directions, 32))[1] for _ in range(rounds)]
    texts = embeddings(rng, 1500, dim)
    spread = texts - texts.mean(axis=0)
    mixed = spread[rng.integers(0, 1500, (256, 4))] * np.array([1.0, 0.7, 0.5, 0.3])[:, None]
    targets = mixed.sum(axis=1).astype(np.float32)
    words = [timed(partial(select_texts, targets, texts, relative_sparsity=0.25))[1] for _ in range(rounds)]
    return [
        measure("CPU ms an image for examples of all channels", [1e3 * t / 256 for t in updates], "lower"),
        measure("CPU seconds for 32 groups of all channels", groups, "lower"),
        measure("CPU ms a target for words out of 1500", [1e3 * t / 256 for t in words], "lower"),
    ]


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("channels", 2048), ("dim", 512), ("examples", 100), ("rounds", 5), ("sample", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (chosen.channels, chosen.examples, chosen.dim)
    positives, negatives = embeddings(rng, *shape), embeddings(rng, *shape)
    shift = rng.standard_normal((chosen.channels, 1, chosen.dim), dtype=np.float32)
    positives = unit_rows(positives + 0.5 * shift / np.sqrt(chosen.dim, dtype=np.float32))
    load = os.getloadavg()[0]
    measures = accuracy(positives, negatives, 2 * chosen.sample)
    measures += beside_scikit_learn(positives, negatives, chosen.rounds, chosen.sample)
    measures += neighbours(chosen.channels, chosen.dim, chosen.examples, chosen.rounds)
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_before": round(load, 1),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "setting": {**vars(chosen), "shrinkage": SHRINKAGE, "peer": PEER},
        "measures": measures,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for row in measures:
        beside = "".join(f"  {key} {row[key]:.6g}" for key in ("goal", "baseline") if row[key] is not None)
        print(f"{row['name']:58s} {row['value']:11.6g}  ({row['low']:.6g} to {row['high']:.6g}){beside}")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
