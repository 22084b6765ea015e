"""Who is judged on genuine vectors. All that is asked of the product is here: ``ours`` and ``presence``."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.truth.evidence import Array, Evidence
from benchmarks.truth.ours import PAPER, Choices, Directions
from benchmarks.truth.rivals import RIVALS
from textcam.arrays import unit_rows
from textcam.presence import ConceptPresence

OURS = Choices(form="names")  # there are no pictures, so no regions
RIDGE = 0.1
PLAIN_CUT = 2.0  # spreads above the mean: the presence that costs nothing


@dataclass(frozen=True)
class Told:
    """What a method says of K channels: ``scores`` (K, T), -inf for a text that it does not say; the effects
    (C, T) of texts on the logits of a head (C, K); ``directions`` (K, D) and ``confidence`` (K,) where it has
    any."""

    scores: Array
    effects: Callable[[Array], Array]
    directions: Array | None = None
    confidence: Array | None = None


def ours(fitted: Directions) -> Told:
    """The product."""
    names = fitted.names(OURS)
    scores = np.where(names.coefficients > 0, names.coefficients, -np.inf)
    return Told(scores, fitted.effects, fitted.for_words(OURS), names.confidence)


def presence(evidence: Evidence) -> tuple[Array, Array]:
    """What the product decides of images and texts (N, T), and the similarity that it decides by (N, T)."""
    asked = ConceptPresence(evidence.texts, sample=evidence.embeddings)
    return asked(evidence.embeddings), asked.similarities(evidence.embeddings)


def plain_presence(evidence: Evidence) -> tuple[Array, Array]:
    """The same by a plain cut of the similarity that is centred on both sides."""
    similarity = standard_similarity(evidence)
    return similarity > PLAIN_CUT, similarity


def centred(evidence: Evidence) -> tuple[Array, Array]:
    """Embeddings (N, D) and texts (T, D) of unit length, each without what all have in common."""
    embeddings, texts = evidence.embeddings, evidence.texts
    return unit_rows(embeddings - embeddings.mean(0)), unit_rows(texts - texts.mean(0))


def standard_similarity(evidence: Evidence) -> Array:
    """(N, T): centred on both sides, and by text without mean and spread."""
    embeddings, texts = centred(evidence)
    return _standard(embeddings @ texts.T)


def mean_difference(evidence: Evidence) -> Array:
    """Where images are, on the mean, when the channel fires: directions (K, D)."""
    embeddings, _ = centred(evidence)
    made: Array = _standard(evidence.pooled).T @ embeddings / len(embeddings)
    return made


def ridge(evidence: Evidence) -> Array:
    """Ridge regression of activations on embeddings: directions (K, D)."""
    embeddings, _ = centred(evidence)
    covariance = embeddings.T @ embeddings / len(embeddings)
    made: Array = np.linalg.solve(covariance + RIDGE * np.eye(len(covariance)), mean_difference(evidence).T).T
    return made


def correlation(evidence: Evidence) -> Array:
    """Of activations with similarities (K, T)."""
    made: Array = _standard(evidence.pooled).T @ standard_similarity(evidence) / len(evidence.pooled)
    return made


def _standard(values: Array) -> Array:
    made: Array = (values - values.mean(0)) / np.maximum(values.std(0), 1e-12)
    return made


def _dense(evidence: Evidence, scores: Array, directions: Array | None = None) -> Told:
    """A method whose scores are amounts: so are effects."""
    spread = evidence.pooled.std(0)[:, None]
    return Told(scores, lambda head: head @ (spread * scores), directions)


def _by_directions(evidence: Evidence, directions: Array) -> Told:
    return _dense(evidence, directions @ centred(evidence)[1].T, directions.astype(np.float32))


def _by_name(scores: Array) -> Told:
    """A method whose scores only rank: each channel is its best text."""
    named = np.zeros_like(scores, np.float64)
    named[np.arange(len(scores)), scores.argmax(1)] = 1
    return Told(scores, lambda head: head @ named)


def entrants(fitted: Directions) -> dict[str, Told]:
    """All methods on the same evidence."""
    evidence = fitted.evidence
    return {
        "ours": ours(fitted),
        "mean difference": _by_directions(evidence, mean_difference(evidence)),
        "ridge .1": _by_directions(evidence, ridge(evidence)),
        "correlation": _dense(evidence, correlation(evidence)),
        "TextCAM, the paper's form": _dense(evidence, fitted.scores(PAPER), fitted.for_words(PAPER)),
        **{name: _by_name(one(evidence)) for name, one in RIVALS.items()},
    }


def presences(evidence: Evidence) -> dict[str, tuple[Array, Array]]:
    """All ways to tell which images show which text: decided (N, T), and by which similarity (N, T)."""
    return {
        "ours": presence(evidence),
        "plain cut": plain_presence(evidence),
    }
