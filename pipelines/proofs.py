"""The proof of findings: the evidence is edited away where the encoder sees it, the classifier asked again.

One finding is one unit of work: its images are read once, both models look at them, each carrier of the text
gives one trial (see ``textcam.proof`` for the two controls), and the record is the margins before any edit
and their falls. The verdict is drawn from the record, so another rule needs no image again.

Everything happens on the central square of an image, at its own resolution: the encoder sees all of it, and
the classifier prepares it as it prepares any image. The cells of the two models are taken to cover it both.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial as bind
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image as Pillow

from pipelines.bench import Bench, digest
from pipelines.describe import Described
from pipelines.execute import FATAL
from pipelines.extract import ShardRecord
from pipelines.feed import Unusable, open_image, stack
from pipelines.images import ImagePlan, Shard
from pipelines.ledger import Codec, File, read_arrays
from pipelines.proof_images import Sample, draw, find_samples
from pipelines.reading import ImageRef
from pipelines.working import Working
from store.manifest import PartRecord
from store.reader import read_part
from store.writer import write_part
from textcam.arrays import unit_rows
from textcam.audit import Finding, core_texts
from textcam.cam import group_maps
from textcam.classifier import TorchClassifier
from textcam.device import is_out_of_memory
from textcam.edits import Image, core_cells, edit_of
from textcam.encoder import ClipEncoder
from textcam.groups import group_directions
from textcam.proof import Proof, margins, weigh, with_proof
from textcam.records import finding_rows, findings_of
from textcam.trials import Cast, Picture, Trial, make_trials, resized

LARGEST_SIDE = 512  # pixels; larger squares are scaled down
CARRIED = 0.5  # a group this much as near to the text as to the class is not one of the class's own

Floats = NDArray[np.floating]


# --- what is to be done ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """What is to be proved: that the class goes by the text (at this place in the bank), whose evidence this
    ``edit`` takes away. ``core_groups`` of channels are the class itself; ``colourless`` are the places of
    the texts that are edited by tone."""

    class_id: int
    edit: str
    text: int
    core_groups: tuple[int, ...]
    colourless: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProofItem:
    """One finding to prove, and its images; the digest of the shard is the key of its record."""

    subject: Subject
    sample: Sample
    shard: Shard
    shared: File


@dataclass(frozen=True)
class Asked:
    """What the classifier said: of each trial the margin ``before`` any edit and its falls under the edit,
    under the edit that ``kept`` the evidence, and under the edit of an ``other`` image; in units of the
    logit. ``images`` were read."""

    images: int
    before: tuple[float, ...]
    drop: tuple[float, ...]
    kept: tuple[float, ...]
    other: tuple[float, ...]

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Back from plain JSON."""
        return cls(plain["images"], *(tuple(plain[name]) for name in ("before", "drop", "kept", "other")))

    def proof(self) -> Proof:
        """What it proves; without any trial nothing."""
        if not self.before:
            return Proof("unproven", 0.0, 0.0, 0.0, 0.0, 0.0, 0)
        return weigh(*(np.array(one) for one in (self.before, self.drop, self.kept, self.other)))


ASKED = Codec(asdict, Asked.from_dict, lambda record: [])


def to_prove(bench: Bench, parts: Sequence[PartRecord]) -> list[Finding]:
    """The first findings of those that the audit wrote, as many as the configuration asks for."""
    return findings_of(read_part(bench.store, _findings_part(parts)))[: bench.config.proof.findings]


def with_proofs(
    bench: Bench, parts: Sequence[PartRecord], proved: Sequence[Finding], asked: Sequence[Asked], key: str
) -> list[PartRecord]:
    """The same parts with another one of findings, in which these have their proofs."""
    before = _findings_part(parts)
    proofs = {one.finding_id: record.proof() for one, record in zip(proved, asked, strict=True)}
    found = findings_of(read_part(bench.store, before))
    found = [with_proof(one, proofs[one.finding_id]) if one.finding_id in proofs else one for one in found]
    table = bench.tables["findings"]
    part = write_part(bench.store, table, finding_rows(table, found), f"proof-{key[:12]}")
    return [part if one is before else one for one in parts]


def _findings_part(parts: Sequence[PartRecord]) -> PartRecord:
    return next(part for part in parts if part.table == "findings")


def choose_samples(
    bench: Bench, records: Sequence[ShardRecord], described: Described, findings: Sequence[Finding]
) -> list[Sample]:
    """The images of each finding's proof."""
    shared = read_arrays(bench.store, described.shared)
    pairs = [(one.class_id, _place(shared, one)) for one in findings]
    drawn = draw(bench, records, sorted({class_id for class_id, _ in pairs}))
    kinds = described.bank.kinds
    return find_samples(drawn, pairs, shared["text_embeddings"], kinds, bench.config.proof.images)


