"""Slow twins: every numeric function again, straight from its formula, loops instead of tricks."""

import itertools
import math
from fractions import Fraction

import numpy as np
from scipy.optimize import nnls

# --- class activation maps ----------------------------------------------------------------------------------


def saliency_map(maps, weights):
    batch, channels, height, width = maps.shape
    made = np.zeros((batch, height, width))
    for b, j, y, x in itertools.product(range(batch), range(channels), range(height), range(width)):
        made[b, y, x] += float(weights[b, j]) * float(maps[b, j, y, x])
    return made


def gradcam_plus_plus(gradients, maps):
    """alpha = g^2 / (2 g^2 + g^3 sum A), weight = sum over cells of alpha * relu(g)."""
    batch, channels = maps.shape[:2]
    made = np.zeros((batch, channels))
    for b, j in itertools.product(range(batch), range(channels)):
        total = math.fsum(float(a) for a in maps[b, j].ravel())
        for g in (float(v) for v in gradients[b, j].ravel()):
            denominator = 2 * g**2 + g**3 * total
            if g != 0 and denominator != 0:
                made[b, j] += g**2 / denominator * max(g, 0.0)
    return made


def enlarged(small, height, width):
    """Bilinear, corner cells at the corners: (h, w) -> (height, width)."""
    made = np.zeros((height, width))
    for y, x in itertools.product(range(height), range(width)):
        v, u = (y * (small.shape[0] - 1) / (height - 1), x * (small.shape[1] - 1) / (width - 1))
        top, left = min(int(v), small.shape[0] - 2), min(int(u), small.shape[1] - 2)
        for i, j in itertools.product((0, 1), (0, 1)):
            share = abs(1 - i - (v - top)) * abs(1 - j - (u - left))
            made[y, x] += share * float(small[top + i, left + j])
    return made


def score_increases(logit_of, image, maps):
    """logit(image * mask) - logit(0) for each channel's map (K, h, w), brought to 0..1."""
    made = []
    for channel in maps:
        mask = enlarged(channel, *image.shape[1:])
        spread = mask.max() - mask.min()
        mask = (mask - mask.min()) / spread if spread > 0 else np.zeros_like(mask)
        made.append(logit_of(image * mask) - logit_of(np.zeros_like(image)))
    return np.array(made)


def ablation_drops(logit_of_maps, maps):
    """logit - logit with channel j of the maps (K, h, w) set to zero."""
    made = []
    for j in range(len(maps)):
        without = maps.copy()
        without[j] = 0
        made.append(logit_of_maps(maps) - logit_of_maps(without))
    return np.array(made)


def shapley_weights(logit_of_maps, maps, step=1e-3):
    """Sum over cells of g - (H A) / 2, by differences of the logit along the cells and along the maps."""

    def slope(at, j, y, x):
        plus, minus = at.copy(), at.copy()
        plus[j, y, x] += step
        minus[j, y, x] -= step
        return (logit_of_maps(plus) - logit_of_maps(minus)) / (2 * step)

    made = np.zeros(len(maps))
    for j, y, x in itertools.product(*(range(size) for size in maps.shape)):
        along = (slope(maps * (1 + step), j, y, x) - slope(maps * (1 - step), j, y, x)) / (2 * step)
        made[j] += slope(maps, j, y, x) - along / 2
    return made


# --- examples and moments -----------------------------------------------------------------------------------


