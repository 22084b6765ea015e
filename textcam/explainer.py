"""From channel weights to an explanation in words, with a store's directions, texts and settings.

The steps are those of the precompute (``textcam.explain``), so that a query says the same words as the stored
explanation of the same image.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textcam.answers import Explanation, GroupWords, Word
from textcam.arrays import Floats
from textcam.cam import group_maps
from textcam.catalogue import Catalogue
from textcam.confidence import explanation_confidence
from textcam.explain import explain, mean_baseline
from textcam.select import Selection

_SELECTION = ("screen", "sparsity", "relative_sparsity", "decorrelation")


class Explainer:
    """Explains one image or class at a time; ``settings`` is the section ``words`` of the store's
    configuration.
    """

    def __init__(self, catalogue: Catalogue, settings: dict[str, Any]) -> None:
        self._catalogue = catalogue
        self._contrast = bool(settings.get("contrast", True))
        self._selection = {name: settings[name] for name in _SELECTION if name in settings}

    def explain(
        self, weights: Floats, pooled: Floats, class_id: int | None, top: int, shared: float = 1.0
    ) -> Explanation:
        """Words and groups for ``weights`` (K,) and ``pooled`` (K,), ones for the weight-only form.

        Where the store contrasts classes and the head is linear, the direction of the average class is
        taken off ``shared`` times.
        """
        channels, classes = self._catalogue.channels, self._catalogue.classes
        baseline, contrasted = None, weights
        if self._contrast and classes.weights is not None and shared > 0:
            contrasted = weights - shared * classes.weights.mean(axis=0)
            baseline = shared * mean_baseline(classes.weights, pooled[None], channels.directions)
        made = explain(
            (weights * pooled)[None],
            channels.directions,
            self._catalogue.texts.embeddings,
            channels.group_of,
            baseline=baseline,
            top=max(top, 2),  # how sure the first word is depends on the second
            **self._selection,
        )
        return Explanation(
            class_id=class_id,
            class_name="" if class_id is None else classes.names[class_id],
            words=self._words(made.selection, 0, top),
            groups=self._groups(weights * pooled, made.group_contributions[0], top),
            confidence=self._sure((contrasted * pooled)[None], made.selection)[0],
        )

    def _sure(self, contributions: Floats, selection: Selection) -> list[float | None]:
        """The confidence in the words of each row; None where the store knows none of its channels."""
        of_channels = self._catalogue.channel_confidence
        if of_channels is None:
            return [None] * len(contributions)
        return [float(one) for one in explanation_confidence(contributions, of_channels, selection)]

    def shared_part(self, weights: Floats, class_id: int) -> float:
        """How many times ``weights`` (K,) hold the head's own of the class: least squares, at least 0
        (ours).

        CAM tools scale weights as they like (by the number of cells, say); the average class must be scaled
        alike before it is taken off.
        """
        head = self._catalogue.classes.weights
        if head is None:
            return 0.0
        own = head[class_id].astype(np.float64)
        length = float(own @ own)
        return max(float(own @ weights) / length, 0.0) if length > 0 else 0.0

    def with_maps(
        self, found: Explanation, maps: Floats, weights: Floats, view: NDArray[np.uint8]
    ) -> Explanation:
        """``found`` with where it was seen: ``maps`` (1, K, h, w) under channel weights (1, K)."""
        of_groups = group_maps(maps, weights, self._catalogue.channels.group_of, len(found.groups))[0]
        ordered = of_groups[[group.group_id for group in found.groups]]  # (G, h, w)
        return replace(found, saliency_map=ordered.sum(axis=0), group_maps=ordered, view=view)

    def _groups(self, contributions: Floats, by_group: Floats, top: int) -> tuple[GroupWords, ...]:
        """All G groups by falling contribution; ``contributions`` (K,), ``by_group`` (G,)."""
        channels = self._catalogue.channels
        member = channels.group_of == np.arange(len(by_group))[:, None]  # (G, K)
        # A group that speaks against the class is named by what it saw, not by the opposite of that.
        sign = np.where(by_group < 0, -1, 1)[:, None]
        of_groups = (sign * member * contributions).astype(np.float32)
        made = explain(
            of_groups,
            channels.directions,
            self._catalogue.texts.embeddings,
            channels.group_of,
            top=max(top, 2),  # how sure the first word is depends on the second
            **self._selection,
        )
        shares, sure = positive_shares(by_group), self._sure(of_groups, made.selection)
        return tuple(
            GroupWords(
                int(group),
                float(by_group[group]),
                float(shares[group]),
                self._words(made.selection, int(group), top),
                sure[group],
            )
            for group in np.argsort(-by_group, kind="stable")
        )

    def _words(self, selection: Selection, row: int, top: int) -> tuple[Word, ...]:
        kept = np.flatnonzero(selection.text_index[row] >= 0)[:top]
        chosen = zip(
            selection.text_index[row][kept],
            selection.coefficients[row][kept],
            selection.similarities[row][kept],
            strict=True,
        )
        texts = self._catalogue.texts
        return tuple(
            texts.word(int(text), coefficient=float(coefficient), similarity=float(similarity))
            for text, coefficient, similarity in chosen
        )


def positive_shares(amounts: Floats) -> Floats:
    """Each amount's part of the sum of the positive ones; 0 for the others, and where none is positive."""
    positive = np.maximum(amounts, 0)
    total = positive.sum()
    return positive / total if total > 0 else positive
