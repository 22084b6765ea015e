"""Slow twins of the audit's numerics: one image, pair or pixel at a time, straight from the formula."""

from fractions import Fraction
from math import comb, exp

import numpy as np


def fisher(hits_with, n_with, hits_without, n_without):
    """Two-sided Fisher p in exact arithmetic: all tables with these margins, those no likelier than this."""
    hits, n = hits_with + hits_without, n_with + n_without

    def chance(k):
        return Fraction(comb(n_with, k) * comb(n_without, hits - k), comb(n, hits))

    possible = range(max(0, hits - n_without), min(n_with, hits) + 1)
    return float(sum(chance(k) for k in possible if chance(k) <= chance(hits_with)))


def wilson(hits, trials, z):
    """The rates p0 that are not rejected: |p - p0| = z * sqrt(p0 (1 - p0) / n), by bisection."""
    p = hits / trials

    def rejected(p0):
        return abs(p - p0) > z * (p0 * (1 - p0) / trials) ** 0.5

    ends = []
    for far in (0.0, 1.0):
        out, inside = far, p
        for _ in range(200):
            middle = (out + inside) / 2
            out, inside = (middle, inside) if rejected(middle) else (out, middle)
        ends.append(inside)
    return tuple(ends)


def best_q(p):
    """Benjamini and Hochberg from the definition: the smallest level at which pair i is rejected."""
    m = len(p)

    def rejected(level):
        passing = [k for k in range(1, m + 1) if sorted(p)[k - 1] <= k * level / m + 1e-15]
        return [one <= sorted(p)[max(passing) - 1] for one in p] if passing else [False] * m

    levels = sorted({min(1.0, value * m / k) for value in p for k in range(1, m + 1)})
    return [next(level for level in levels if rejected(level)[i]) for i in range(m)]


def flips(pooled, weights, bias, group_of, replacement, labels, present, class_id, text, group):
    """(with n, with flips, without n, without flips) of one pair."""
    counted = [0, 0, 0, 0]
    for image in range(len(pooled)):
        before = [float(np.dot(weights[c], pooled[image]) + bias[c]) for c in range(len(bias))]
        if np.argmax(before) != labels[image] or labels[image] != class_id:
            continue
        changed = np.array(pooled[image], np.float64)
        for channel in range(len(group_of)):
            if group_of[channel] == group:
                changed[channel] = replacement[channel]
        after = [float(np.dot(weights[c], changed) + bias[c]) for c in range(len(bias))]
        side = 0 if present[image, text] else 2
        counted[side] += 1
        counted[side + 1] += int(np.argmax(after) != class_id)
    return tuple(counted)


def cut_in_two(values):
    """Otsu: the cut with the largest variance between the parts, over all cuts."""
    ordered = sorted(values)
    best, where = -1.0, None
    for i in range(1, len(ordered)):
        low, high = ordered[:i], ordered[i:]
        if low[-1] == high[0]:
            continue
        between = len(low) * len(high) * (np.mean(low) - np.mean(high)) ** 2
        if between > best:
            best, where = between, high[0]
    return where


def smooth(image, area, radius):
    """A Gaussian mean of the area's own pixels, cut off at four standard deviations."""
    reach = int(4 * radius + 0.5)
    result = image.copy()
    for y, x in np.argwhere(area):
        total, weight = np.zeros(3), 0.0
        for v, u in np.argwhere(area):
            if abs(v - y) <= reach and abs(u - x) <= reach:
                w = exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * radius**2))
                total, weight = total + w * image[v, u], weight + w
        result[y, x] = np.rint(total / weight)
    return result


def carrier(contributions, directions, group_of, texts, class_id, text):
    """The group with the largest sum of contribution times similarity with the text minus the mean text."""
    sums = {}
    for channel, group in enumerate(group_of):
        aligned = float(np.dot(directions[channel], texts[text] - texts.mean(axis=0)))
        sums[group] = sums.get(group, 0.0) + float(contributions[class_id, channel]) * aligned
    return max(sums, key=lambda group: sums[group])
