"""T1 in detail: groupings, insertion and deletion by concept, and stability, on the same cases."""

from collections import defaultdict

from benchmarks.truth import concepts, shortcuts
from benchmarks.truth.cases import square
from benchmarks.truth.causes import causes_of
from benchmarks.truth.contest import CONTEST, Samples
from benchmarks.truth.groupings import judge_groupings
from benchmarks.truth.ours import Directions
from benchmarks.truth.stability import judge_stability

FITTING = (320, 640, 1280)


def in_detail(seeds: int) -> dict[str, dict[str, Samples]]:
    """Samples of groupings, concepts and stability, from the same cases."""
    found: dict[str, dict[str, Samples]] = {
        part: defaultdict(lambda: defaultdict(list)) for part in ("groups", "concepts", "stability")
    }
    for seed in range(seeds):
        modules = {
            True: shortcuts.classifier(shortcuts.biased_world(seed)).module,
            False: shortcuts.classifier(shortcuts.clean_world(seed)).module,
        }
        cases = list(square(seed))
        causes = {planted: causes_of(module) for planted, module in modules.items()}
        _add(found["groups"], judge_groupings((case, causes[case.name.endswith("biased")]) for case in cases))
        _add(found["stability"], judge_stability(cases))
        for case in cases:
            if case.confounded:
                continue
            fitted = Directions(case.evidence)
            leanings = {
                name: one.words(case, fitted, case.predicted).image_leaning
                for name, one in CONTEST.items()
                if one.words is not None
            }
            known = concepts.lattices(case, modules[case.name.endswith("biased")], seed)
            for name, judged in concepts.judge_orders(known, leanings).items():
                for measure, value in judged.items():
                    found["concepts"][name][measure].append(value)
    return found


def _add(all_of_them: dict[str, Samples], more: dict[str, Samples]) -> None:
    for name, samples in more.items():
        for measure, values in samples.items():
            all_of_them[name][measure] += values
