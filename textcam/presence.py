"""Which images show which concept, and how the classifier does with and without it.

Raw image-text similarities cannot be compared between texts, nor with a fixed limit. Within one kind they
can: an image has one background, one colour that stands out, one artefact or none, and the texts of the
kind compete for it, as in zero-shot classification. But most images have no artefact at all, and some text
of the kind is nearest all the same; so the best text must also be nearer than it is to images in general:
above the threshold that best cuts a sample in two. Both together are the rule here (ours); on rendered
scenes it found every attribute, and the absence of artefacts, with precision and recall of at least .97,
where the best text alone called two of three images without an artefact watermarked. Texts without rivals
(the only one of its kind, or of kind "other", where nothing excludes anything) have the threshold alone;
but of many texts of kind "other" an image shows at most the five that stand out most, each measured by its
own mean and spread over the sample. (On photographs and a thousand texts the threshold alone found 457
texts in an image.)

That texts of a kind exclude each other holds for pictures of one thing, and not for a table full of them:
there, the nearest of eight colours alone was a third of the colours that were to be seen. So the sample is
asked (``free_texts``): where another text of the kind is nearer, does this one still stand on two levels, as
what is there or is not would? Then it competes with none, and nothing limits how many are shown.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError
from textcam.arrays import Doubles, check_shape
from textcam.shares import Floats, Ints, check_ids
from textcam.statistics import TwoSides, two_sides

Bools = NDArray[np.bool_]

NO_RIVALS = "other"  # the kind whose texts do not exclude each other
MOST_OTHER = 5  # texts of kind "other" that one image shows
LEVELS = 0.8  # of a text's variance lies between its two levels; any spread without a gap has at most .75
FEWEST_BEST = 8  # images that a text is the nearest of its kind in, before it says anything of its kind
TOLERANCE = 0.01  # odds of 1 to 2.7 at CLIP's usual temperature of 100: near-synonyms are present together


class ConceptPresence:
    """Tells for image embeddings which of T texts are present.

    A text with rivals is present if its similarity is within ``tolerance`` of the best text of its kind and,
    given a ``sample`` (n, D), above the threshold that best cuts the sample in two (Otsu); the threshold
    alone decides of those that the sample shows to exclude no other (``free_texts``). A text without
    rivals is present if its similarity minus the image's mean over the bank is above such a
    threshold; expect little of it where the concept is in
    under 1 % of the sample. Similarities are computed in float64, so that the outcome does not hang on how
    images were cut into blocks. Raises ConfigError if a text has no rivals and there is no sample.
    """

    def __init__(
        self,
        text_embeddings: Floats,
        kinds: Sequence[str],
        *,
        tolerance: float = TOLERANCE,
        sample: Floats | None = None,
    ) -> None:
        check_shape("text_embeddings", text_embeddings, (len(kinds), None))
        self.text_embeddings = np.asarray(text_embeddings, np.float64)  # (T, D)
        names = np.asarray(kinds)
        self.rivals = [
            np.flatnonzero(names == kind)
            for kind in np.unique(names)
            if kind != NO_RIVALS and np.count_nonzero(names == kind) > 1
        ]
        self.threshold = np.full(len(names), -tolerance)  # (T,) on the relative similarity
        self.floor = np.full(len(names), -np.inf)  # (T,) on the similarity itself
        if sample is not None and len(sample):
            similarities = self.similarities(sample)
            for texts in self.rivals:
                cuts = np.array([otsu(similarities[:, text]) for text in texts])
                self.floor[texts] = np.where(np.isfinite(cuts), cuts, -np.inf)  # all alike tells nothing
                self.threshold[texts[free_texts(similarities[:, texts], cuts)]] = -np.inf
        alone = np.setdiff1d(np.arange(len(names)), np.concatenate([*self.rivals, np.zeros(0, np.int64)]))
        self.others = np.flatnonzero(names == NO_RIVALS)
        self.centre, self.spread = np.zeros(len(self.others)), np.ones(len(self.others))
        if not len(alone):
            return
        if sample is None or not len(sample):
            raise ConfigError(
                "A text without rivals needs a sample of image embeddings for its threshold",
                where=f"text {alone[0]} of kind {names[alone[0]]}",
                fix="Give a sample, or a second text of this kind.",
            )
        relative = self.relative_similarities(sample)
        self.threshold[alone] = [otsu(relative[:, text]) for text in alone]
        free = free_texts(relative[:, self.others], self.threshold[self.others])
        self.others = self.others[~free]
        self.centre = relative[:, self.others].mean(axis=0)
        self.spread = np.maximum(relative[:, self.others].std(axis=0), 1e-12)

    def similarities(self, image_embeddings: Floats) -> Doubles:
        """(B, T) cosines, in float64."""
        made: Doubles = np.asarray(image_embeddings, np.float64) @ self.text_embeddings.T
        return made

    def relative_similarities(self, image_embeddings: Floats) -> Doubles:
        """(B, T): with rivals, similarity minus that of the best text of the kind (so 0 or less); without,
        minus the mean over the bank."""
        return self._relative(self.similarities(image_embeddings))

    def _relative(self, similarities: Doubles) -> Doubles:
        reference = np.repeat(similarities.mean(axis=1, keepdims=True), similarities.shape[1], axis=1)
        for texts in self.rivals:
            reference[:, texts] = similarities[:, texts].max(axis=1, keepdims=True)
        relative: Doubles = np.subtract(similarities, reference, out=reference)
        return relative

    def __call__(self, image_embeddings: Floats) -> Bools:
        """(B, T): is the text present in the image? Embeddings (B, D) of unit length, as stored."""
        similarities = self.similarities(image_embeddings)
        relative = self._relative(similarities)
        present: Bools = (similarities >= self.floor) & (relative >= self.threshold)
        if len(self.others) > MOST_OTHER:
            standing_out = (relative[:, self.others] - self.centre) / self.spread
            least = np.partition(standing_out, -MOST_OTHER, axis=1)[:, -MOST_OTHER, None]
            present[:, self.others] &= standing_out >= least
        return present


def free_texts(similarities: Floats, cuts: Floats) -> Bools:
    """(G,) of the texts of one kind, which exclude no other: all of them that stand on two levels, if texts
    of this kind still do so in the images that another text is nearer to; else none.

    ``similarities`` (n, G) of a sample with the texts, each of which is cut in two at ``cuts`` (G,). On two
    levels is what has LEVELS of its variance between them.
    """
    best = similarities.argmax(axis=1) if similarities.size else np.zeros(0, np.int64)
    counts = np.bincount(best, minlength=len(cuts))
    judges = np.flatnonzero(counts >= FEWEST_BEST)
    between = [between_levels(similarities[best != text, text], cuts[text]) for text in judges]
    if len(judges) < 2 or np.average(between, weights=counts[judges]) < LEVELS:
        return np.zeros(len(cuts), np.bool_)
    return np.array([between_levels(similarities[:, j], cut) >= LEVELS for j, cut in enumerate(cuts)])


def between_levels(values: Floats, cut: float) -> float:
    """The part of the variance of values (n,) that lies between those at or above ``cut`` and those below;
    0 where one of the two is empty."""
    high = np.asarray(values) >= cut
    if high.all() or not high.any():
        return 0.0
    wide = np.asarray(values, np.float64)
    share = high.mean()
    apart = wide[high].mean() - wide[~high].mean()
    return float(share * (1 - share) * apart**2 / wide.var())


def otsu(values: Floats) -> float:
    """The cut of values (n,) into a low and a high part whose means lie furthest apart, weighted by their
    sizes (Otsu 1979), searched over all cuts. The smallest of the high part; +inf if all values are equal."""
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    low_n = np.arange(1, n)
    low_sum = np.cumsum(ordered)[:-1]
    low_mean, high_mean = low_sum / low_n, (ordered.sum() - low_sum) / (n - low_n)
    between = np.where(ordered[1:] > ordered[:-1], low_n * (n - low_n) * (high_mean - low_mean) ** 2, -1.0)
    if not len(between) or between.max() < 0:
        return float("inf")
    return float(ordered[int(np.argmax(between)) + 1])


class ConceptCounts:
    """Counts of images by class and text from which all rates with and without a concept follow.

    C classes, T texts. ``labelled`` says whether labels exist: then images without one (label -1) are left
    out, and otherwise only predictions are counted. Integers throughout: the order of updates and merges does
    not matter.
    """

    def __init__(self, classes: int, texts: int, *, labelled: bool) -> None:
        self.classes, self.texts, self.labelled = classes, texts, labelled
        self.of_class = np.zeros(classes, np.int64)  # images with this label
        self.right = np.zeros(classes, np.int64)  # of these, predicted as this class
        self.predicted = np.zeros(classes, np.int64)  # images predicted as this class, whatever their label
        self.with_text = np.zeros(texts, np.int64)
        self.of_class_with = np.zeros((classes, texts), np.int64)
        self.right_with = np.zeros((classes, texts), np.int64)
        self.predicted_with = np.zeros((classes, texts), np.int64)

    def update(self, prediction: Ints, present: Bools, label: Ints | None = None) -> None:
        """Take B images: predicted class (B,), concepts present (B, T), label (B,) with -1 for none.
        Raises ConfigError if labels are needed and missing, SchemaMismatch for ids out of range."""
        check_shape("present", present, (len(prediction), self.texts))
        if self.labelled:
            if label is None:
                raise ConfigError(
                    "Counting by label needs labels", where="label", fix="Count with labelled=False."
                )
            known = label >= 0
            prediction, present, label = prediction[known], present[known], label[known]
            check_ids("label", label, len(present), self.classes)
        check_ids("prediction", prediction, len(present), self.classes)
        image, text = np.nonzero(present)  # few texts are present in an image
        self.predicted += np.bincount(prediction, minlength=self.classes)
        self.with_text += np.bincount(text, minlength=self.texts)
        np.add.at(self.predicted_with, (prediction[image], text), 1)
        if label is None or not self.labelled:
            return
        hit = prediction == label  # (B,)
        self.of_class += np.bincount(label, minlength=self.classes)
        self.right += np.bincount(label[hit], minlength=self.classes)
        np.add.at(self.of_class_with, (label[image], text), 1)
        np.add.at(self.right_with, (label[image][hit[image]], text[hit[image]]), 1)

    def merge(self, other: Self) -> None:
        """Add what another worker counted."""
        for name, mine in vars(self).items():
            if isinstance(mine, np.ndarray):
                mine += getattr(other, name)

    def accuracy(self, class_id: Ints, text_index: Ints) -> TwoSides:
        """Pairs (P,): right predictions among the class's own images, with and without the concept."""
        right_with, n_with = self.right_with[class_id, text_index], self.of_class_with[class_id, text_index]
        return two_sides(
            right_with, n_with, self.right[class_id] - right_with, self.of_class[class_id] - n_with
        )

    def false_positives(self, class_id: Ints, text_index: Ints) -> TwoSides:
        """Pairs (P,): images of other classes that are called this class, with and without the concept. A
        shortcut shows here too: the cue alone draws strangers into the class."""
        own, all_ = self.accuracy(class_id, text_index), self.predictions(class_id, text_index)
        return two_sides(*(every - mine for every, mine in zip(all_, own, strict=True)))

    def predictions(self, class_id: Ints, text_index: Ints) -> TwoSides:
        """Pairs (P,): images of any class that are called this class, with and without the concept."""
        called_with, n_with = self.predicted_with[class_id, text_index], self.with_text[text_index]
        called, n = self.predicted[class_id], self.predicted.sum()
        return two_sides(called_with, n_with, called - called_with, n - n_with)
