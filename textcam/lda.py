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

Shrinkage = float | Literal["ledoit-wolf"]
Mask = NDArray[np.bool_]
Reals = NDArray[np.floating[Any]]
# The mean difference is the limit gamma -> 1, where held-out scores would be 0 / 0; this is as close as
# float64 can go and agrees with the limit to six digits.
_LARGEST_SHRINKAGE = 1.0 - 1e-6
_SINGLE = (0.1, 0.98)  # shrinkage for which float32 gives the direction and the held-out scores
_SMALLEST_PIECE = 32  # matrices below this size are inverted by LAPACK


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
    block: int = 4,
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

    def gather(part: slice) -> tuple[Reals, Mask, Mask]:
        examples = np.concatenate([positives[part], negatives[part]], axis=1)
        return examples, real_positives[part], real_negatives[part]

    return _fit(gather, channels, dim, shrinkage, block, threads)


def fit_directions_indexed(
    embeddings: NDArray[np.floating],
    positive_rows: NDArray[np.integer],
    negative_rows: NDArray[np.integer],
    *,
    shrinkage: Shrinkage,
    block: int = 4,
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

    def gather(part: slice) -> tuple[Reals, Mask, Mask]:
        rows = np.concatenate([positive_rows[part], negative_rows[part]], axis=1)
        return embeddings[np.maximum(rows, 0)], positive_rows[part] >= 0, negative_rows[part] >= 0

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
    gather: Callable[[slice], tuple[Reals, Mask, Mask]],
    channels: int,
    dim: int,
    shrinkage: Shrinkage,
    block: int,
    threads: int,
) -> ChannelDirections:
    """Run the engine over blocks; ``gather`` returns a block's examples (b, n, D) and its masks."""
    gamma = None if shrinkage == "ledoit-wolf" else _check_shrinkage(float(shrinkage))
    # float32 is twice as fast, and enough unless Q is badly conditioned or nearly a multiple of I.
    kind = np.float32 if gamma is not None and _SINGLE[0] <= gamma <= _SINGLE[1] else np.float64
    direction = np.zeros((channels, dim), dtype=np.float32)
    separation = np.zeros(channels, dtype=np.float32)

    def solve(start: int) -> None:
        part = slice(start, min(start + block, channels))
        examples, positive, negative = gather(part)
        examples = examples.astype(kind, copy=False)
        direction[part], separation[part] = _solve(examples, positive, negative, gamma, start)

    # One BLAS thread per block: small matrices gain nothing from more, and the bits do not depend on their
    # number.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max(threads, 1)) as pool:
        list(pool.map(solve, range(0, channels, block)))
    return ChannelDirections(direction, separation)


def _solve(
    examples: Reals, positive: Mask, negative: Mask, gamma: float | None, first_channel: int
) -> tuple[Floats, Doubles]:
    """Unit directions (b, D) and separations (b,) of one block; ``examples`` (b, n, D) is overwritten."""
    kind, dim, side = examples.dtype, examples.shape[2], positive.shape[1]
    real = np.concatenate([positive, negative], axis=1)  # (b, n)
    if not real.all():
        examples[~real] = 0.0
    n_pos, n_neg = positive.sum(axis=1), negative.sum(axis=1)  # (b,)
    n = np.maximum(n_pos + n_neg, 1)
    mean_pos = examples[:, :side].sum(axis=1, dtype=np.float64) / np.maximum(n_pos, 1)[:, None]
    mean_neg = examples[:, side:].sum(axis=1, dtype=np.float64) / np.maximum(n_neg, 1)[:, None]
    difference = mean_pos - mean_neg  # (b, D); NaN or infinity in any example shows up here
    if not np.isfinite(difference).all():
        _refuse(examples, first_channel)
    for rows, mean, held in ((slice(side), mean_pos, positive), (slice(side, None), mean_neg, negative)):
        off = mean[:, None, :].astype(kind)
        examples[:, rows] -= off if held.all() else off * held[:, :, None]
    usable = (n_pos > 0) & (n_neg > 0) & difference.any(axis=1)

    gram = np.matmul(examples, examples.swapaxes(1, 2))  # (b, n, n), examples are residuals by now
    scatter = np.trace(gram, axis1=1, axis2=2, dtype=np.float64)
    amount = _ledoit_wolf(gram, n, dim) if gamma is None else np.full(len(n), gamma)
    # Without spread inside the classes nothing corrects the mean difference: any ridge gives its direction.
    ridge = np.where(scatter > 0, amount / (1 - amount) * scatter / dim, 1.0)
    np.einsum("bii->bi", gram)[...] += ridge[:, None].astype(kind)

    inverse = inverse_spd(gram)
    along = np.matmul(examples, difference[:, :, None].astype(kind))  # X d (b, n, 1)
    solved = np.matmul(inverse, along)  # Q X d
    direction = difference - np.matmul(solved.swapaxes(1, 2), examples)[:, 0]  # (b, D)
    # kappa d' (X'X + kappa I)^-1 d, by the same identity
    within = np.maximum(np.square(difference).sum(axis=1) - (along * solved).sum(axis=(1, 2)), 0.0)
    separation = _held_out(inverse, solved[:, :, 0], ridge, within, positive, negative)
    separation = np.where(usable & (np.minimum(n_pos, n_neg) > 1), separation, 0.0)
    return unit_rows(np.where(usable[:, None], direction, 0.0)), separation


