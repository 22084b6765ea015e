"""Confidences: fit their curves on worlds of even seeds, and measure on odd seeds how far to trust them.

python -m benchmarks.truth.calibration      fit anew and print the curves, write nothing
python -m benchmarks.truth calibration      measure the curves of textcam/confidence.py
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

from benchmarks.measure import Measure
from benchmarks.truth.evidence import Array
from benchmarks.truth.measures import bootstrap, calibration_error
from benchmarks.truth.plots import draw_calibration
from benchmarks.truth.spoilt import Told, told_by_formulas, told_by_renderings
from textcam import confidence as stated
from textcam.confidence import Curve

LIKELY = ("rendered", "formulas")  # worlds of trained classifiers and whole banks
FITTED = ("name", "group", "explanation", "class")
"""What has a curve; a channel's confidence is that of its name."""
JUDGED = ("channel", "group", "explanation", "class")
LIMITS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.01)


def fit(signs: Array, right: Array, weights: Array) -> Curve:
    """The logistic curve of largest likelihood whose weights are not negative."""
    wide = np.column_stack([signs, np.ones(len(signs))])
    weights = weights / weights.sum()

    def loss(amounts: Array) -> tuple[float, Array]:
        score = wide @ amounts
        chance = 1 / (1 + np.exp(-score))
        small = 1e-3 * amounts * (np.arange(len(amounts)) < signs.shape[1])
        value = (weights * (np.logaddexp(0, score) - right * score)).sum() + (small * amounts).sum()
        return value, wide.T @ (weights * (chance - right)) + 2 * small

    bounds = [(0, None)] * signs.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(wide.shape[1]), jac=True, bounds=bounds).x
    return Curve(tuple(float(one) for one in np.round(found[:-1], 2)), round(float(found[-1]), 2))


def curve_of(records: list[Told]) -> Curve:
    """Every sort of world that a user may have weighs the same, the others a quarter of that each."""
    worlds = sorted({one.world for one in records})
    size = {world: sum(len(one.right) for one in records if one.world == world) for world in worlds}
    weights = [np.full(len(o.right), (1 if o.world in LIKELY else 0.25) / size[o.world]) for o in records]
    return fit(
        np.concatenate([one.signs for one in records]),
        np.concatenate([one.right for one in records]).astype(float),
        np.concatenate(weights),
    )


def told_and_right(records: list[Told], level: str, curve: Curve | None) -> dict[str, dict[int, Array]]:
    """Pairs (n, 2) of a confidence and whether the word was right, by sort of world and seed; ``all`` are all
    worlds together."""
    made: dict[str, dict[int, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for one in records:
        if one.level == level:
            sure = one.signs[:, 0] if curve is None else curve(one.signs)
            for world in ("all", one.world):
                made[world][one.seed].append(np.column_stack([sure, one.right]))
    return {world: {s: np.concatenate(p) for s, p in seeds.items()} for world, seeds in made.items()}


def judged(name: str, level: str, by_seed: dict[int, Array]) -> Iterator[Measure]:
    """Calibration error, its interval over resampled seeds; mean confidence and share right."""
    pairs = list(by_seed.values())

    def error(chosen: Array) -> float:
        every = np.concatenate([pairs[int(one)] for one in chosen])
        return calibration_error(every[:, 0], every[:, 1])

    triple = bootstrap(np.arange(len(pairs)), error, draws=100)
    yield Measure(f"calibration | {name} | {level}: calibration error", *triple)
    sure, right = np.concatenate(pairs).mean(0)
    yield Measure(f"calibration | {name} | {level}: mean confidence", float(sure), better="higher")
    yield Measure(f"calibration | {name} | {level}: right", float(right), better="higher")


def unsure_enough(pairs: Array) -> Iterator[Measure]:
    """What "no words fit" costs and gains: how many channels are as sure as that, and how many of these are
    right; from pairs (n, 2) of confidence and right."""
    for low, high in itertools.pairwise(LIMITS):
        mine = (pairs[:, 0] >= low) & (pairs[:, 0] < high)
        name = f"confidence {low} to {min(high, 1)}"
        yield Measure(f"trust | {name} | share", float(mine.mean()), better="higher")
        if mine.any():
            yield Measure(f"trust | {name} | right", float(pairs[mine, 1].mean()), better="higher")


def gather(seeds: Iterable[int], formulas: Iterable[int]) -> list[Told]:
    """All records of rendered worlds and of formulas."""
    made: list[Told] = []
    for seed in seeds:
        made += told_by_renderings(seed)
    for seed in formulas:
        made += told_by_formulas(seed)
    return made


def calibrate(seeds: int) -> tuple[list[Measure], Callable[[Path], None]]:
    """How far the confidences of a run can be trusted, on odd seeds, which no curve was fitted on; and the
    picture of it, which is drawn into a folder."""
    odd = range(1, seeds, 2)
    records = gather(odd, odd[: max(1, len(odd) // 2)])
    measures, shown = [], {}
    for level in JUDGED:
        curve = None if level == "channel" else getattr(stated, level.upper())
        found = told_and_right(records, level, curve)
        for world, by_seed in found.items():
            measures += judged(world, level, by_seed)
        shown[level] = {world: np.concatenate(list(by_seed.values())) for world, by_seed in found.items()}
    measures += unsure_enough(shown["channel"]["all"])
    return measures, lambda folder: draw_calibration(shown, folder)


def main() -> None:
    """Fit the curves on even seeds and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    records = gather(range(0, seeds, 2), range(0, seeds // 2, 2))
    for level in FITTED:
        print(f"{level.upper()} = {curve_of([one for one in records if one.level == level])}")


if __name__ == "__main__":
    main()
