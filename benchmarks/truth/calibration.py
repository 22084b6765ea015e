"""Confidences: fit their curves on worlds of even seeds, and measure on odd seeds how far to trust them.

    python -m benchmarks.truth.calibration --fit    fit anew and print the curves, write nothing
    python -m benchmarks.truth.calibration          measure the curves of textcam/confidence.py, write results

Worlds are spoilt on purpose, so that many names are wrong: fewer images, an encoder with noise, a text bank
of which a half or three quarters are missing, classifiers that were never trained, activations that belong
to other images. A word is right if what it names is, or nearly is, what raises the channel or the logit
most when a scene is rendered again (``causes``), and nothing is right of shuffled activations.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize

from benchmarks.measure import Measure, machine, publish
from benchmarks.truth import shortcuts
from benchmarks.truth.algebraic import AlgebraicWorld, make_algebraic
from benchmarks.truth.cases import make_case, square
from benchmarks.truth.causes import NEARLY, Causes, causes_of
from benchmarks.truth.evidence import Array, Evidence
from benchmarks.truth.measures import bootstrap, calibration_error
from benchmarks.truth.ours import DEFAULT, Directions
from benchmarks.truth.square import Case
from demo.models import TinyClassifier
from textcam import confidence as stated
from textcam.arrays import unit_rows
from textcam.confidence import Curve
from textcam.explain import explanation_direction
from textcam.groups import group_channels, group_directions
from textcam.names import ridge_naming
from textcam.select import nearest_texts, select_texts

SPOILT = (  # images, noise of the encoder, part of the bank that is left
    (320, 0.0, 1.0),
    (160, 0.0, 1.0),
    (80, 0.0, 1.0),
    (320, 1.0, 1.0),
    (320, 2.0, 1.0),
    (80, 2.0, 1.0),
    (320, 0.0, 0.5),
    (160, 1.0, 0.5),
    (320, 0.0, 0.25),
)
GROUPS = 32
LIKELY = ("rendered", "formulas")  # worlds of trained classifiers and whole banks
LEVELS = ("presence", "ridge", "group", "explanation", "class")
"""What has a curve; a channel's confidence comes from the first two."""


@dataclass(frozen=True)
class Told:
    """Signs (n, S) of one level in one world, and whether the first words were right (n,)."""

    seed: int
    world: str
    level: str
    signs: Array
    right: Array


def told_by_formulas(seed: int) -> Iterator[Told]:
    """T0: the names of channels."""
    for meanings in (1, 2):
        for noise in (4.0, 16.0, 32.0, 64.0):
            for images in (1000, 4000):
                world = AlgebraicWorld(seed=seed, noise=noise, meanings=meanings, images=images)
                evidence, scoring = make_algebraic(world)

                def right(texts: Array, meanings: Array = scoring.meanings) -> Array:
                    return (texts >= 0) & meanings[np.arange(len(texts)), texts]

                yield from channels_told(seed, "formulas", Directions(evidence), right)


def channels_told(seed: int, world: str, fitted: Directions, right) -> Iterator[Told]:
    """What both ways to name channels say of themselves."""
    names = fitted.names(replace(DEFAULT, form="presence"))
    others, of_others, known = ridge_naming(fitted.sums(), fitted.evidence.texts)
    signs = stated.presence_signs(fitted.sums().presence, fitted.moments(), names.coefficients, known)
    first = first_texts(names.coefficients)
    yield Told(seed, world, "presence", signs[first >= 0], right(first)[first >= 0])
    first = first_texts(others)
    yield Told(seed, world, "ridge", of_others[first >= 0], right(first)[first >= 0])
    both = fitted.names(DEFAULT)
    yield Told(seed, world, "channel", both.confidence[:, None], right(first_texts(both.coefficients)))


def first_texts(coefficients: Array) -> Array:
    """(K,) the text with the largest coefficient, -1 where there is none."""
    return np.where(coefficients.any(1), coefficients.argmax(1), -1)


# --- rendered worlds --------------------------------------------------------------------------------------


def told_by_renderings(seed: int) -> Iterator[Told]:
    """T1 and T2: channels, groups, explanations and classes of spoilt cases."""
    modules = {
        "biased": shortcuts.classifier(shortcuts.biased_world(seed)).module,
        "clean": shortcuts.classifier(shortcuts.clean_world(seed)).module,
    }
    causes = {name: causes_of(module) for name, module in modules.items()}
    for case in square(seed):
        yield from told_of_case(seed, "rendered", case, causes["biased" if case.biased else "clean"])
    torch.manual_seed(seed)
    module = TinyClassifier().eval()
    case = make_case("untrained", module, [], (), confounded=False, per_class=80, seed=seed)
    case = replace(case, predicted=np.arange(len(case.predicted)) % len(case.head))
    yield from told_of_case(seed, "untrained", case, causes_of(module))


