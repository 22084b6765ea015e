"""Which grouping of channels, and how many groups: do channels that code the same thing come together?

What a channel codes is the text that raises it most when scenes are rendered again (``causes``). Purity is
the adjusted Rand index of groups and codes: 0 by chance, 1 where they are the same partition.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from sklearn.metrics import adjusted_rand_score

from benchmarks.truth.causes import NEARLY, Causes
from benchmarks.truth.evidence import Array
from benchmarks.truth.ours import DEFAULT, Directions
from benchmarks.truth.square import Case, judge_maps
from textcam.groups import greedy_groups, group_by_text, group_channels, group_directions
from textcam.select import nearest_texts

COUNTS = (8, 16, 32, 64)
Grouping = Callable[[Array], Array]


def groupings(fitted: Directions, case: Case) -> dict[str, Grouping]:
    """Ways from directions (K, D) to group ids (K,). Greedy groups lead with what contributes most to any
    class on the mean."""
    size = np.abs(case.head).max(0) * fitted.evidence.pooled.mean(0)

    def greedy(directions: Array, count: int) -> Array:
        made = np.zeros(len(directions), int)
        for place, members in enumerate(greedy_groups(size, directions, groups=count)):
            made[members] = place
        return made

    def names(directions: Array, count: int) -> Array:
        return group_by_text(fitted.names(DEFAULT).first, directions, count)

    ways: dict[str, Grouping] = {}
    for count in COUNTS:
        ways[f"k-means, {count}"] = partial(group_channels, count=count)
        ways[f"agglomerative, {count}"] = partial(group_channels, count=count, method="agglomerative")
        ways[f"names, {count}"] = partial(names, count=count)
        ways[f"greedy, {count}"] = partial(greedy, count=count)
    return ways


def judge_groupings(cases: Iterable[tuple[Case, Causes]]) -> dict[str, dict[str, list[float]]]:
    """Samples by grouping and measure, a case each: purity, first words that are right, maps of cues."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case, causes in cases:
        fitted = Directions(case.evidence)
        directions, codes = fitted.for_words(DEFAULT), causes.channels.argmax(1)
        for name, way in groupings(fitted, case).items():
            group_of = way(directions)
            groups = int(group_of.max()) + 1
            near = nearest_texts(group_directions(directions, group_of, groups), case.evidence.texts, top=1)
            texts = near.text_index[:, 0]
            effects = np.eye(groups)[group_of].T @ causes.channels
            own = effects[np.arange(groups), np.maximum(texts, 0)]
            right = (texts >= 0) & (own >= NEARLY * effects.max(1))
            kind = "biased" if case.biased else "clean"
            found[name][f"purity, {kind}"].append(float(adjusted_rand_score(codes, group_of)))
            found[name]["first word right"].append(float(right.mean()))
            for measure, samples in judge_maps(case, directions, lambda _, ids=group_of: ids).items():
                if measure.startswith("group"):
                    found[name][measure] += samples
    return found
