"""From channel contributions to words: one direction per image or class, its texts, and its groups' shares.

A contribution is what a channel adds to the logit; the explanation direction is the sum of channel
directions, each as long as its channel's contribution (ours; with weights in place of contributions it is
the class-level form).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError
from textcam.arrays import Floats, as_floats, check_finite, unit_rows
from textcam.cam import membership
from textcam.select import Selection, select_texts


@dataclass(frozen=True)
class BatchExplanation:
    """Explanations of B images: direction (B, D) not normalised, their words, group_contributions (B, G)."""

    direction: Floats
    selection: Selection
    group_contributions: Floats


def explanation_direction(
    contributions: Floats, directions: Floats, *, positive_only: bool = False
) -> Floats:
    """T (B, D): contributions (B, K) times channel directions (K, D); its length is in logits.

    ``positive_only`` leaves out what speaks against the class.
    """
    directions = as_floats("directions", directions, (None, None))
    contributions = as_floats("contributions", contributions, (None, len(directions)))
    check_finite("contributions", contributions)
    if positive_only:
        contributions = np.maximum(contributions, 0)
    made: Floats = (contributions.astype(np.float64) @ directions.astype(np.float64)).astype(np.float32)
    return made


def class_direction(weights: Floats, directions: Floats, mean_pooled: Floats | None = None) -> Floats:
    """Class directions (C, D) from a linear head's ``weights`` (C, K) and channel directions (K, D).

    With ``mean_pooled`` (K,), the mean pooled activations, channels count by their mean contribution;
    without it by their weight alone.
    """
    weights = as_floats("weights", weights, (None, None))
    if mean_pooled is not None:
        weights = weights * as_floats("mean_pooled", mean_pooled, (weights.shape[1],))
    return explanation_direction(weights, directions)


def contrast(class_directions: Floats) -> Floats:
    """Class directions (C, D) minus their mean: what a class has and the others have not (ours)."""
    class_directions = as_floats("class_directions", class_directions, (None, None))
    wide = class_directions.astype(np.float64)
    made: Floats = (wide - wide.mean(axis=0)).astype(np.float32)
    return made


def group_contributions(contributions: Floats, group_of: NDArray[np.integer], groups: int) -> Floats:
    """Contributions (B, K) added up by group (B, G); their sum over G is the sum over K."""
    contributions = as_floats("contributions", contributions, (None, None))
    member = membership(group_of, contributions.shape[1], groups)
    made: Floats = (contributions.astype(np.float64) @ member).astype(np.float32)
    return made


def explain(
    contributions: Floats,
    directions: Floats,
    text_embeddings: Floats,
    group_of: NDArray[np.integer],
    *,
    groups: int | None = None,
    baseline: Floats | None = None,
    positive_only: bool = False,
    **selection: Any,
) -> BatchExplanation:
    """Explain images by their channel ``contributions`` (B, K).

    ``directions`` (K, D), ``text_embeddings`` (T, D), ``group_of`` (K,) with ids in 0..G-1; ``groups`` is G
    where the last ids may be unused. ``baseline`` (D,) or (B, D) is taken off the direction before words are
    chosen, e.g. the mean over classes; the returned direction is without it. Further arguments go to
    ``select_texts``.
    """
    direction = explanation_direction(contributions, directions, positive_only=positive_only)
    count = int(np.max(group_of, initial=-1)) + 1 if groups is None else groups
    target = direction if baseline is None else direction - np.asarray(baseline, dtype=np.float32)
    return BatchExplanation(
        direction=direction,
        selection=select_texts(target, text_embeddings, **selection),
        group_contributions=group_contributions(contributions, group_of, count),
    )


def word_directions(
    whole: Floats, region: Floats, form: str, *, centre: bool = True, named: Floats | None = None
) -> Floats:
    """The channel directions (K, D) that words are chosen by (ours).

    ``whole`` and ``region`` (K, D) are the directions from whole images and from regions, rows of unit
    length or zeros. ``form`` is "whole", "region" or "both", the bisector of the two; a channel without a
    region direction keeps its whole one. "named" is as "both" with ``named`` (K, D), the directions of the
    texts whose presence goes with the channel (``textcam.naming``), in the place of ``whole``, where there
    are any. ``centre`` takes out what all channels share, in each form by
    itself: regions where anything fires differ from the rest of an image in one common way, which names no
    channel. The paper's form is "whole", not centred. ConfigError for another form.
    """
    whole, region = as_floats("whole", whole, (None, None)), as_floats("region", region, np.shape(whole))
    if form not in ("named", "both", "region", "whole"):
        raise ConfigError(
            f"Unknown form of directions {form!r}.", where="words.form", fix="named, both, region or whole"
        )
    if centre:
        whole, region = _without_shared(whole), _without_shared(region)
    if form == "whole":
        return whole
    if form == "named" and named is not None:
        named = as_floats("named", named, whole.shape)
        whole = np.where(named.any(axis=1, keepdims=True), named, whole)
    found = region.any(axis=1, keepdims=True)
    made: Floats = np.where(found, region if form == "region" else unit_rows(whole + region), whole)
    return made


def _without_shared(directions: Floats) -> Floats:
    """Unit rows of ``directions`` (K, D) minus their mean; rows of zeros stay, and do not count in the mean.

    A single direction, or several equal ones, have nothing but what they share: they stay as they are.
    """
    found = directions.any(axis=1)
    if not found.any():
        return directions
    apart = directions - directions[found].mean(axis=0, dtype=np.float64)
    own = found & (np.linalg.norm(apart, axis=1) > 1e-6)
    made: Floats = np.where(own[:, None], unit_rows(apart.astype(np.float32)), directions)
    return made


def mean_baseline(head: Floats, pooled: Floats, directions: Floats) -> Floats:
    """What images would say for the average class (B, D): subtracting it leaves what tells the class from
    others.

    ``head`` (C, K) are the weights of a linear head, ``pooled`` (B, K), ``directions`` (K, D). Ours; the
    same as explaining the logit minus the mean of all logits.
    """
    mean_weights = as_floats("head", head, (None, None)).mean(axis=0, dtype=np.float64)
    return explanation_direction((pooled * mean_weights).astype(np.float32), directions)
