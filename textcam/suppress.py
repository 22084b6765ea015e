"""A corrected head: the classifier's last layer without the shortcuts of some findings (ours).

From the store alone: activations, labels, the linear head, and which images show which text. Two ways:

    project  what tells images with a text from images of the same class without it is taken out of the
             activations: the least change after which no linear layer sees the text any more (least-squares
             erasure: a - s (S⁻¹s)ᵀ(a - mean) / sᵀS⁻¹s, with s the covariance of activations and presence and
             S that of the activations, both within classes, S shrunk). A projection of activations is a
             change of head.
    refit    the head is fitted anew, held near the old one, on images weighted so that every text is in half
             of every class: then it says nothing of the class. How near is chosen within the fitted part.

Every third image, by its id, is held out: no step here sees it, and the report is of it alone.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from store.errors import QueryError
from textcam.arrays import Doubles
from textcam.two_sided import one_sided
from textcam.whatif import Head, logits_of

Method = Literal["project", "refit"]
METHODS: tuple[Method, ...] = ("project", "refit")
HELD_OUT = 3  # every third image
SHRINKAGE = 0.05  # of the covariance of activations, towards a multiple of the identity
NEARNESS = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01, 0.001)  # of the refitted head to the old one, by trial
FOLDS = 3
LOST = 0.01  # average accuracy that a head may lose in the trials
LARGEST_WEIGHT = 20.0  # of an image, in means
LEAST_IMAGES = 5  # of a group whose accuracy counts
_SWEEPS = 20

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Samples:
    """n images: ids and labels (n,), pooled activations (n, K), presence of the texts of F findings (n,
    F)."""

    image_ids: Ints
    labels: Ints
    pooled: Floats
    present: Bools

    def take(self, chosen: Bools) -> "Samples":
        """Some of the images, by a mask (n,)."""
        return Samples(self.image_ids[chosen], self.labels[chosen], self.pooled[chosen], self.present[chosen])

    def of_channels(self) -> "Samples":
        """With the activations of the network's own channels in the place of those of their sides."""
        return Samples(self.image_ids, self.labels, one_sided(self.pooled), self.present)

    def split(self, every: int = HELD_OUT) -> tuple["Samples", "Samples"]:
        """The part to fit on, and every ``every``-th image held out, by the ids: hashes, so a random draw
        that is the same each time."""
        held_out = self.image_ids % every == 0
        return self.take(~held_out), self.take(held_out)


@dataclass(frozen=True)
class GroupAccuracy:
    """Held-out accuracy of the images of a finding's class (``of_class``) or of all others, with or without
    its text."""

    finding: int
    of_class: bool
    with_text: bool
    n: int
    before: float
    after: float


@dataclass(frozen=True)
class Suppressed:
    """The corrected head, weights (C, K) and bias (C,), and what it does to ``held_out`` images.

    Accuracies are fractions; worst is over the ``groups`` of at least LEAST_IMAGES images. ``fitted`` images
    made the head; ``unbalanced`` of the classes have a text in all or none of them, so that there was nothing
    to weigh against each other.
    """

    weights: Floats
    bias: Floats
    method: Method
    fitted: int
    held_out: int
    unbalanced: int
    accuracy_before: float
    accuracy_after: float
    worst_before: float
    worst_after: float
    groups: tuple[GroupAccuracy, ...]


def suppress(
    samples: Samples, head: Head, classes: Ints, method: Method = "refit", lost: float = LOST
) -> Suppressed:
    """The head without the shortcuts of F findings of these ``classes`` (F,), whose texts' presence
    ``samples`` holds; a refit may lose ``lost`` of the average accuracy in its trials. Raises QueryError for
    too few images to fit on or to hold out."""
    fitting, held_out = samples.split()
    for part, name in ((fitting, "fit on"), (held_out, "hold out")):
        if len(part.labels) < 2 * LEAST_IMAGES:
            raise QueryError(
                f"{len(part.labels)} images with a label are too few to {name}.", fix="Use a larger store."
            )
    made = project(fitting, head) if method == "project" else refit_near(fitting, head, classes, lost)
    before, after = right(held_out, head), right(held_out, made)
    groups = group_accuracies(held_out, classes, before, after)
    counted = [one for one in groups if one.n >= LEAST_IMAGES]
    return Suppressed(
        made[0].astype(np.float32),
        made[1].astype(np.float32),
        method,
        len(fitting.labels),
        len(held_out.labels),
        _unbalanced(fitting),
        float(before.mean()),
        float(after.mean()),
        min((one.before for one in counted), default=float("nan")),
        min((one.after for one in counted), default=float("nan")),
        tuple(groups),
    )


