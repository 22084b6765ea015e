"""Groups of channels that mean the same: one clustering per store, and a greedy one for a single image.

Every channel is in exactly one group, so group maps and group contributions add up to the whole. Channels
without a direction (zeros) mean nothing that could be compared; where there are any they share the last
group.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering, KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from store.errors import ConfigError
from textcam.arrays import Doubles, Floats, as_floats, check_finite, unit_rows
from textcam.cam import membership

GroupIds = NDArray[np.int32]
Method = Literal["kmeans", "agglomerative"]


def group_channels(
    directions: Floats,
    count: int,
    *,
    seed: int = 0,
    weights: Floats | None = None,
    method: Method = "kmeans",
) -> GroupIds:
    """Group ids (K,) in 0..G-1 of channels with ``directions`` (K, D), G <= ``count``.

    Groups are numbered by their smallest channel, except that channels without a direction form the last
    group (one of the ``count``). G is smaller than ``count`` where there are fewer different directions.
    "kmeans" clusters unit directions, ``weights`` (K,) >= 0 say how much each channel counts;
    "agglomerative" joins by Ward's criterion and takes no weights. The same arguments give the same groups,
    for any number of threads.
    """
    if count < 1:
        raise ConfigError(f"{count} groups cannot be formed.", where="groups.count", fix="Ask for 1 or more.")
    unit = unit_rows(as_floats("directions", directions, (None, None))).astype(np.float64)
    check_finite("directions", unit)
    alive = unit.any(axis=1)
    wanted = count - 1 if count > 1 and not alive.all() else count
    wanted = min(wanted, len(np.unique(unit[alive], axis=0)))
    group_of = np.full(len(unit), wanted, dtype=np.int32)
    if wanted:
        counts = None if weights is None else _weights(weights, len(unit))[alive]
        labels = _cluster(unit[alive], wanted, seed, counts, method)
        group_of[alive] = _number_by_first(labels)
    if count == 1:
        group_of[:] = 0
    return group_of


def group_by_text(first: NDArray[np.integer], directions: Floats, count: int) -> GroupIds:
    """Group ids (K,) in 0..G-1, G <= ``count``: channels that have the same ``first`` text (K,), -1 for none.

    Where there are more texts than groups the most frequent ones keep theirs. Every other channel joins the
    group whose mean direction is nearest to its own of ``directions`` (K, D), and channels without a
    direction form the last group, as in ``group_channels``; so do all, without any text, as they do there.
    """
    unit = unit_rows(as_floats("directions", directions, (len(first), None))).astype(np.float64)
    alive: NDArray[np.bool_] = np.asarray(unit.any(axis=1))
    wanted = count - 1 if count > 1 and not alive.all() else count
    texts, sizes = np.unique(first[alive & (first >= 0)], return_counts=True)
    kept = texts[np.argsort(-sizes, kind="stable")[: max(wanted, 1)]]
    if count < 2 or not len(kept):
        return group_channels(directions, count)
    led = alive[:, None] & (first[:, None] == kept)  # (K, G)
    nearest = np.argmax(unit @ unit_rows((led.T @ unit).astype(np.float32)).astype(np.float64).T, axis=1)
    labels = np.where(led.any(axis=1), led.argmax(axis=1), nearest)
    group_of = np.full(len(unit), len(kept), np.int32)
    group_of[alive] = _number_by_first(labels[alive])
    return group_of


def _cluster(
    unit: Doubles, count: int, seed: int, weights: Doubles | None, method: Method
) -> NDArray[np.integer]:
    if method == "agglomerative":
        if weights is not None:
            raise ConfigError("Agglomerative groups take no weights.", where="groups.method")
        labels: NDArray[np.integer] = AgglomerativeClustering(n_clusters=count).fit_predict(unit)
    elif method == "kmeans":
        # With one thread sums have one order, and so the labels cannot depend on the machine's load.
        with threadpool_limits(1):
            model = KMeans(n_clusters=count, n_init=4, random_state=seed)
            labels = model.fit(unit, sample_weight=weights).labels_
    else:
        raise ConfigError(
            f"Unknown grouping method {method!r}.", where="groups.method", fix="kmeans or agglomerative"
        )
    return labels


def _weights(weights: Floats, channels: int) -> Doubles:
    checked = as_floats("weights", weights, (channels,)).astype(np.float64)
    if not (checked >= 0).all() or not checked.any():
        raise ConfigError("Channel weights must not be negative, and not all zero.", where="weights")
    return checked


def _number_by_first(labels: NDArray[np.integer]) -> GroupIds:
    """Labels renumbered 0, 1, ... in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    numbered: GroupIds = rank[inverse]
    return numbered


def group_directions(
    directions: Floats, group_of: NDArray[np.integer], groups: int, *, weights: Floats | None = None
) -> Floats:
    """Unit directions (G, D): each group's sum of channel directions, ``weights`` (K,) times each."""
    directions = as_floats("directions", directions, (None, None))
    member = membership(group_of, len(directions), groups).astype(np.float64)
    amount = np.ones(len(directions)) if weights is None else as_floats("weights", weights, group_of.shape)
    total = (member * amount[:, None]).T @ directions.astype(np.float64)
    # What cancels leaves rounding behind, which must not become a direction.
    size = (member * np.abs(amount)[:, None]).sum(axis=0)
    return unit_rows(np.where(np.linalg.norm(total, axis=1) > 1e-9 * size, total.T, 0.0).T)


def greedy_groups(contributions: Floats, directions: Floats, *, groups: int) -> list[NDArray[np.int64]]:
    """Groups of channels for one image: led by what contributes most and differs most (ours).

    The first leader is the channel with the highest contribution; each further one has the highest
    contribution times (1 - its largest cosine to a leader so far), as long as that is above 0. Then each
    channel joins the leader that its direction is nearest to (channels without a direction the first
    leader). Returns at most ``groups`` arrays of channel numbers, ascending, that share out all K channels;
    the highest summed contribution comes first.
    """
    directions = as_floats("directions", directions, (None, None))
    contributions = as_floats("contributions", contributions, (len(directions),))
    if groups < 1:
        raise ConfigError(f"{groups} groups cannot be formed.", where="groups")
    unit = unit_rows(directions).astype(np.float64)
    nearest = np.zeros(len(unit))  # largest cosine to a leader so far, at least 0
    leaders: list[int] = []
    while len(leaders) < min(groups, len(unit)):
        gain = np.maximum(contributions, 0.0) * (1.0 - nearest)
        gain[leaders] = 0.0
        leader = int(np.argmax(gain))
        if leaders and gain[leader] <= 0:
            break
        leaders.append(leader)
        nearest = np.maximum(nearest, unit @ unit[leader])
    joined = np.argmax(unit @ unit[leaders].T, axis=1)
    joined[leaders] = np.arange(len(leaders))
    members = [np.nonzero(joined == place)[0].astype(np.int64) for place in range(len(leaders))]
    return sorted(members, key=lambda channels: (-float(contributions[channels].sum()), int(channels[0])))