def splitmix64(image_id):
    mask = 2**64 - 1
    x = (image_id + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def examples(image_ids, activations, count):
    """(positives, negatives) of one channel as lists of (image_id, activation), most extreme first."""
    order = sorted(
        ((float(a), splitmix64(int(i)), int(i)) for i, a in zip(image_ids, activations, strict=True)),
        reverse=True,
    )
    upper = order[: min(count, math.ceil(len(order) / 2))]
    lower = order[::-1][: min(count, len(order) // 2)]
    if upper and lower and upper[-1][0] == lower[-1][0]:
        tie = upper[-1][0]
        above = [one for one in upper if one[0] > tie]
        below = [one for one in lower if one[0] < tie]
        # A side that has others gives up the tied ones; if neither has, the channel is constant.
        upper, lower = (
            (above if above else upper if below else []),
            (below if below else lower if above else []),
        )
    return [(i, a) for a, _, i in upper], [(i, a) for a, _, i in lower]


def moments(pooled, embeddings, activation_bits, embedding_bits):
    """Mean, variance and both covariances in exact rational arithmetic on rounded inputs, as floats."""
    a = [[Fraction(round(float(v) * 2**activation_bits), 2**activation_bits) for v in row] for row in pooled]
    e = [
        [Fraction(round(float(v) * 2**embedding_bits), 2**embedding_bits) for v in row] for row in embeddings
    ]
    n = len(a)

    def mean(rows, j):
        return sum(row[j] for row in rows) / n

    def covariance(left, i, right, j):
        both = sum(x[i] * y[j] for x, y in zip(left, right, strict=True)) / n
        return float(both - mean(left, i) * mean(right, j))

    k, d = range(len(a[0])), range(len(e[0]))
    return {
        "mean": np.array([float(mean(a, j)) for j in k]),
        "variance": np.array([covariance(a, j, a, j) for j in k]),
        "embedding_mean": np.array([float(mean(e, i)) for i in d]),
        "embedding_covariance": np.array([[covariance(e, i, e, j) for j in d] for i in d]),
        "cross_covariance": np.array([[covariance(e, i, a, j) for j in k] for i in d]),
    }


# --- directions ---------------------------------------------------------------------------------------------


def within_class(positives, negatives):
    residuals = np.concatenate([positives - positives.mean(axis=0), negatives - negatives.mean(axis=0)])
    return residuals.T @ residuals / len(residuals)


def direction(positives, negatives, gamma):
    """((1 - gamma) S + gamma tr(S)/D I)^-1 (mean difference) in D x D, unit length, float64."""
    p, n = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    covariance = within_class(p, n)
    dim = len(covariance)
    shrunk = (1 - gamma) * covariance + gamma * np.trace(covariance) / dim * np.eye(dim)
    solved = np.linalg.solve(shrunk, p.mean(axis=0) - n.mean(axis=0))
    return solved / np.linalg.norm(solved)


def ledoit_wolf(positives, negatives):
    """beta^2 / delta^2 of the within-class residuals, means known: D x D matrices, a loop over examples."""
    p, n = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    covariance = within_class(p, n)
    residuals = np.concatenate([p - p.mean(axis=0), n - n.mean(axis=0)])
    count, dim = residuals.shape
    target = np.trace(covariance) / dim * np.eye(dim)
    delta = np.sum((covariance - target) ** 2)
    beta = sum(np.sum((np.outer(x, x) - covariance) ** 2) for x in residuals) / count**2
    return min(beta, delta) / delta


def separation(positives, negatives, gamma):
    """2 AUC - 1 over all pairs, refitting the ridge form without each pair; ridge as in the whole fit."""
    p, n = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    count, dim = len(p) + len(n), p.shape[1]
    ridge = count * gamma / (1 - gamma) * np.trace(within_class(p, n)) / dim
    right = 0.0
    for i, j in itertools.product(range(len(p)), range(len(n))):
        rest = np.concatenate([np.delete(p, i, axis=0), np.delete(n, j, axis=0)])
        labels = np.array([1.0] * (len(p) - 1) + [0.0] * (len(n) - 1))
        centred = rest - rest.mean(axis=0)
        fitted = np.linalg.solve(
            centred.T @ centred + ridge * np.eye(dim), centred.T @ (labels - labels.mean())
        )
        right += float(p[i] @ fitted > n[j] @ fitted)
    return max(0.0, 2 * right / (len(p) * len(n)) - 1)


# --- words --------------------------------------------------------------------------------------------------


def problem(texts, decorrelation, centre=True):
    """(phi, Q): texts as the problem uses them, and the quadratic form phi phi' + decorrelation * c^2."""
    centred = texts.astype(np.float64) - texts.astype(np.float64).mean(axis=0)
    apart = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    lengths = [float(row @ row) for row in centred]
    phi = centred / math.sqrt(sum(lengths) / len(lengths)) if centre else texts.astype(np.float64)
    return phi, phi @ phi.T + decorrelation * (apart @ apart.T) ** 2


def coefficients(target, texts, sparsity, decorrelation, centre=True):
    """The problem of word selection for one unit target, as non-negative least squares of a root of Q.

    b'Q b - 2 l'b is |R b - R^-T l|^2 up to a constant where R'R = Q, on the span of Q.
    """
    phi, quadratic = problem(texts, decorrelation, centre)
    values, vectors = np.linalg.eigh(quadratic)
    keep = values > 1e-10
    root = np.sqrt(values[keep])[:, None] * vectors[:, keep].T
    linear = phi @ target - sparsity / 2
    if keep.all():
        return nnls(root, (vectors.T @ linear) / np.sqrt(values))[0]
    # Where Q is singular, what sparsity adds outside its span is met by one more, very weak row each.
    weak = 1e-5 * vectors[:, ~keep].T
    outside = (vectors[:, ~keep].T @ linear) / 1e-5
    inside = (vectors[:, keep].T @ linear) / np.sqrt(values[keep])
    return nnls(np.concatenate([root, weak]), np.concatenate([inside, outside]))[0]


def objective(b, target, texts, sparsity, decorrelation, centre=True):
    phi, _ = problem(texts, 0.0, centre)
    centred = texts.astype(np.float64) - texts.astype(np.float64).mean(axis=0)
    apart = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    miss = target - sum(b[s] * phi[s] for s in range(len(b)))
    synonyms = sum(
        b[s] * b[t] * float(apart[s] @ apart[t]) ** 2
        for s, t in itertools.product(range(len(b)), range(len(b)))
    )
    return float(miss @ miss + sparsity * sum(b) + decorrelation * synonyms)
