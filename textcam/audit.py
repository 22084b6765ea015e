"""From sums and counts to a ranked list of findings: classes that go by something other than themselves.

    candidates        pairs of class and text that take part in the evidence and are not the class itself
    carrying_groups   the group of channels behind each pair
    find_shortcuts    effect, interval, q, flip rate, score, rank

The score (ours), for a pair of class c and text t:

    score     = weight(kind) * excess * (0.1 + 0.9 * mean of what is known of (behaviour, flip))
    excess    = share of t in c's evidence minus its mean share in the other classes, at least 0
    behaviour = with labels: mean of what is known of (effect, draw); without: association
        effect       accuracy of c's images with t minus without t
        draw         images of other classes called c: rate with t minus without t
        association  images of any class called c: rate with t minus without t
        each the low end of its 95 % interval, at least 0, so that few images count for little
    flip      = share of c's right images with t that change when the group is set to its mean, minus the same
        without t, at least 0: what the group does for the class itself does not count against t

Effect and draw compare images of the same label, so a cue that merely goes together with the label in the
data leaves them at 0; association does not have this virtue. A tenth of the score is the share alone. A
finding is an association until a proof (textcam.proof) says otherwise.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from store.errors import SchemaMismatch
from store.schema import stable_id
from textcam.presence import ConceptCounts
from textcam.shares import Floats, Ints, TextShares
from textcam.statistics import Difference, false_discovery, fisher_exact, rate_difference, rates
from textcam.whatif import Pairs, WhatIf

# How suspect a kind of evidence is where the classes are not of this kind themselves (ours).
KIND_WEIGHTS = {
    "artefact": 1.0,
    "scene": 1.0,
    "colour": 0.75,
    "object": 0.75,
    "other": 0.75,
    "texture": 0.5,
    "material": 0.5,
    "part": 0.25,
}
OBJECT_KINDS = frozenset({"object", "part"})
LEAST_SHARE = 0.02
LEAST_IMAGES = 5  # that show the concept of a finding
SYNONYM = 0.9  # cosine of two texts from which they count as the same thing
_SHARE_ALONE = 0.1


@dataclass(frozen=True)
class Finding:
    """One row of the findings table: class ``class_id`` goes by text ``text_id``, through group ``group_id``.

    share is the text's part of the class's evidence, 0 to 1. Accuracies, flip_rate, effect and its 95 %
    interval are fractions; effect is accuracy_with minus accuracy_without. Without labels both accuracies are
    None, and effect is the rate at which images are called this class with the concept minus without. n_with
    and n_without count the images compared. q_value is of that comparison. proof_drop and proof_control are
    mean falls of the class's margin, in units of the logit, over proof_n images.
    """

    finding_id: int
    class_id: int
    text_id: int
    group_id: int
    kind: str
    share: float
    accuracy_with: float | None
    accuracy_without: float | None
    n_with: int
    n_without: int
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    q_value: float | None
    flip_rate: float | None
    proof_drop: float | None
    proof_control: float | None
    proof_n: int
    verdict: str
    rank: int


def is_core_text(class_name: str, text: str) -> bool:
    """Is the text the class itself? True if it names all words of the class or of one of its comma-separated
    synonyms ("star" and "a small star"), or only its last words, the wider term ("great white shark" and
    "shark"; but "sea" is not "sea lion"). Case and a plural s are ignored."""
    return _names(_synonyms(class_name), _words(text))


def _names(synonyms: list[list[str]], words: list[str]) -> bool:
    return any(words and (set(name) <= set(words) or name[-len(words) :] == words) for name in synonyms)


def _synonyms(class_name: str) -> list[list[str]]:
    return [words for words in map(_words, class_name.split(",")) if words]


def _words(text: str) -> list[str]:
    found = [word for word in re.findall(r"[^\W_]+", text.lower()) if word not in ("a", "an", "the")]
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in found
    ]


def core_texts(
    class_names: Sequence[str],
    texts: Sequence[str],
    name_similarity: Floats | None = None,
    synonym: float = SYNONYM,
) -> NDArray[np.bool_]:
    """(C, T): the texts that are the class itself, by its words (`is_core_text`), or by ``name_similarity``
    (C, T), the cosine of the embedded class name and text, from ``synonym`` up."""
    names, words = [_synonyms(name) for name in class_names], [_words(text) for text in texts]
    core = np.array([[_names(name, text) for text in words] for name in names], np.bool_)
    core = core.reshape(len(class_names), len(texts))
    return core if name_similarity is None else core | (name_similarity >= synonym)


def own_kinds(core: NDArray[np.bool_], kinds: Sequence[str]) -> list[frozenset[str]]:
    """For each class the kinds of text that are what it is made of: object and part, unless it has core texts
    (C, T) and none of them is of these kinds ("seashore" is a scene); then the kinds of its core texts.
    "other" says nothing of a text: a list of plain words, all of this kind, must not hide everything."""
    found = [frozenset(kinds[int(text)] for text in np.flatnonzero(row)) - {"other"} for row in core]
    return [OBJECT_KINDS if not mine or mine & OBJECT_KINDS else mine for mine in found]


def candidates(
    shares: TextShares,
    core: NDArray[np.bool_],
    kinds: Sequence[str],
    own: Sequence[Collection[str]] | None = None,
    least_share: float = LEAST_SHARE,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs worth testing, class_id (P,) and text index (P,), sorted: a share of at least ``least_share``, a
    text that is not the class itself (``core`` (C, T)) and of a kind that is not the class's own (`own_kinds`
    unless given)."""
    foreign = foreign_kinds(core, kinds, own)
    class_id, text_index = np.nonzero((shares.share >= least_share) & foreign & ~core)
    return class_id, text_index