def right(samples: Samples, head: Head) -> Bools:
    """(n,): does the head give the label?"""
    found: Bools = logits_of(samples.pooled, *head).argmax(axis=1) == samples.labels
    return found


def group_accuracies(samples: Samples, classes: Ints, before: Bools, after: Bools) -> list[GroupAccuracy]:
    """Accuracies of all groups that have images; right or not (n,) before and after."""
    found = []
    for at, class_id in enumerate(classes):
        for of_class in (True, False):
            for with_text in (True, False):
                group = ((samples.labels == class_id) == of_class) & (samples.present[:, at] == with_text)
                if n := int(group.sum()):
                    rates = float(before[group].mean()), float(after[group].mean())
                    found.append(GroupAccuracy(at, of_class, with_text, n, *rates))
    return found


def worst_and_mean(samples: Samples, classes: Ints, correct: Bools) -> tuple[float, float]:
    """Lowest and mean accuracy of the groups with enough images; 0 if none has."""
    groups = group_accuracies(samples, classes, correct, correct)
    counted = [one.before for one in groups if one.n >= LEAST_IMAGES] or [0.0]
    return min(counted), float(np.mean(counted))


# --- project --------------------------------------------------------------------------------------------


def project(samples: Samples, head: Head, shrinkage: float = SHRINKAGE) -> Head:
    """The head on activations from which the texts are erased, one after the other. A text that every image
    of each class has, or none, is no direction and changes nothing."""
    weights, bias = (np.array(part, np.float64) for part in head)
    within = np.array(samples.pooled, np.float64)
    mean = within.mean(axis=0)
    within = _within_classes(within, samples.labels)
    for present in samples.present.T.astype(np.float64):
        side = _within_classes(present[:, None], samples.labels)[:, 0]
        seen = within.T @ side / len(side)  # (K,)
        if not np.abs(seen).max() > 0:
            continue
        covariance = within.T @ within / len(within)
        level = shrinkage * np.trace(covariance) / len(covariance)
        covariance = (1 - shrinkage) * covariance + level * np.eye(len(covariance))
        look = np.linalg.solve(covariance, seen)
        look /= seen @ look
        along = weights @ seen  # (C,)
        weights, bias = weights - np.outer(along, look), bias + along * float(look @ mean)
        within -= np.outer(within @ look, seen)
    return weights, bias


def _within_classes(values: Doubles, labels: Ints) -> Doubles:
    """Values (n, k) minus the mean of their class, in their own place."""
    _, place = np.unique(labels, return_inverse=True)
    sums = np.zeros((place.max() + 1, values.shape[1]))
    np.add.at(sums, place, values)
    means = sums / np.bincount(place)[:, None]
    for class_id, mean in enumerate(means):
        values[place == class_id] -= mean
    return values


# --- refit ----------------------------------------------------------------------------------------------


def balanced_weights(labels: Ints, present: Bools) -> Doubles:
    """(n,) weights of mean 1 under which every text of ``present`` (n, F) is in half of each class, as near
    as images allow; classes keep their sizes. By raking: one text after the other, over and over. No image
    weighs more than LARGEST_WEIGHT, and a class that has a text always or never keeps its own."""
    weights = np.ones(len(labels))
    _, place = np.unique(labels, return_inverse=True)
    sizes = np.bincount(place).astype(np.float64)
    for _ in range(_SWEEPS):
        for column in present.T:
            cell = 2 * place + column
            total = np.bincount(cell, weights, minlength=2 * len(sizes)).reshape(-1, 2)  # (C, 2)
            both = (total > 0).all(axis=1, keepdims=True)
            wanted = np.where(both, sizes[:, None] / 2, total)
            factor = np.divide(wanted, total, out=np.ones_like(total), where=total > 0)
            weights = np.minimum(weights * factor.reshape(-1)[cell], LARGEST_WEIGHT)
    return _of_mean_one(weights, place, sizes)


