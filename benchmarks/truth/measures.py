"""Measures of words and maps against the truth.

Channel labels are judged by measures that pass the sanity checks of NeuronEval (Oikarinen et al., ICML
2025, "Evaluating Neuron Explanations"): they fall when labels are missing and when labels are too many.
Accuracy, AUC and mean activation difference alone do not, and are not here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from benchmarks.truth.evidence import Array, Labelled

Floats = NDArray[np.float64]


def label_measures(labelled: Labelled, named: Array) -> dict[str, Floats]:
    """How well the text ``named`` (K,) of each channel tells when it fires: five arrays (K,).

    Pearson correlation and cosine of activation and label; AUPRC of the activation as a score for the
    label; F1 and IoU with the activation cut so that as many images are above it as show the label. A
    channel that does not vary, or a text that no image or every image shows, scores 0; so does no text, -1.
    """
    pooled, labels = labelled.as_references()
    names = ("pearson", "cosine", "auprc", "f1", "iou")
    made = {name: np.zeros(len(named)) for name in names}
    for channel, text in enumerate(named):
        if text < 0:
            continue
        a, c = pooled[:, channel], labels[:, text]
        if a.std() == 0 or c.std() == 0:
            continue
        made["pearson"][channel] = np.corrcoef(a, c)[0, 1]
        made["cosine"][channel] = a @ c / (np.linalg.norm(a) * np.linalg.norm(c))
        made["auprc"][channel] = average_precision_score(c, a)
        fires = np.zeros(len(a), bool)
        fires[np.argsort(-a, kind="stable")[: int(c.sum())]] = True
        both, either = (fires & (c > 0)).sum(), (fires | (c > 0)).sum()
        made["iou"][channel] = both / either
        made["f1"][channel] = 2 * both / (fires.sum() + c.sum())
    return made


def named_right(scores: Array, meanings: Array, top: int) -> Floats:
    """(K,) 1 where all meanings of a channel are among its ``top`` texts by ``scores`` (K, T), else 0.

    With ``top`` below the number of meanings: 1 where all of the ``top`` texts are meanings.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    hits = np.take_along_axis(meanings, best, axis=1).sum(axis=1)
    made: Floats = (hits == np.minimum(meanings.sum(axis=1), top)).astype(np.float64)
    return made


def auprc(truth: Array, scores: Array) -> float:
    """Area under the precision-recall curve (average precision) of ``scores`` (n,) for ``truth`` (n,)."""
    return float(average_precision_score(truth, scores)) if np.any(truth) else float("nan")


def energy_ratio(maps: Array, masks: Array) -> Floats:
    """(B,) the share of a map's positive part that lies on the mask, against the share of a uniform map.

    maps (B, H, W), masks (B, H, W) of bool. 1 is chance; 0 where the map has no positive part; NaN where the
    mask is empty.
    """
    positive = np.maximum(maps, 0)
    total = positive.sum((1, 2))
    area = masks.mean((1, 2))
    on_mask = np.divide((positive * masks).sum((1, 2)), total, out=np.zeros(len(maps)), where=total > 0)
    return np.divide(on_mask, area, out=np.full(len(maps), np.nan), where=area > 0)


def pointing(maps: Array, masks: Array) -> Floats:
    """(B,) 1 where the highest cell of the map (B, H, W) lies on the mask; NaN where the mask is empty.

    Of an enlarged cell its first pixel counts: convolutions of stride 2 with one pixel of padding centre what
    a cell sees there, not in its middle (by the middle, fewer parts of creatures were hit).
    """
    best = maps.reshape(len(maps), -1).argmax(1)
    hit = np.take_along_axis(masks.reshape(len(masks), -1), best[:, None], 1)[:, 0].astype(float)
    return np.where(masks.any((1, 2)), hit, np.nan)


def map_iou(maps: Array, masks: Array) -> Floats:
    """(B,) overlap of the mask with as many of the map's highest cells as the mask has; NaN without a
    mask.
    """
    flat, wanted = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1)
    made = np.full(len(maps), np.nan)
    for row in np.flatnonzero(wanted.any(1)):
        chosen = np.zeros(flat.shape[1], bool)
        chosen[np.argsort(-flat[row], kind="stable")[: wanted[row].sum()]] = True
        made[row] = (chosen & wanted[row]).sum() / (chosen | wanted[row]).sum()
    return made


def calibration_error(confidence: Array, right: Array, bins: int = 10) -> float:
    """Expected calibration error: |mean confidence - share right| over equally filled bins, by their size."""
    order = np.argsort(confidence, kind="stable")
    pieces = [piece for piece in np.array_split(order, bins) if len(piece)]
    gaps = [abs(confidence[piece].mean() - right[piece].mean()) * len(piece) for piece in pieces]
    return float(sum(gaps) / len(order))


def bootstrap(
    samples: Array, statistic: Callable[..., Array] = np.nanmean, *, draws: int = 1000
) -> tuple[float, float, float]:
    """The statistic of ``samples`` (n,) or (n, ...), and the bounds of 95 in 100 resamples of the first
    axis.
    """
    samples = np.asarray(samples, float)
    drawn = np.random.default_rng(0).integers(0, len(samples), (draws, len(samples)))
    each = [float(statistic(samples[rows])) for rows in drawn]
    low, high = np.nanquantile(each, (0.025, 0.975))
    return float(statistic(samples)), float(low), float(high)