def foreign_kinds(
    core: NDArray[np.bool_], kinds: Sequence[str], own: Sequence[Collection[str]] | None = None
) -> NDArray[np.bool_]:
    """(C, T): is the text of a kind that is not the class's own (`own_kinds` of ``core`` (C, T) unless
    given)?"""
    own = own_kinds(core, kinds) if own is None else own
    return np.array([[kind not in mine for kind in kinds] for mine in own], np.bool_).reshape(core.shape)


def carrying_groups(
    class_id: Ints,
    text_index: Ints,
    contributions: Floats,
    directions: Floats,
    group_of: Ints,
    text_embeddings: Floats,
) -> Pairs:
    """For each pair (P,) the group that carries most of the text's evidence in the class: the largest sum
    over its channels of the class's mean contribution (C, K) times the similarity of the channel's direction
    (K, D) with the text (T, D). Texts are taken minus the bank's mean: what all texts share tells no text
    from another."""
    directions, texts = np.asarray(directions, np.float64), np.asarray(text_embeddings, np.float64)
    texts = texts - texts.mean(axis=0)
    member = (np.arange(int(group_of.max()) + 1)[:, None] == group_of).astype(np.float64)  # (G, K)
    carrier = np.zeros(len(class_id), np.int64)
    for c in np.unique(class_id):
        pairs = np.flatnonzero(class_id == c)
        aligned = directions @ texts[text_index[pairs]].T  # (K, p)
        evidence = member @ (np.asarray(contributions[c], np.float64)[:, None] * aligned)  # (G, p)
        carrier[pairs] = evidence.argmax(axis=0)
    return Pairs(np.asarray(class_id, np.int64), np.asarray(text_index, np.int64), carrier)