def _of_mean_one(weights: Doubles, place: Ints, sizes: Doubles) -> Doubles:
    """Weights (n,) scaled to mean 1 in each class (``place`` (n,), of these ``sizes`` (C,)), none above
    LARGEST_WEIGHT: what would be has just that, and the others of its class share the rest."""
    full = np.zeros(len(weights), np.bool_)
    while True:
        room = sizes - LARGEST_WEIGHT * np.bincount(place, full)
        free = np.bincount(place, np.where(full, 0, weights))
        scaled = np.where(full, LARGEST_WEIGHT, weights * (room / free)[place])
        over = scaled > LARGEST_WEIGHT
        if not over.any():
            return scaled
        full |= over


def _unbalanced(samples: Samples) -> int:
    found = 0
    for label in np.unique(samples.labels):
        share = samples.present[samples.labels == label].mean(axis=0)
        found += bool(((share == 0) | (share == 1)).any())
    return found


def refit_near(samples: Samples, head: Head, classes: Ints, lost: float = LOST) -> Head:
    """The head refitted on all of ``samples``, as near to the old one as served best in FOLDS trials, each on
    images that its fit did not see: the best worst group, then the best mean over groups, among those that
    lose at most ``lost`` of the average."""
    fold = samples.image_ids // HELD_OUT % FOLDS
    old = float(right(samples, head).mean())
    best, chosen = (-np.inf, -np.inf), NEARNESS[0]
    for nearness in NEARNESS:
        correct = np.zeros(len(fold), np.bool_)
        for number in np.unique(fold):
            tried = refit(samples.take(fold != number), head, nearness) if (fold != number).any() else head
            correct[fold == number] = right(samples.take(fold == number), tried)
        average = float(correct.mean())
        merit = worst_and_mean(samples, classes, correct) if average >= old - lost else (average - 1, 0.0)
        if merit > best:
            best, chosen = merit, nearness
    return refit(samples, head, chosen)


def refit(samples: Samples, head: Head, nearness: float) -> Head:
    """Multinomial logistic regression with weights that balance the texts, and a penalty of ``nearness`` / 2
    on the squared distance to the old head, where each channel counts by its standard deviation."""
    weights, bias = (np.asarray(part, np.float64) for part in head)
    # The one wide copy of the activations, changed where it lies: they may fill the memory.
    inputs = np.ones((len(samples.labels), weights.shape[1] + 1))  # (n, K + 1)
    pooled = inputs[:, :-1]
    pooled[:] = samples.pooled
    mean = pooled.mean(axis=0)
    pooled -= mean
    scale = np.sqrt(np.einsum("nk,nk->k", pooled, pooled) / len(pooled))
    scale = np.where(scale > 0, scale, 1.0)
    pooled /= scale
    old = np.concatenate([weights * scale, (bias + weights @ mean)[:, None]], axis=1)  # (C, K + 1)
    share = balanced_weights(samples.labels, samples.present) / len(pooled)
    rows = np.arange(len(pooled))

    def loss(flat: Doubles) -> tuple[float, Doubles]:
        made = flat.reshape(old.shape)
        logits = inputs @ made.T
        logits -= logits.max(axis=1, keepdims=True)
        total = np.exp(logits).sum(axis=1)
        fit = share @ (np.log(total) - logits[rows, samples.labels])
        error = np.exp(logits) / total[:, None]
        error[rows, samples.labels] -= 1
        away = made - old
        value = float(fit + nearness / 2 * np.square(away).mean())
        return value, ((error * share[:, None]).T @ inputs + nearness * away / away.size).reshape(-1)

    made = minimize(loss, old.reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    found = made.reshape(old.shape)
    new = found[:, :-1] / scale
    return new, found[:, -1] - new @ mean
