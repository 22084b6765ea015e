"""All that is measured on genuine vectors, and intervals: over channels, attributes or classes, and seeds."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Measure
from benchmarks.truth.evidence import Array
from benchmarks.truth.genuine import HALVES, open_bank, open_world, variants
from benchmarks.truth.genuine_entrants import entrants, presences
from benchmarks.truth.genuine_scores import (
    Units,
    judge_effects,
    judge_findings,
    judge_names,
    judge_presence,
    judge_threshold,
)
from benchmarks.truth.measures import calibration_error
from benchmarks.truth.ours import Directions

SEEDS = 3
DRAWS = 400
CALIBRATION = "calibration error"


class Sample(NamedTuple):
    """One unit of one world, by one seed."""

    world: str
    unit: str
    seed: int
    values: tuple[float, ...]


Found = dict[str, dict[str, list[Sample]]]
"""Samples by entrant and measure."""


def measure_worlds(path: Path, names: Iterable[str], seeds: int) -> Found:
    """All methods on all draws of these worlds of a folder."""
    found: Found = defaultdict(lambda: defaultdict(list))
    bank = open_bank(path)
    for name in names:
        world = open_world(path, name, bank)
        for seed in range(seeds):
            for case in variants(world, seed):
                few, base = case.variant.endswith("images"), case.variant == "base"
                if few or (base and not seed):  # which images there are does not hang on a channel's noise
                    for entrant, told in presences(case.evidence).items():
                        _keep(found[entrant], name, seed, case.variant, judge_presence(case.world, *told))
                    _keep(found["best threshold"], name, seed, case.variant, judge_threshold(case.world))
                for entrant, told in entrants(Directions(case.evidence)).items():
                    _keep(found[entrant], name, seed, case.variant, judge_names(case, told))
                    if base:
                        _keep(found[entrant], name, seed, "", judge_effects(case, told))
                        _keep(found[entrant], name, seed, "", judge_findings(case, told))
    return found


def _keep(found: dict[str, list[Sample]], world: str, seed: int, variant: str, units: Units) -> None:
    for measure, pairs in units.items():
        name = f"{variant}: {measure}" if variant else measure
        found[name] += [Sample(world, unit, seed, values) for unit, values in pairs]


def rows(half: str, found: Found) -> Iterator[Measure]:
    """A measure for each entrant and what it was judged by: all worlds together, each weighing the same, and
    by world."""
    for entrant, measures in found.items():
        for name, samples in measures.items():
            statistic, better = _mean, "lower" if "false" in name or name.endswith(CALIBRATION) else "higher"
            if name.endswith(CALIBRATION):
                statistic = _calibration
            worlds = dict.fromkeys(one.world for one in samples)
            parts = {f"genuine {half}": samples}
            parts |= {f"genuine {w}": [one for one in samples if one.world == w] for w in worlds}
            for part, mine in parts.items():
                yield Measure(f"{part} | {entrant} | {name}", *interval(mine, statistic), better=better)


def interval(
    samples: list[Sample], statistic: Callable[[Array], float], draws: int = DRAWS
) -> tuple[float, float, float]:
    """The statistic of the values (n, m) of each world, on the mean over worlds, and the bounds of 95 in 100
    resamples: of the seeds, the same for all worlds, and of each world's units, the same for all seeds."""
    rng = np.random.default_rng(0)
    seeds, seed_of = np.unique([one.seed for one in samples], return_inverse=True)
    worlds = []
    for name in dict.fromkeys(one.world for one in samples):
        mine = np.array([one.world == name for one in samples])
        units, unit_of = np.unique([one.unit for one in samples if one.world == name], return_inverse=True)
        values = np.array([one.values for one in samples if one.world == name])
        worlds.append((values, unit_of, len(units), seed_of[mine]))
    value = float(np.mean([statistic(values) for values, *_ in worlds]))
    each = []
    for _ in range(draws):
        of_seed = _times(rng, len(seeds))
        drawn = [
            np.repeat(values, _times(rng, count)[unit_of] * of_seed[seed_of], axis=0)
            for values, unit_of, count, seed_of in worlds
        ]
        known = [statistic(one) for one in drawn if len(one)]
        each += [float(np.mean(known))] if known else []
    low, high = np.quantile(each, (0.025, 0.975))
    return value, float(low), float(high)


def _times(rng: np.random.Generator, count: int) -> Array:
    """How often each of ``count`` is drawn in as many draws."""
    return np.bincount(rng.integers(0, count, count), minlength=count)


def _mean(values: Array) -> float:
    return float(values.mean())


def _calibration(values: Array) -> float:
    return calibration_error(values[:, 0], values[:, 1])


def genuine(path: Path, half: str, seeds: int) -> list[Measure]:
    """The measures of one half of the worlds."""
    return list(rows(half, measure_worlds(path, HALVES[half], min(seeds, SEEDS))))