def _refuse(examples: Reals, first_channel: int) -> None:
    channel, place, dim = (int(i) for i in np.argwhere(~np.isfinite(examples))[0])
    raise SchemaMismatch(
        "An example's embedding holds NaN or infinity.",
        where=f"channel {first_channel + channel}, example {place}, dimension {dim}",
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


def inverse_spd(matrix: Reals) -> Reals:
    """Inverses of symmetric positive definite matrices (b, n, n), by Schur complements of halves.

    Nearly all work is batched matrix products, which makes this several times as fast as a batched LAPACK
    inverse at the sizes that occur here.
    """
    size = matrix.shape[1]
    if size <= _SMALLEST_PIECE:
        small: Reals = np.linalg.inv(matrix)
        return small
    half = size // 2
    first = inverse_spd(np.ascontiguousarray(matrix[:, :half, :half]))
    across = np.matmul(first, matrix[:, :half, half:])  # (b, half, rest)
    complement: Reals = matrix[:, half:, half:] - np.matmul(matrix[:, half:, :half], across)
    rest = inverse_spd(complement)
    back = np.matmul(across, rest)
    inverse: Reals = np.empty_like(matrix)
    inverse[:, half:, half:] = rest
    inverse[:, :half, half:] = -back
    inverse[:, half:, :half] = -back.swapaxes(1, 2)
    inverse[:, :half, :half] = first + np.matmul(back, across.swapaxes(1, 2))
    return inverse


def _held_out(
    inverse: Reals, solved: Reals, ridge: Doubles, within: Doubles, positive: Mask, negative: Mask
) -> Doubles:
    """2 AUC - 1 (b,) over all pairs of a positive and a negative, scored by the fit without them (ours).

    The discriminant is ridge regression of the centred labels z on the embeddings. With R = I - H its
    residual matrix and e = R z, leaving out a pair predicts its labels as z - R_SS^-1 e_S, so positive i
    scores above negative j if and only if det R_SS > e_i (R_jj + R_ij) - e_j (R_ii + R_ij). kappa is kept
    from the whole fit.

    H contains the difference of the means, which Q does not. That is one more rank: with q = Q X d,
    m = d' (X'X + kappa I)^-1 d, c = z'z and the shared factor f = 1 / (1 + c m),
    e = f (z - c q) and R = kappa Q - 1 1' / n - f (m z z' + z q' + q z' - c q q'), nothing large cancelling.
    """
    kind, side = inverse.dtype, positive.shape[1]
    n_pos, n_neg = positive.sum(axis=1), negative.sum(axis=1)
    n = np.maximum(n_pos + n_neg, 1)
    z = np.concatenate([positive * (n_neg / n)[:, None], negative * (-n_pos / n)[:, None]], axis=1)
    norm, gain = n_pos * n_neg / n, within / ridge
    factor = 1.0 / (1.0 + norm * gain)

    def columns(*each: Reals) -> list[Reals]:
        return [one.reshape(len(n), -1, 1).astype(kind) for one in each]

    label, q, f, m, c, shift, kappa = columns(z, solved, factor, gain, norm, 1.0 / n, ridge)
    left, right = f * (m * label + q), f * (label - c * q)  # R = kappa Q - 1/n - left z' - right q'
    own = kappa * np.einsum("bii->bi", inverse)[:, :, None] - shift - left * label - right * q  # R_ii
    rows, columns_ = slice(None, side), slice(side, None)
    cross = kappa * inverse[:, rows, columns_] - shift
    cross -= np.matmul(
        np.concatenate([left, right], axis=2)[:, rows],
        np.concatenate([label, q], axis=2)[:, columns_].swapaxes(1, 2),
    )  # R_ij (b, M, M')
    own_i, own_j = own[:, rows], own[:, columns_].swapaxes(1, 2)
    error_i, error_j = right[:, rows], right[:, columns_].swapaxes(1, 2)
    gap = own_i * own_j - cross * cross - error_i * (own_j + cross) + error_j * (own_i + cross)
    pairs = positive[:, :, None] & negative[:, None, :]
    right_order = np.count_nonzero((gap > 0) & pairs, axis=(1, 2))
    area = right_order / np.maximum(n_pos * n_neg, 1)
    result: Doubles = np.clip(2 * area - 1, 0, 1)
    return result
