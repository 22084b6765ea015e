"""Every part, or some; each prints its table and keeps its results when it ends.

python -m benchmarks.truth                          all parts, ten seeds
python -m benchmarks.truth t0 t1 --seeds 2 --dry    some, quickly, nothing written
python -m benchmarks.truth genuine                  genuine vectors of CLIP, from the folder TEXTCAM_GENUINE

What a part keeps are its own lines of results/truth.json, its tables of docs/truth.md and its plots, so
those that were cut off are run again by name.
"""

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Measure
from benchmarks.truth import rivals, sanity
from benchmarks.truth.algebraic import AlgebraicWorld, make_algebraic
from benchmarks.truth.calibration import calibrate
from benchmarks.truth.cases import square
from benchmarks.truth.contest import ABLATION, CONTEST, Samples, compete
from benchmarks.truth.details import in_detail
from benchmarks.truth.genuine import FOLDER, HALVES
from benchmarks.truth.genuine import folder as genuine_folder
from benchmarks.truth.genuine_part import genuine
from benchmarks.truth.measures import bootstrap, label_measures, named_right
from benchmarks.truth.more_images import effects_by_images
from benchmarks.truth.ours import PAPER, Choices, Directions
from benchmarks.truth.plots import draw
from benchmarks.truth.results import keep_parts
from benchmarks.truth.tables import GOALS, LEAD, NOISES

PLOTS = Path("docs/images")
Found = dict[str, dict[str, Samples]]
"""Samples by part, entrant and measure."""


def algebraic(seeds: int) -> dict[str, Samples]:
    """T0: naming by entrant, at every noise, for channels of one and of two meanings."""
    ways = {
        "ours": Choices(),
        "ours, presence alone": Choices(form="presence"),
        "ours, patterns alone": Choices(form="pattern"),
        "ridge over all images": Choices(form="ridge"),
        "LDA (shrinkage 0.1)": Choices(form="whole"),
        "TextCAM, the paper's form": PAPER,
        "mean difference": Choices(form="whole", shrinkage=1.0, centre=False),
    }
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        for meanings, noise in [(m, n) for m in (1, 2) for n in NOISES]:
            evidence, scoring = make_algebraic(AlgebraicWorld(seed=seed, noise=noise, meanings=meanings))
            fitted = Directions(evidence)
            scores = {name: fitted.scores(one) for name, one in ways.items()}
            scores |= {name: one(evidence) for name, one in rivals.RIVALS.items()}
            asked = "one meaning" if meanings == 1 else "two meanings"
            for name, made in scores.items():
                top, told = (1, "top-1") if meanings == 1 else (5, "both in first five")
                right = named_right(made, scoring.meanings, top)
                found[name][f"{asked}, noise {noise:g}: {told}"].append(float(right.mean()))
                pearson = label_measures(scoring, made.argmax(1))["pearson"].mean()
                found[name][f"{asked}, noise {noise:g}: pearson"].append(float(pearson))
    return found


def with_lead(found: dict[str, Samples]) -> dict[str, Samples]:
    """And by how much ours is ahead of the best of the others, seed by seed; ``least`` where it is so by
    least."""
    leads: Samples = {}
    for name, mine in found["ours"].items():
        if not name.endswith("pearson"):
            others = [samples[name] for entrant, samples in found.items() if not entrant.startswith("ours")]
            leads[name] = list(np.array(mine) - max(others, key=np.mean))
    least = min(leads.values(), key=np.mean)
    return found | {LEAD: leads | {"least": least}}


def shortcut_squares(seeds: int) -> dict[str, Samples]:
    """T1, all methods."""
    return compete((case for seed in range(seeds) for case in square(seed)), CONTEST)


def ablation(seeds: int) -> dict[str, Samples]:
    """T1, one choice changed at a time."""
    return compete((case for seed in range(seeds) for case in square(seed)), ABLATION, maps=False)


def sane(seeds: int) -> dict[str, Samples]:
    """T2: of our names, by what was spoilt."""
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        for name, value in sanity.label_sanity(seed).items():
            spoilt, measure = name.split(": ")
            found[spoilt][measure].append(value)
        found["untrained classifier"]["own word first"] += sanity.untrained(seed)
        found["classes taken for others"]["own word first"] += sanity.shuffled_classes(seed)
    return found


def rows(found: Found) -> Iterator[Measure]:
    """One measure for each entrant and what it was judged by, with a bootstrap interval over its samples."""
    for part, entrants in found.items():
        for entrant, samples in entrants.items():
            for name, values in samples.items():
                if len(values):
                    title = f"{part} | {entrant} | {name}"
                    goal = GOALS[title].amount if title in GOALS else None
                    better = "lower" if name.startswith(("false", "deletion")) else "higher"
                    yield Measure(title, *bootstrap(np.array(values, float)), goal, better)


def table(found: dict[str, Samples]) -> str:
    """Entrants down, measures across, means; in Markdown."""
    names = list(dict.fromkeys(name for samples in found.values() for name in samples))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for entrant, samples in found.items():
        cells = [f"{np.nanmean(samples[n]):.2f}" if len(samples.get(n, ())) else "" for n in names]
        lines.append(f"| {entrant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


WAYS: dict[str, Callable[[int], Found]] = {
    "t0": lambda seeds: {"t0": with_lead(algebraic(seeds))},
    "t1": lambda seeds: {"t1": shortcut_squares(seeds)},
    "ablation": lambda seeds: {"ablation": ablation(seeds)},
    "t2": lambda seeds: {"t2": sane(seeds)},
    "details": lambda seeds: in_detail(-(-seeds // 2)),
    "effects": lambda seeds: {"effects": effects_by_images(seeds)},
}
PARTS = (*WAYS, "calibration", "genuine")


def run(part: str, seeds: int, *, write: bool, half: str = "choosing") -> None:
    """Run one part, print it, keep it; of genuine vectors, one ``half`` of the worlds."""
    began = time.process_time()
    if part == "calibration":
        measures, picture = calibrate(seeds)
        for one in measures:
            print(f"{one.name:60} {one.value:.3f}")
    elif part == "genuine":
        path = genuine_folder()
        if path is None:
            print(f"genuine: left out, {FOLDER} does not say where vectors of annotated pictures are")
            return
        measures, picture = genuine(path, half, seeds), None
        for one in measures:
            print(f"{one.name:90} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]")
    else:
        found = WAYS[part](seeds)
        measures, picture = list(rows(found)), lambda folder: draw(found, folder)
        for name, of_part in found.items():
            print(f"\n{name}\n{table(of_part)}")
    minutes = (time.process_time() - began) / 60
    print(f"{part}: {minutes:.1f} minutes of one core", flush=True)
    if write:
        cost = Measure(f"{part} | cost | CPU minutes", minutes)
        keep_parts({part} | {one.name.split(" | ")[0] for one in measures}, [*measures, cost])
        if picture:
            picture(PLOTS)


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--genuine-half",
        choices=[*HALVES],
        default="choosing",
        help="worlds that choices are made by, or those kept aside to report on",
    )
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    torch.set_num_threads(1)
    for part in asked.parts or PARTS:
        run(part, asked.seeds, write=not asked.dry, half=asked.genuine_half)


if __name__ == "__main__":
    main()