def find_shortcuts(
    pairs: Pairs,
    shares: TextShares,
    counts: ConceptCounts,
    flips: WhatIf | None,
    *,
    class_names: Sequence[str],
    texts: Sequence[str],
    text_ids: Sequence[int],
    kinds: Sequence[str],
) -> list[Finding]:
    """Findings of all pairs, best score first, ranked from 1. ``flips`` is None where the head is not linear.
    q-values are over all pairs whose two sides both have images. Raises SchemaMismatch if the bank's lists
    differ in length or ``flips`` was counted for other pairs."""
    if not len(texts) == len(text_ids) == len(kinds) == shares.texts:
        raise SchemaMismatch("Texts, ids, kinds and shares are not of one bank", where=f"{len(texts)} texts")
    if flips is not None and not flips.pairs.same_as(pairs):
        raise SchemaMismatch("The what-if was counted for other pairs", where=f"{len(flips.pairs)} pairs")
    at = (pairs.class_id, pairs.text_index)
    sides = counts.accuracy(*at) if counts.labelled else counts.predictions(*at)
    difference = rate_difference(sides)
    accuracy_with, accuracy_without = rates(*sides[:2]), rates(*sides[2:])
    q = false_discovery(fisher_exact(sides))
    share, scores = shares.share[at], score(pairs, shares, counts, difference, flips, kinds)
    flip_rate = np.full(len(pairs), np.nan) if flips is None else flips.flip_rate
    order = np.lexsort((pairs.text_index, pairs.class_id, -share, -scores))
    findings = []
    for rank, pair in enumerate(order, start=1):
        class_id, text = int(pairs.class_id[pair]), int(pairs.text_index[pair])
        findings.append(
            Finding(
                finding_id=finding_id(class_names, class_id, texts[text]),
                class_id=class_id,
                text_id=int(text_ids[text]),
                group_id=int(pairs.group_id[pair]),
                kind=kinds[text],
                share=float(share[pair]),
                accuracy_with=_known(accuracy_with[pair]) if counts.labelled else None,
                accuracy_without=_known(accuracy_without[pair]) if counts.labelled else None,
                n_with=int(sides.n_with[pair]),
                n_without=int(sides.n_without[pair]),
                effect=_known(difference.effect[pair]),
                effect_low=_known(difference.low[pair]),
                effect_high=_known(difference.high[pair]),
                q_value=_known(q[pair]),
                flip_rate=_known(flip_rate[pair]),
                proof_drop=None,
                proof_control=None,
                proof_n=0,
                verdict="association",
                rank=rank,
            )
        )
    return findings


def supported(findings: Sequence[Finding], least: int = LEAST_IMAGES) -> list[Finding]:
    """Those findings whose concept at least ``least`` images show, ranked anew: a word that hardly any image
    of the class shows is a poor word for its evidence, not a shortcut in these data."""
    kept = [finding for finding in findings if finding.n_with >= least]
    return [replace(finding, rank=rank) for rank, finding in enumerate(kept, start=1)]


def finding_id(class_names: Sequence[str], class_id: int, text: str) -> int:
    """The same id for the same class and text in every run. Where two classes share a name, their numbers
    tell them apart."""
    name = class_names[class_id]
    return stable_id(f"{name}\n{text}" if class_names.count(name) == 1 else f"{name}\n{class_id}\n{text}")


def score(
    pairs: Pairs,
    shares: TextShares,
    counts: ConceptCounts,
    difference: Difference,
    flips: WhatIf | None,
    kinds: Sequence[str],
) -> NDArray[np.float64]:
    """(P,) scores by the formula at the top; ``difference`` is that of the findings' own effect."""
    at = (pairs.class_id, pairs.text_index)
    weight = np.array([KIND_WEIGHTS[kinds[text]] for text in pairs.text_index], np.float64)
    known = [difference.low]
    if counts.labelled:
        known.append(rate_difference(counts.false_positives(*at)).low)
    evidence = [_mean_of_known(known)]
    if flips is not None:
        evidence.append(flips.flip_rate - np.nan_to_num(flips.other_flip_rate))
    strength = np.nan_to_num(_mean_of_known(evidence))
    return weight * np.maximum(shares.excess[at], 0) * (_SHARE_ALONE + (1 - _SHARE_ALONE) * strength)


def _mean_of_known(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean (P,) over those of the parts that are not NaN, each at least 0; NaN where none is known."""
    stacked = np.stack(parts)
    known = ~np.isnan(stacked)
    total = np.where(known, np.maximum(stacked, 0), 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
