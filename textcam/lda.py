"""Channel directions: one two-class linear discriminant per channel, solved for many at once.

For a channel with positives P and negatives N in embedding space, s = (S + lambda I)^-1 (mean P - mean N),
where S is the pooled within-class covariance. There are fewer examples than dimensions (2M < D), so S is
singular and shrinkage is needed: S becomes (1 - gamma) S + gamma (tr S / D) I, with gamma given by the
caller or, per channel, by the Ledoit-Wolf formula on the within-class residuals. For a given gamma this is
the direction of scikit-learn's LinearDiscriminantAnalysis(solver="lsqr", shrinkage=gamma). Its "auto"
shrinks each class on its own after scaling the dimensions; ours shrinks the pooled covariance as it is.

The solve is in the space of the n = 2M examples, not of the D dimensions. With the within-class residuals X
(n, D), d the difference of the means, kappa = n gamma (tr S / D) / (1 - gamma) and Q = (X X' + kappa I)^-1
(n x n), the same direction up to its length is d - X' Q X d (Woodbury). Q also gives, in closed form, what
each pair of examples would score if the direction were fitted without them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from store.errors import ConfigError, SchemaMismatch
from textcam.arrays import Doubles, Floats, Ids, check_shape, unit_rows
from textcam.dual import Mask, Reals, held_out, solve_gram

Shrinkage = float | Literal["ledoit-wolf"]
Side = tuple[Reals, Mask]  # examples (b, M, D) and which of them are real (b, M)
# The mean difference is the limit gamma -> 1, where held-out scores would be 0 / 0; this is as close as
# float64 can go and agrees with the limit to six digits.
_LARGEST_SHRINKAGE = 1.0 - 1e-6
_SINGLE = (0.02, 0.98)  # shrinkage for which float32 gives the direction and the held-out scores


@dataclass(frozen=True)
class ChannelDirections:
    """direction (K, D) float32 of unit length, pointing at the positives; separation (K,) float32 in [0, 1].

    Separation is ours: 2 AUC - 1, and not below 0, of positives against negatives along directions fitted
    without the pair that is compared (leave-pair-out). 0 is chance, 1 is every unseen pair in the right
    order. Channels without a direction (no examples on a side, or both means equal) have zeros and
    separation 0; with a single example on a side nothing can be held out, and separation is 0 too.
    """

    direction: Floats
    separation: Floats


def fit_directions(
    positives: NDArray[np.floating],
    negatives: NDArray[np.floating],
    *,
    shrinkage: Shrinkage,
    positive_counts: NDArray[np.integer] | None = None,
    negative_counts: NDArray[np.integer] | None = None,
    block: int = 8,
    threads: int = 1,
) -> ChannelDirections:
    """Directions from the embeddings of ``positives`` (K, M, D) and ``negatives`` (K, M', D).

    ``positive_counts`` and ``negative_counts`` (K,) say how many leading examples of a channel are real; the
    rest may hold anything. ``shrinkage`` is gamma in (0, 1] or "ledoit-wolf". ``block`` channels are solved
    together on each of ``threads`` threads; neither changes the result by a bit. ConfigError for shapes or
    shrinkage, SchemaMismatch for NaN or infinity among the real examples.
    """
    positives, negatives = np.asarray(positives), np.asarray(negatives)
    check_shape("positives", positives, (None, None, None))
    channels, _, dim = positives.shape
    check_shape("negatives", negatives, (channels, None, dim))
    real_positives = _leading("positive_counts", positive_counts, *positives.shape[:2])
    real_negatives = _leading("negative_counts", negative_counts, *negatives.shape[:2])

    def gather(part: slice) -> tuple[Side, Side]:
        return (positives[part], real_positives[part]), (negatives[part], real_negatives[part])

    return _fit(gather, channels, dim, shrinkage, block, threads)


def fit_directions_indexed(
    embeddings: NDArray[np.floating],
    positive_rows: NDArray[np.integer],
    negative_rows: NDArray[np.integer],
    *,
    shrinkage: Shrinkage,
    block: int = 8,
    threads: int = 1,
) -> ChannelDirections:
    """``fit_directions`` on rows of one matrix ``embeddings`` (N, D), which may be float16 or a memory map.

    ``positive_rows`` (K, M) and ``negative_rows`` (K, M') are row numbers, -1 where there is no example. Only
    ``block`` channels' examples are gathered at a time.
    """
    embeddings = np.asanyarray(embeddings)
    check_shape("embeddings", embeddings, (None, None))
    channels = len(positive_rows)
    for name, rows in (("positive_rows", positive_rows), ("negative_rows", negative_rows)):
        check_shape(name, rows, (channels, None))
        if rows.size and (rows.min() < -1 or rows.max() >= len(embeddings)):
            raise ConfigError(
                f"{name} name rows that the {len(embeddings)} embeddings do not have.", where=name
            )

    def gather(part: slice) -> tuple[Side, Side]:
        def side(rows: NDArray[np.integer]) -> Side:
            return embeddings[np.maximum(rows, 0)], rows >= 0

        return side(positive_rows[part]), side(negative_rows[part])

    return _fit(gather, channels, embeddings.shape[1], shrinkage, block, threads)


def mean_difference(
    positives: NDArray[np.floating], negatives: NDArray[np.floating], **options: Any
) -> ChannelDirections:
    """From the negatives' mean to the positives': full shrinkage. ``options`` as in ``fit_directions``."""
    return fit_directions(positives, negatives, shrinkage=1.0, **options)


def ridge_directions(
    embedding_covariance: Doubles, cross_covariance: Doubles, variance: Doubles, *, shrinkage: float
) -> ChannelDirections:
    """Directions from all images, not examples: ridge regression of activations on embeddings (ours).

    s_j = ((1 - gamma) C + gamma (tr C / D) I)^-1 c_j with C the covariance of the embeddings (D, D), c_j its
    covariance with activation j (D, K), and ``variance`` (K,) of the activations. Rare counter-examples
    count here, which is what breaks a link between two things that mostly go together. Separation is the
    correlation between the activation and the embedding along s_j over the same images, not below 0.
    """
    gamma = _check_shrinkage(shrinkage)
    dim, channels = np.shape(cross_covariance)
    check_shape("embedding_covariance", np.asarray(embedding_covariance), (dim, dim))
    check_shape("variance", np.asarray(variance), (channels,))
    scale = np.trace(embedding_covariance) / dim
    varies = (np.asarray(variance) > 0) & (scale > 0)
    if not varies.any():
        return ChannelDirections(np.zeros((channels, dim), np.float32), np.zeros(channels, np.float32))
    shrunk = (1 - gamma) * embedding_covariance + gamma * scale * np.eye(dim)
    solved = np.linalg.solve(shrunk, np.where(varies, cross_covariance, 0.0))  # (D, K)
    explained = np.einsum("dk,dk->k", solved, cross_covariance)
    spread = np.einsum("dk,dk->k", solved, embedding_covariance @ solved)
    size = np.sqrt(np.maximum(spread * variance, 0.0))
    correlation = np.divide(explained, size, out=np.zeros(channels), where=varies & (size > 0))
    return ChannelDirections(unit_rows(solved.T), np.clip(correlation, 0, 1).astype(np.float32))


def _leading(name: str, counts: NDArray[np.integer] | None, channels: int, places: int) -> Mask:
    if counts is None:
        return np.ones((channels, places), dtype=np.bool_)
    counts = np.asarray(counts)
    check_shape(name, counts, (channels,))
    if counts.size and (counts.min() < 0 or counts.max() > places):
        raise ConfigError(f"{name} must lie in 0 to {places}.", where=name)
    leading: Mask = np.arange(places) < counts[:, None]
    return leading


def _check_shrinkage(shrinkage: float) -> float:
    if not 0 < shrinkage <= 1:
        raise ConfigError(
            f"Shrinkage {shrinkage!r} is not in (0, 1].",
            where="shrinkage",
            fix='Give a number above 0 and up to 1 (1 is the mean difference), or "ledoit-wolf".',
        )
    return min(float(shrinkage), _LARGEST_SHRINKAGE)


def _fit(
    gather: Callable[[slice], tuple[Side, Side]],
    channels: int,
    dim: int,
    shrinkage: Shrinkage,
    block: int,
    threads: int,
) -> ChannelDirections:
    """Run the engine over blocks; ``gather`` returns a block's positives and negatives."""
    gamma = None if shrinkage == "ledoit-wolf" else _check_shrinkage(float(shrinkage))
    # float32 is twice as fast, and enough unless Q is badly conditioned or nearly a multiple of I.
    kind = np.float32 if gamma is not None and _SINGLE[0] <= gamma <= _SINGLE[1] else np.float64
    direction = np.zeros((channels, dim), dtype=np.float32)
    separation = np.zeros(channels, dtype=np.float32)

    def solve(start: int) -> None:
        part = slice(start, min(start + block, channels))
        direction[part], separation[part] = _solve(*gather(part), gamma, np.dtype(kind), start)

    # One BLAS thread a block: small matrices gain nothing from more, and bits do not depend on the number.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max(threads, 1)) as pool:
        list(pool.map(solve, range(0, channels, block)))
    return ChannelDirections(direction, separation)


def _solve(
    positives: Side, negatives: Side, gamma: float | None, kind: np.dtype[Any], first_channel: int
) -> tuple[Floats, Doubles]:
    """Unit directions (b, D) and separations (b,) of one block of channels."""
    sides, (positive, negative) = (positives, negatives), (positives[1], negatives[1])
    n_pos, n_neg = positive.sum(axis=1), negative.sum(axis=1)  # (b,)
    n, dim, split = np.maximum(n_pos + n_neg, 1), positives[0].shape[2], positive.shape[1]
    residuals = np.empty((len(n), split + negative.shape[1], dim), dtype=kind)  # X (b, n, D)
    places = (residuals[:, :split], residuals[:, split:])
    means = [_centre(*side, into) for side, into in zip(sides, places, strict=True)]
    difference = means[0] - means[1]  # (b, D); NaN or infinity in any example shows here
    if not np.isfinite(difference).all():
        _refuse_nan(sides, first_channel)
    usable = (n_pos > 0) & (n_neg > 0) & difference.any(axis=1)

    gram = np.matmul(residuals, residuals.swapaxes(1, 2))  # (b, n, n)
    scatter = np.trace(gram, axis1=1, axis2=2, dtype=np.float64)
    amount = _ledoit_wolf(gram, n, dim) if gamma is None else np.full(len(n), gamma)
    # Without spread inside the classes nothing corrects the mean difference: any ridge gives its direction.
    ridge = np.where(scatter > 0, amount / (1 - amount) * scatter / dim, 1.0)
    np.einsum("bii->bi", gram)[...] += ridge[:, None].astype(kind)

    along = np.matmul(residuals, difference[:, :, None].astype(kind))  # X d (b, n, 1)
    solved, diagonal, cross = solve_gram(gram, along, split)
    direction = difference - np.matmul(solved.swapaxes(1, 2), residuals)[:, 0]  # (b, D)
    # kappa d' (X'X + kappa I)^-1 d, by the same identity
    within = np.maximum(np.square(difference).sum(axis=1) - (along * solved).sum(axis=(1, 2)), 0.0)
    separation = held_out(solved, diagonal, cross, ridge, within, positive, negative)
    separation = np.where(usable & (np.minimum(n_pos, n_neg) > 1), separation, 0.0)
    return unit_rows(np.where(usable[:, None], direction, 0.0)), separation


def _centre(examples: Reals, real: Mask, into: Reals) -> Doubles:
    """Write examples minus their mean ``into`` (b, M, D), zeros where not real; returns the means (b, D)."""
    if not real.all():
        examples = np.where(real[:, :, None], examples, 0)
    count = np.maximum(real.sum(axis=1), 1)[:, None]
    mean: Doubles = examples.sum(axis=1, dtype=np.float64) / count
    with np.errstate(invalid="ignore"):  # infinity is refused by the caller, who sees it in the mean
        np.subtract(examples, mean[:, None, :].astype(into.dtype), out=into, casting="same_kind")
    if not real.all():
        into *= real[:, :, None]
    return mean


def _refuse_nan(sides: tuple[Side, Side], first_channel: int) -> None:
    for name, (examples, real) in zip(("positive", "negative"), sides, strict=True):
        for channel, place in np.argwhere(~np.isfinite(examples).all(axis=2) & real):
            raise SchemaMismatch(
                f"A {name} example's embedding holds NaN or infinity.",
                where=f"channel {first_channel + channel}, example {place}",
                fix="Leave the image out and record it as an error.",
            )


def _ledoit_wolf(gram: Reals, n: Ids, dim: int) -> Doubles:
    """Ledoit-Wolf shrinkage (b,) of the pooled covariance, from the residuals' Gram matrix (b, n, n).

    Ledoit and Wolf 2004 with the means taken as known: beta^2 / delta^2, both from sums over examples only,
    since tr S^2 = |Gram|^2 / n^2 and the sum of all squared outer products is that of their norms' fourth
    powers.
    """
    norms = np.square(np.diagonal(gram, axis1=1, axis2=2)).sum(axis=1)
    second = np.square(gram).sum(axis=(1, 2)) / n**2  # tr S^2
    mean = np.trace(gram, axis1=1, axis2=2) / (n * dim)
    delta = second - dim * mean**2
    beta = np.minimum((norms / n - second) / n, delta)
    shrink = np.divide(beta, delta, out=np.ones(len(n)), where=delta > 0)
    clipped: Doubles = np.clip(shrink, 1e-6, _LARGEST_SHRINKAGE)
    return clipped
