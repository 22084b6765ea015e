"""How likely it is that an image shows a text, and how the classifier does with and without it.

What an image shows can be read off its embedding, but not off raw cosines: these differ more between texts
than between images that show a text and images that do not. So both sides are freed of what they share,
images of the sample's mean and texts of what the bank has in common (``comparable``), and the similarity of
each text is calibrated by itself, on the sample: it lies on two levels, and the probability of the high one
is the answer (``two_levels``). (Ours.)

Texts do not compete: *dog* and *shepherd dog* are there together, a scene of several objects shows several
colours, and what is common is present in many images. An earlier rule let only the nearest text of a kind be
present. It was right for one drawn object with one colour, and on photographs it saw 7 % of the dogs, since
some breed was always nearer; and the nearest was a *hub* in half of the images of other small encoders. On
rendered scenes of one object the new rule finds as much without any competition (F1 .99).

Sums take the probability; where a set of images is shown, or counted for a test, half is the cut.
"""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.errors import ConfigError
from textcam.arrays import Doubles, check_shape
from textcam.comparable import comparable_texts
from textcam.shares import Floats, Ints, check_ids
from textcam.statistics import TwoSides, two_sides
from textcam.two_levels import fit_two_levels

Bools = NDArray[np.bool_]

STEPS = 256  # probabilities are whole parts of it, so that sums of them are exact


class ConceptPresence:
    """The probability that images show each of T texts, given their embeddings.

    ``text_embeddings`` (T, D) of a whole bank and ``sample`` (n, D) of images, of unit length. Expect little
    of a text that under 1 % of the sample shows. Similarities are computed in float64, so that the outcome
    does not hang on how images were cut into blocks. Raises ConfigError without a sample.
    """

    def __init__(self, text_embeddings: Floats, *, sample: Floats) -> None:
        check_shape("sample", sample, (None, np.shape(text_embeddings)[1]))
        if not len(sample):
            raise ConfigError(
                "Presence needs a sample of image embeddings, and there is none",
                where="sample",
                fix="Give the embeddings of images of the data set, some hundred or more.",
            )
        self.texts = comparable_texts(text_embeddings)  # (T, D)
        self.mean = np.asarray(sample, np.float64).mean(axis=0)  # (D,)
        self.levels = fit_two_levels(self.similarities(sample))
        self.cuts = self.levels.cut(
            (STEPS / 2 + 0.5) / STEPS
        )  # (T,), where a probability rounds to over half

    def similarities(self, image_embeddings: Floats) -> Doubles:
        """(B, T) cosines of images (B, D) and texts, both without what they share, in float64."""
        rest = np.asarray(image_embeddings, np.float64) - self.mean
        length = np.linalg.norm(rest, axis=1, keepdims=True)
        made: Doubles = np.divide(rest, length, out=rest, where=length > 0) @ self.texts.T
        return made

    def probability(self, image_embeddings: Floats) -> Doubles:
        """(B, T) that each image shows each text, in whole parts of 1 / STEPS. Embeddings are (B, D)."""
        made: Doubles = np.rint(STEPS * self.levels.probability(self.similarities(image_embeddings))) / STEPS
        return made

    def __call__(self, image_embeddings: Floats) -> Bools:
        """(B, T): is the text present rather than not?"""
        present: Bools = self.similarities(image_embeddings) > self.cuts
        return present


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