def proof_items(
    bench: Bench,
    plan: ImagePlan,
    described: Described,
    findings: Sequence[Finding],
    samples: Sequence[Sample],
) -> list[ProofItem]:
    """One unit of work for each finding."""
    shared = read_arrays(bench.store, described.shared)
    core = core_groups(shared, bench.classifier.class_names, described.bank.texts, findings)
    planned = plan.rows["image_id"].to_numpy()
    edits = [edit_of(*one) for one in zip(described.bank.kinds, described.bank.texts, strict=True)]
    colourless = tuple(at for at, edit in enumerate(edits) if edit == "tone")
    items: list[ProofItem] = []
    for finding, sample, groups in zip(findings, samples, core, strict=True):
        rows = plan.rows.filter(pa.array(np.isin(planned, np.array(sample.image_ids, np.int64))))
        text = _place(shared, finding)
        by_colour = edits[text] in ("hue", "tone")
        subject = Subject(finding.class_id, edits[text], text, groups, colourless if by_colour else ())
        mine = digest(described.key, asdict(subject), asdict(sample), bench.config.cam.method)
        items.append(ProofItem(subject, sample, Shard(len(items), rows, mine), described.shared))
    return items


def _place(shared: dict[str, NDArray[Any]], finding: Finding) -> int:
    return int(np.flatnonzero(shared["text_ids"] == finding.text_id)[0])


def core_groups(
    shared: dict[str, NDArray[Any]], names: Sequence[str], texts: Sequence[str], findings: Sequence[Finding]
) -> list[tuple[int, ...]]:
    """For each finding the groups that are the class itself: nearest to its name or to a text that says the
    same, and at most CARRIED times as near to the finding's text. Where class and cue always come together,
    one group carries both; the cue must not be spared with it."""
    text_embeddings, name_embeddings = shared["text_embeddings"], shared["name_embeddings"]
    core = core_texts(names, texts, name_embeddings @ text_embeddings.T)  # (C, T)
    group_of = shared["group_of"]
    directions = group_directions(shared["directions"], group_of, int(group_of.max()) + 1)  # (G, D)
    near, near_names = directions @ text_embeddings.T, directions @ name_embeddings.T  # (G, T), (G, C)
    found = []
    for finding in findings:
        mine = core[finding.class_id]
        itself = np.maximum(near_names[:, finding.class_id], np.where(mine, near, -1).max(axis=1))  # (G,)
        nearest = itself >= np.where(mine, -1, near).max(axis=1)
        apart = near[:, _place(shared, finding)] <= CARRIED * itself
        groups = np.flatnonzero(nearest & apart & (np.arange(len(itself)) != finding.group_id))
        found.append(tuple(int(group) for group in groups))
    return found


# --- one finding ----------------------------------------------------------------------------------------


def prove_finding(bench: Bench, item: ProofItem) -> Generator[Working, None, Asked]:
    """Ask the classifier about one finding. A stage for ``execute``."""
    shared = read_arrays(bench.store, item.shared)
    pictures = read_pictures(bench, item, shared["group_of"])
    yield Working(len(pictures), 0, halved=bench.halved)
    cast = Cast(pictures, item.sample.carriers, item.sample.donors, item.sample.strangers)
    subject, texts = item.subject, shared["text_embeddings"].astype(np.float64)
    trials = make_trials(subject.edit, subject.text, texts, cast, subject.colourless)
    asked = ask(bench, item.subject.class_id, trials, images=len(pictures))
    yield Working(len(pictures), 0, halved=bench.halved)
    return asked


def ask(bench: Bench, class_id: int, trials: Sequence[Trial], images: int) -> Asked:
    """The margins of all trials' pictures, and what the edits cost. A trial of which the classifier cannot
    have a picture, or on which it overflows, is left out."""

    def asked(pictures: Sequence[Image], classes: Sequence[int]) -> NDArray[np.float64]:
        def passes(size: int) -> NDArray[np.float64]:
            found = np.full(len(pictures), np.nan)
            for start in range(0, len(pictures), size):
                rows, pixels = prepared(bench.classifier, pictures[start : start + size])
                if pixels:
                    logits = bench.classifier.forward(stack(pixels, size)).logits[: len(pixels)]
                    found[start + rows] = margins(logits, np.array(classes)[start + rows])
            return found

        return bench.with_room(passes)

    edits = len(trials[0].edited) if trials else 1
    own, others = [class_id] * len(trials), [trial.other_class for trial in trials]

    def mean(pictures: Sequence[Sequence[Image]], classes: Sequence[int]) -> NDArray[np.float64]:
        flat = [one for several in pictures for one in several]
        return asked(flat, np.repeat(classes, edits).tolist()).reshape(-1, edits).mean(axis=1)

    before = asked([trial.before for trial in trials], own)
    drop = before - mean([trial.edited for trial in trials], own)
    kept = before - asked([trial.kept for trial in trials], own)
    other = asked([trial.other for trial in trials], others)
    other = other - mean([trial.other_edited for trial in trials], others)
    columns = np.stack([before, drop, kept, other])
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    return Asked(images, *(tuple(one) for one in columns.tolist()))