def told_of_case(seed: int, world: str, case: Case, causes: Causes) -> Iterator[Told]:
    """One case, spoilt in every way."""
    rng = np.random.default_rng([35, seed])
    images, texts = len(case.evidence.pooled), len(case.evidence.texts)
    for count, noise, bank in SPOILT:
        rows = rng.permutation(images)[:count]
        kept = np.sort(rng.permutation(texts)[: round(texts * bank)])
        evidence = with_noise(with_bank(case.evidence.rows(rows), kept), noise, rng)
        name = f"{world}, half the bank or less" if bank < 1 else world
        yield from told(seed, name, Directions(evidence), case, rows, rows, kept, causes)
    for count in (320, 80):
        rows, others = rng.permutation(images)[:count], rng.permutation(images)[:count]
        evidence = case.evidence.rows(rows)
        evidence = replace(evidence, pooled=case.evidence.pooled[others], maps=case.evidence.maps[others])
        yield from told(seed, "shuffled", Directions(evidence), case, rows, others, np.arange(texts), None)


def with_noise(evidence: Evidence, amount: float, rng: np.random.Generator) -> Evidence:
    """As a worse encoder would see the images; ``amount`` in lengths of an embedding."""
    if not amount:
        return evidence
    worse = [
        unit_rows(one + amount * rng.normal(size=one.shape) / one.shape[-1] ** 0.5).astype(np.float32)
        for one in (evidence.embeddings, evidence.cells)
    ]
    return replace(evidence, embeddings=worse[0], cells=worse[1])


def with_bank(evidence: Evidence, kept: Array) -> Evidence:
    """With some of the texts."""
    return replace(evidence, texts=evidence.texts[kept], kinds=tuple(evidence.kinds[i] for i in kept))


def told(
    seed: int,
    world: str,
    fitted: Directions,
    case: Case,
    seen: Array,
    asked: Array,
    kept: Array,
    causes: Causes | None,
) -> Iterator[Told]:
    """All levels. The encoder saw the images ``seen`` and the classifier ``asked``; ``kept`` are the texts of
    the bank; without ``causes`` nothing is right."""
    evidence, predicted = fitted.evidence, case.predicted[asked]

    def right(effects: Array | None, texts: Array, most: Array | None = None) -> Array:
        if effects is None:
            return np.zeros(len(texts), bool)
        most = effects.max(1) if most is None else most
        own = effects[np.arange(len(texts)), kept[np.maximum(texts, 0)]]
        return (texts >= 0) & (most > 0) & (own >= NEARLY * most)

    on_channels = None if causes is None else causes.channels
    yield from channels_told(seed, world, fitted, partial(right, on_channels))
    names, directions = fitted.names(DEFAULT), fitted.for_words(DEFAULT)
    sure = names.confidence

    group_of = group_channels(directions, GROUPS)
    groups = int(group_of.max()) + 1
    texts = nearest_texts(group_directions(directions, group_of, groups), evidence.texts).text_index[:, 0]
    signs = stated.group_signs(sure, first_texts(names.coefficients), group_of, texts)
    on_groups = None if causes is None else np.eye(groups)[group_of].T @ on_channels
    yield Told(seed, world, "group", signs, right(on_groups, texts))

    contributions = ((case.head[predicted] - case.head.mean(0)) * evidence.pooled).astype(np.float32)
    words = select_texts(
        explanation_direction(contributions, directions), evidence.texts, relative_sparsity=0.25
    )
    signs = stated.explanation_signs(contributions, sure, words)
    first = words.text_index[:, 0]
    on_logits = None if causes is None else causes.logits - causes.logits.mean(0)
    of_images = np.zeros(len(first), bool)
    if on_logits is not None:
        shown = np.where(case.labels[seen], on_logits[predicted], -np.inf)  # the image's own causes
        of_images = right(shown, first, shown.max(1))
    yield Told(seed, world, "explanation", signs, of_images)

    shares = np.zeros((len(case.head), len(evidence.texts)))
    row, place = np.nonzero(words.text_index >= 0)
    np.add.at(shares, (predicted[row], words.text_index[row, place]), words.coefficients[row, place])
    of_images_sure = np.where(first >= 0, stated.EXPLANATION(signs), 0)
    count = np.bincount(predicted, minlength=len(shares))
    mean = np.bincount(predicted, weights=of_images_sure, minlength=len(shares)) / np.maximum(count, 1)
    there = count > 0
    yield Told(seed, world, "class", mean[there, None], right(on_logits, first_texts(shares))[there])


