"""`python -m benchmarks.truth`: every part, or some; prints tables, writes results/truth.json and plots.

python -m benchmarks.truth                     all parts, ten seeds
python -m benchmarks.truth --seeds 2 --parts t0 t1 --dry
"""

import argparse
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Measure, machine, publish
from benchmarks.truth import rivals, sanity
from benchmarks.truth.algebraic import AlgebraicWorld, make_algebraic
from benchmarks.truth.cases import square
from benchmarks.truth.contest import ABLATION, CONTEST, Samples, compete
from benchmarks.truth.details import effects_by_images, in_detail
from benchmarks.truth.measures import bootstrap, label_measures, named_right
from benchmarks.truth.ours import PAPER, Choices, Directions
from benchmarks.truth.plots import draw

PARTS = ("t0", "t1", "ablation", "t2", "details", "effects")
NOISES = (4.0, 16.0, 32.0, 64.0)
GOALS = {
    "own word first": 0.95,
    "shortcut in first three, unbiased": 0.95,
    "shortcut in first three, confounded": 0.9,
    "false shortcut in first three, confounded": 0.1,
    "image has the cue, AUPRC": 0.9,
    "Spearman of presence effects, unbiased": 0.8,
    "Spearman of presence effects, confounded": 0.8,
    "group map pointing": 0.9,
    "group map energy": 2.0,
    "one meaning, noise 4: top-1": 0.98,
    "two meanings, noise 4: both in first five": 0.9,
}


def algebraic(seeds: int) -> dict[str, Samples]:
    """T0: naming by entrant, at every noise, for channels of one and of two meanings."""
    ways = {
        "ours": Choices(),
        "ours, presence alone": Choices(form="presence"),
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


def shortcut_squares(seeds: int) -> dict[str, Samples]:
    """T1, all methods."""
    return compete((case for seed in range(seeds) for case in square(seed)), CONTEST)


def ablation(seeds: int) -> dict[str, Samples]:
    """T1, one choice changed at a time, on half of the seeds."""
    return compete((case for seed in range(-(-seeds // 2)) for case in square(seed)), ABLATION, maps=False)


def sane(seeds: int) -> dict[str, Samples]:
    """T2."""
    found: dict[str, Samples] = {"ours": defaultdict(list)}
    for seed in range(seeds):
        for name, value in sanity.label_sanity(seed).items():
            found["ours"][name].append(value)
        found["ours"]["untrained classifier: own word first"] += sanity.untrained(seed)
        found["ours"]["classes taken for others: own word first"] += sanity.shuffled_classes(seed)
    return found


def rows(part: str, found: dict[str, Samples]) -> Iterator[Measure]:
    """One measure for each entrant and what it was judged by, with a bootstrap interval over its samples."""
    for entrant, samples in found.items():
        for name, values in samples.items():
            if len(values):
                value, low, high = bootstrap(np.array(values, float))
                goal = GOALS.get(name) if entrant in ("ours", "default") else None
                better = "lower" if name.startswith(("false", "deletion")) else "higher"
                yield Measure(f"{part} | {entrant} | {name}", value, low, high, goal, better)


def table(found: dict[str, Samples]) -> str:
    """Entrants down, measures across, means; in Markdown."""
    names = list(dict.fromkeys(name for samples in found.values() for name in samples))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for entrant, samples in found.items():
        cells = [f"{np.nanmean(samples[n]):.2f}" if len(samples.get(n, ())) else "" for n in names]
        lines.append(f"| {entrant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    torch.set_num_threads(1)
    ways = {
        "t0": algebraic,
        "t1": shortcut_squares,
        "ablation": ablation,
        "t2": sane,
        "effects": effects_by_images,
    }
    found = {part: ways[part](asked.seeds) for part in asked.parts if part in ways}
    found |= in_detail(-(-asked.seeds // 2)) if "details" in asked.parts else {}
    for part, of_part in found.items():
        print(f"\n{part}\n{table(of_part)}", flush=True)
    if not asked.dry:
        measures = [measure for part, of_part in found.items() for measure in rows(part, of_part)]
        publish("truth", measures, machine(), write=True)
        draw(found, Path("docs/images"))


if __name__ == "__main__":
    main()
