"""Two ways to find a classifier's biases that know nothing of channels, made for comparison from their
papers.

Both see what the audit sees: image embeddings, text embeddings, labels, predictions. Both describe images
that fail; a shortcut of class c is seen in the images of others that are called c, so that is where we let
them look, and each answer becomes a pair of class and text with a score.

    domino    (Eyuboglu et al. 2022): a mixture of Gaussians over embeddings, labels and predictions, the two
              last weighed by GAMMA; slices by how much label and prediction differ; a slice's words are the
              texts nearest to its mean minus that of its class.
    keywords  (after B2T, Kim et al. 2024): texts by how much nearer they are to the wrong images than to the
              right ones. Captions are left out: the texts of the bank are the keywords.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLICES = 25
GAMMA = 10.0
STEPS = 60
LEAST = 3  # images of a slice, or wrong images of a class

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Images:
    """n images: embeddings (n, D), labels and predictions (n,)."""

    embeddings: Floats
    labels: Ints
    predictions: Ints


def domino(
    images: Images, texts: Floats, foreign: NDArray[np.bool_], seed: int = 0
) -> dict[tuple[int, int], float]:
    """Scores of pairs (class, text): those of the slices that hold errors, named by their nearest text that
    is ``foreign`` (C, T) to the class that the errors are called.
    """
    classes = len(foreign)
    member = _mixture(images, classes, seed)  # (n, S)
    wrong = images.labels != images.predictions
    found: dict[Pair, float] = {}
    for weight in member.T:
        if weight.sum() < LEAST or not (weight * wrong).sum() > 0:
            continue
        rate = float(weight @ wrong / weight.sum())
        called = np.bincount(images.predictions, weight * wrong, minlength=classes)
        class_id = int(called.argmax())
        own = int(np.bincount(images.labels, weight, minlength=classes).argmax())
        centre = weight @ images.embeddings / weight.sum() - images.embeddings[images.labels == own].mean(0)
        near = np.where(foreign[class_id], texts @ centre, -np.inf)
        pair = class_id, int(near.argmax())
        found[pair] = max(found.get(pair, 0.0), rate)
    return found


def _mixture(images: Images, classes: int, seed: int) -> Floats:
    """(n, S) memberships by expectation and maximisation; slices begin at images of one label and
    prediction.
    """
    rng = np.random.default_rng(seed)
    inputs = np.asarray(images.embeddings, np.float64)
    label, called = np.eye(classes)[images.labels], np.eye(classes)[images.predictions]
    pairs = images.labels * classes + images.predictions
    start = rng.permutation(np.unique(pairs))[:SLICES]
    seeds = [rng.choice(np.flatnonzero(pairs == one)) for one in start]
    seeds += rng.choice(len(inputs), max(0, SLICES - len(seeds)), replace=False).tolist()
    member = np.exp(20 * (inputs @ inputs[seeds].T))
    member *= np.exp(GAMMA * 0.2 * (label @ label[seeds].T + called @ called[seeds].T))
    member /= member.sum(axis=1, keepdims=True)
    for _ in range(STEPS):
        size = member.sum(axis=0) + 1e-9
        mean = member.T @ inputs / size[:, None]
        variance = np.maximum(member.T @ inputs**2 / size[:, None] - mean**2, 1e-4)
        of_label = np.log(member.T @ label / size[:, None] + 1e-6)
        of_called = np.log(member.T @ called / size[:, None] + 1e-6)
        distance = (
            (inputs**2) @ (1 / variance).T - 2 * inputs @ (mean / variance).T + (mean**2 / variance).sum(1)
        )
        chance = np.log(size) - 0.5 * (distance + np.log(variance).sum(1))
        chance += GAMMA * (label @ of_label.T + called @ of_called.T)
        member = np.exp(chance - chance.max(axis=1, keepdims=True))
        member /= member.sum(axis=1, keepdims=True)
    return member


def keywords(images: Images, texts: Floats, foreign: NDArray[np.bool_]) -> dict[Pair, float]:
    """Scores of pairs (class, text): mean similarity to the images wrongly called the class, minus that to
    the images rightly not called it, over foreign texts.
    """
    similarity = images.embeddings @ texts.T  # (n, T)
    found = {}
    for class_id in range(len(foreign)):
        others = images.labels != class_id
        wrong = others & (images.predictions == class_id)
        rest = others & (images.predictions == images.labels)
        if wrong.sum() < LEAST or rest.sum() < LEAST:
            continue
        score = similarity[wrong].mean(axis=0) - similarity[rest].mean(axis=0)
        found |= {(class_id, int(text)): float(score[text]) for text in np.flatnonzero(foreign[class_id])}
    return found