# --- reading --------------------------------------------------------------------------------------------


def read_pictures(bench: Bench, item: ProofItem, group_of: NDArray[np.integer]) -> dict[int, Picture]:
    """The item's images by id, without those that cannot be read or that a model cannot say anything of."""
    refs = list(item.shard.refs())
    read = ((ref.image_id, _square(bench, ref, refs)) for ref in refs)
    squares = {image_id: square for image_id, square in read if square is not None}
    dense = _in_batches(bench, bench.encoder, squares, bench.encoder.dense)
    pictures = {
        image_id: Picture(squares[image_id], unit_rows(found.transpose(1, 2, 0)))  # (gh, gw, D)
        for image_id, found in dense.items()
    }
    if not (item.subject.core_groups and item.subject.edit == "swap"):
        return pictures
    own = {*item.sample.carriers} | {
        one.image_id for one in item.sample.strangers if one.class_id == item.subject.class_id
    }
    mine = {image_id: squares[image_id] for image_id in pictures if image_id in own}
    maps = _in_batches(bench, bench.classifier, mine, bind(_core_maps, bench, item, group_of))
    return {
        image_id: replace(one, core=core_cells(maps[image_id])) if image_id in mine else one
        for image_id, one in pictures.items()
        if image_id not in mine or image_id in maps
    }


def _in_batches(
    bench: Bench,
    model: TorchClassifier | ClipEncoder,
    squares: Mapping[int, Image],
    forward: Callable[[NDArray[Any]], Floats],
) -> dict[int, Floats]:
    """What ``forward`` makes of each image, from pixels (B, 3, H, W) to one array an image, a few at a time
    where memory is short. Images that the model cannot have, or makes no finite numbers of, are left out."""

    def passes(size: int) -> dict[int, Floats]:
        found: dict[int, Floats] = {}
        for start in range(0, len(squares), size):
            ids = list(squares)[start : start + size]
            rows, pixels = prepared(model, [squares[one] for one in ids])
            if not pixels:
                continue
            made = forward(stack(pixels, size))
            found |= {ids[row]: one for row, one in zip(rows, made, strict=False) if np.isfinite(one).all()}
        return found

    return bench.with_room(passes)


def prepared(
    model: TorchClassifier | ClipEncoder, pictures: Sequence[Image]
) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """Which of the pictures a model can have, by number, and their pixels. A transform of a user's own may
    refuse a picture, and more so an edited one."""
    rows, pixels = [], []
    for row, picture in enumerate(pictures):
        try:
            one = model.prepare(Pillow.fromarray(picture))
        except Exception as error:
            if isinstance(error, FATAL) or is_out_of_memory(error):
                raise
            continue
        if one.shape == (3, *model.input_size):
            rows.append(row)
            pixels.append(one)
    return np.array(rows, np.int64), pixels


def _core_maps(bench: Bench, item: ProofItem, group_of: NDArray[np.integer], pixels: NDArray[Any]) -> Floats:
    """(B, h, w): what the class's own groups say for it."""
    class_ids = np.full(len(pixels), item.subject.class_id)
    seen, weights = bench.classifier.forward_cam(pixels, class_ids, bench.config.cam.method, maps=True)
    assert seen.maps is not None
    by_group = group_maps(seen.maps, weights, group_of, int(group_of.max()) + 1)  # (B, G, h, w)
    found: Floats = by_group[:, list(item.subject.core_groups)].sum(axis=1)
    return found


def _square(bench: Bench, ref: ImageRef, others: Sequence[ImageRef]) -> Image | None:
    """The central square of an image; None where it cannot be had."""
    image = open_image(bench, ref, others)
    if isinstance(image, Unusable):
        return None
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    square = np.asarray(image.crop((left, top, left + side, top + side)))
    return resized(square, LARGEST_SIDE) if side > LARGEST_SIDE else square