# --- fit and check ----------------------------------------------------------------------------------------


def fit(signs: Array, right: Array, weights: Array) -> Curve:
    """The logistic curve of largest likelihood whose weights are not negative."""
    wide = np.column_stack([signs, np.ones(len(signs))])
    weights = weights / weights.sum()

    def loss(amounts: Array) -> tuple[float, Array]:
        score = wide @ amounts
        chance = 1 / (1 + np.exp(-score))
        small = 1e-3 * amounts * (np.arange(len(amounts)) < signs.shape[1])
        value = (weights * (np.logaddexp(0, score) - right * score)).sum() + (small * amounts).sum()
        return value, wide.T @ (weights * (chance - right)) + 2 * small

    bounds = [(0, None)] * signs.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(wide.shape[1]), jac=True, bounds=bounds).x
    return Curve(tuple(float(one) for one in np.round(found[:-1], 2)), round(float(found[-1]), 2))


def curve_of(records: list[Told]) -> Curve:
    """Every sort of world that a user may have weighs the same, the others a quarter of that each."""
    worlds = sorted({one.world for one in records})
    size = {world: sum(len(one.right) for one in records if one.world == world) for world in worlds}
    weights = [np.full(len(o.right), (1 if o.world in LIKELY else 0.25) / size[o.world]) for o in records]
    return fit(
        np.concatenate([one.signs for one in records]),
        np.concatenate([one.right for one in records]).astype(float),
        np.concatenate(weights),
    )


def errors(records: list[Told], curve: Curve | None) -> dict[str, tuple[float, ...]]:
    """Calibration error with its interval over seeds, mean confidence and share right; by sort of world."""
    made = {}
    for world in ("all", *sorted({one.world for one in records})):
        by_seed = defaultdict(list)
        for one in records:
            if world in ("all", one.world):
                sure = one.signs[:, 0] if curve is None else curve(one.signs)
                by_seed[one.seed].append(np.column_stack([sure, one.right]))
        pairs = [np.concatenate(of_seed) for of_seed in by_seed.values()]
        every = np.concatenate(pairs)
        each = [calibration_error(one[:, 0], one[:, 1]) for one in pairs]
        low, high = bootstrap(np.array(each))[1:]
        made[world] = (calibration_error(every[:, 0], every[:, 1]), low, high, *every.mean(0))
    return made


def unsure_enough(records: list[Told]) -> Iterator[Measure]:
    """What "no words fit" costs and gains: of channels below the limit the share that was wrong indeed, and
    of those above it the share that is right."""
    pairs = np.concatenate([np.column_stack([one.signs[:, 0], one.right]) for one in records])
    for limit in (0.3, 0.5, 0.7, 0.9):
        above = pairs[:, 0] >= limit
        yield Measure(f"channel | from {limit} on | share of channels", float(above.mean()))
        yield Measure(f"channel | from {limit} on | right", float(pairs[above, 1].mean()), better="higher")
        yield Measure(f"channel | below {limit} | right", float(pairs[~above, 1].mean()))


def gather(seeds: int) -> list[Told]:
    """All records; formulas for half as many seeds, as they take longest."""
    made: list[Told] = []
    for seed in range(seeds):
        made += told_by_renderings(seed)
        made += told_by_formulas(seed) if seed < seeds // 2 else ()
    return made


def main() -> None:
    """Fit or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--fit", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = gather(asked.seeds)
    of_level = lambda level, odd: [o for o in records if o.level == level and o.seed % 2 == odd]  # noqa: E731
    measures = []
    for level in (*LEVELS, "channel"):
        curve = None if level == "channel" else getattr(stated, level.upper())
        if asked.fit and curve is not None:
            curve = curve_of(of_level(level, 0))
            print(f"{level.upper()} = {curve}")
        for world, (error, low, high, sure, right) in errors(of_level(level, 1), curve).items():
            print(f"{level:12} {world:32} error {error:.3f} [{low:.3f}, {high:.3f}] {sure:.2f} {right:.2f}")
            measures.append(Measure(f"{level} | {world} | calibration error", error, low, high))
            measures.append(Measure(f"{level} | {world} | mean confidence", float(sure), better="higher"))
            measures.append(Measure(f"{level} | {world} | right", float(right), better="higher"))
    if not asked.fit:
        publish(
            "truth_confidence", [*measures, *unsure_enough(of_level("channel", 1))], machine(), write=True
        )


if __name__ == "__main__":
    main()
