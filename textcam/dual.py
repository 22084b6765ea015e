"""The linear discriminant in the space of its examples: solve there, and score pairs of examples held out.

Notation as in ``lda``: X (n, D) the within-class residuals of n examples, positives before negatives, d the
difference of the means, kappa the ridge, Q = (X X' + kappa I)^-1. Everything is batched over b channels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from store.errors import ConfigError
from textcam.arrays import Doubles

Mask = NDArray[np.bool_]
Reals = NDArray[np.floating[Any]]


def solve_gram(gram: Reals, right: Reals, split: int) -> tuple[Reals, Reals, Reals]:
    """What is needed of Q, the inverse of ``gram`` (b, n, n): Q X d, its diagonal, its upper right block.

    ``right`` is X d (b, n, 1); the block is (b, split, n - split). ``gram`` is overwritten. By Cholesky
    factors: plain halving with Schur complements is no faster and loses all digits where n > D.
    """
    factor, invert = get_lapack_funcs(("potrf", "trtri"), (gram,))
    for matrix in gram:  # in place: gram = U' U. LAPACK stores by columns, so its lower is our upper
        _, failed = factor(matrix.T, lower=1, clean=1, overwrite_a=1)
        if failed:
            raise ConfigError(
                "The shrinkage is too small for this precision: a covariance is singular.",
                where="shrinkage",
                fix="Use more shrinkage.",
            )
    first, second = gram[:, :split, :split].copy(), gram[:, split:, split:].copy()
    for triangle in (*first, *second):
        invert(triangle.T, lower=1, overwrite_c=1)
    across = np.matmul(np.matmul(-first, gram[:, :split, split:]), second)  # the inverse of U, upper right
    top, low = right[:, :split], right[:, split:]
    half_top = np.matmul(first.swapaxes(1, 2), top)
    half_low = np.matmul(across.swapaxes(1, 2), top) + np.matmul(second.swapaxes(1, 2), low)
    solved = [np.matmul(first, half_top) + np.matmul(across, half_low), np.matmul(second, half_low)]
    squares = [np.einsum("bij,bij->bi", part, part) for part in (first, across, second)]
    return (
        np.concatenate(solved, axis=1),
        np.concatenate([squares[0] + squares[1], squares[2]], axis=1),
        np.matmul(across, second.swapaxes(1, 2)),
    )


def held_out(
    solved: Reals,
    diagonal: Reals,
    cross: Reals,
    ridge: Doubles,
    within: Doubles,
    positive: Mask,
    negative: Mask,
) -> Doubles:
    """2 AUC - 1 (b,) over all pairs of a positive and a negative, scored by the fit without them (ours).

    The discriminant is ridge regression of the centred labels z on the embeddings. With R = I - H its
    residual matrix and e = R z, leaving out a pair S predicts its labels as z - R_SS^-1 e_S. So positive i
    scores above negative j if and only if det R_SS > e_i (R_jj + R_ij) - e_j (R_ii + R_ij), which is
    (R_ii - e_i) (R_jj + e_j) + e_i e_j > R_ij (R_ij + e_i - e_j). kappa is kept from the whole fit.

    H contains the difference of the means, which Q does not. That is one more rank: with q = Q X d,
    m = d' (X'X + kappa I)^-1 d, c = z'z and f = 1 / (1 + c m), e = f (z - c q) and
    R = kappa Q - 1 1' / n - f (m z z' + z q' + q z' - c q q'), where nothing large cancels.
    """
    kind, split = solved.dtype, positive.shape[1]
    n_pos, n_neg = positive.sum(axis=1), negative.sum(axis=1)
    n = np.maximum(n_pos + n_neg, 1)
    labels = np.concatenate([positive * (n_neg / n)[:, None], negative * (-n_pos / n)[:, None]], axis=1)
    z, q = labels[:, :, None].astype(kind), solved  # (b, n, 1)
    c, m = n_pos * n_neg / n, within / ridge
    f, fm, fc, shift, kappa = (
        one[:, None, None].astype(kind)
        for one in (1 / (1 + c * m), m / (1 + c * m), c / (1 + c * m), 1 / n, ridge)
    )
    left, error = fm * z + f * q, f * z - fc * q  # R = kappa Q - 1/n - left z' - error q'
    own = kappa * diagonal[:, :, None] - shift - left * z - error * q  # R_ii
    i, j = slice(None, split), slice(split, None)
    ones = np.broadcast_to(shift, z.shape)
    r = kappa * cross  # R_ij (b, M, M')
    r -= _outer([ones[:, i], left[:, i], error[:, i]], [np.ones_like(z[:, j]), z[:, j], q[:, j]])
    r *= r + (error[:, i] - error[:, j].swapaxes(1, 2))
    above = _outer([own[:, i] - error[:, i], error[:, i]], [own[:, j] + error[:, j], error[:, j]]) > r
    if not (positive.all() and negative.all()):
        above &= positive[:, :, None] & negative[:, None, :]
    area = np.count_nonzero(above, axis=(1, 2)) / np.maximum(n_pos * n_neg, 1)
    result: Doubles = np.clip(2 * area - 1, 0, 1)
    return result


def _outer(left: list[Reals], right: list[Reals]) -> Reals:
    """The sum of outer products (b, M, M') of columns (b, M, 1) and (b, M', 1)."""
    product: Reals = np.matmul(np.concatenate(left, axis=2), np.concatenate(right, axis=2).swapaxes(1, 2))
    return product
