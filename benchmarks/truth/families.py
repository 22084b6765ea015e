"""T1's other families: rules over several objects, creatures of parts, and other labels than the shape.

python -m benchmarks.truth.families                      all, five seeds
python -m benchmarks.truth.families rules --seeds 1 --dry

Each keeps its own lines of results/truth.json, its table of docs/truth.md and its plot.
"""

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Measure
from benchmarks.truth.contest import CONTEST, Entrant, Samples, by_directions
from benchmarks.truth.creatures import Creatures
from benchmarks.truth.family_cases import FamilyCase, family_case
from benchmarks.truth.family_judges import compete_in_family, judge_confidence
from benchmarks.truth.family_worlds import world_of
from benchmarks.truth.label_scenes import LABELS, label_world
from benchmarks.truth.measures import bootstrap
from benchmarks.truth.ours import DEFAULT, Choices, Directions
from benchmarks.truth.plots import draw_family
from benchmarks.truth.results import keep_parts
from benchmarks.truth.rule_scenes import RuleScenes
from benchmarks.truth.tables import GOALS

SEEDS = 5
BLIND = ("texture",)  # what the encoder that is made blind on purpose was never told of
ENTRANTS: dict[str, Entrant] = {
    **CONTEST,
    "ours, without regions": by_directions(Choices(form="names")),
    "ridge over all images": by_directions(Choices(form="ridge")),
}


def rules(seeds: int) -> dict[str, Samples]:
    """Classes are rules over three to six objects."""
    worlds = (world_of(RuleScenes(), seed) for seed in range(seeds))
    return _family((family_case(world) for world in worlds), ENTRANTS)


def parts(seeds: int) -> dict[str, Samples]:
    """Classes are creatures with three given parts."""
    worlds = (world_of(Creatures(), seed) for seed in range(seeds))
    return _family((family_case(world) for world in worlds), ENTRANTS)


def labels(seeds: int) -> dict[str, Samples]:
    """Classes are textures, sizes, and pairs, with planted cues; a world of each for every second seed."""
    worlds = (label_world(label, seed) for seed in range(-(-seeds // 2)) for label in LABELS)
    return _family((family_case(world) for world in worlds), ENTRANTS)


def blind(seeds: int) -> dict[str, Samples]:
    """The rules' first world with an encoder that was never told of BLIND: what the gate says of it, and what
    our words would be worth of what is seen, and of what is refused.
    """
    one = family_case(world_of(RuleScenes(), 0), blind=BLIND)
    facts: Samples = defaultdict(list)
    _add_facts(facts, one)
    made: dict[str, Samples] = {"world": facts}
    for name, seen in (("what is seen", one.seen), ("what is refused", ~one.seen)):
        found = compete_in_family([replace(one, seen=seen)], {"ours": CONTEST["ours"]})["ours"]
        made[name] = {measure: values for measure, values in found.items() if "confidence" not in measure}
    facts |= judge_confidence(one, Directions(one.case.evidence).names(DEFAULT).confidence)
    return made


FAMILIES = {"rules": rules, "parts": parts, "labels": labels, "blind": blind}


def _family(cases: Iterable[FamilyCase], entrants: dict[str, Entrant]) -> dict[str, Samples]:
    facts: Samples = defaultdict(list)

    def told() -> Iterator[FamilyCase]:
        for one in cases:
            _add_facts(facts, one)
            yield one

    found = compete_in_family(told(), entrants)
    return {"world": facts} | found


def _add_facts(facts: Samples, one: FamilyCase) -> None:
    facts["classifier accuracy"].append(one.accuracy)
    facts["rule attributes that flip the class"].append(float(one.used.sum() / max(one.ruled.sum(), 1)))
    for name, (accuracy, _) in one.gate.items():
        facts[f"encoder, {name}"].append(accuracy)


def rows(family: str, found: dict[str, Samples]) -> Iterator[Measure]:
    """One measure for each entrant and what it was judged by."""
    for entrant, samples in found.items():
        for name, values in samples.items():
            if len(values):
                title = f"{family} | {entrant} | {name}"
                goal = GOALS[title].amount if title in GOALS else None
                yield Measure(title, *bootstrap(np.array(values, float)), goal, "higher")


def run_families(names: Iterable[str], seeds: int, *, write: bool) -> None:
    """Judge all methods in these families; with ``write`` keep what comes out of it, tables and plots."""
    for name in names:
        began = time.process_time()
        found = FAMILIES[name](seeds)
        minutes = (time.process_time() - began) / 60
        measures = [*rows(name, found), Measure(f"{name} | cost | CPU minutes", minutes)]
        for one in measures:
            print(f"{one.name:80} {one.value:.3f}")
        print(f"{name}: {minutes:.1f} minutes of one core", flush=True)
        if write:
            keep_parts({name}, measures)
            if name != "blind":
                draw_family(name, found, Path("docs/images"))


def main() -> None:
    """Run the families that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; default all"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    if unknown := set(asked.families) - set(FAMILIES):
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    torch.set_num_threads(1)
    run_families(asked.families or FAMILIES, asked.seeds, write=not asked.dry)


if __name__ == "__main__":
    main()
