"""Questions and acts of an audit: findings with people's marks, slices, matching, a corrected head, the data
themselves. ``Query.audit`` of an open store; needs neither torch nor ray.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.errors import QueryError
from store.marks import REMOVED, Mark, add_mark, marks
from store.reader import Snapshot
from textcam.association import NEAR, Association, Double, associations, doubles
from textcam.audit import Finding, core_texts
from textcam.catalogue import Catalogue
from textcam.image_rows import concept_presence, has_labels, image_rows
from textcam.marks import with_marks
from textcam.matching import Matched, matched
from textcam.records import findings_of
from textcam.replay import Replay, replay
from textcam.shares import ClassMeans
from textcam.slices import CONFIDENT, SliceNames, label_suspects, slice_batches
from textcam.slices import slices as slice_rows
from textcam.suppress import LOST, Method, Samples, Suppressed
from textcam.suppress import suppress as corrected_head
from textcam.two_sided import of_store
from textcam.whatif import Head, neutral_head, project_out

_MOST_PRODUCTS = 2e10  # images times channels times classes of a refit: minutes on two cores
_MOST_VALUES = 5e7  # images times channels of a refit: each is held in 16 bytes at most, 0.8 GB


@dataclass(frozen=True)
class AuditQuery:
    """The audit of one snapshot; see ``Query.audit``."""

    snapshot: Snapshot
    catalogue: Catalogue

    # --- findings and marks ---------------------------------------------------------------------------------

    @cached_property
    def marks(self) -> dict[tuple[str, str], Mark]:
        """What people said, by class name and text: read once."""
        return marks(self.snapshot.storage)

    def findings(self) -> list[Finding]:
        """The findings, most suspicious first; those marked as core come last, and ranks count anew."""
        found = findings_of(self.snapshot.table("findings"))
        if not self.marks:
            return found
        return with_marks(found, [self.pair(one) for one in found], self.marks)

    def pair(self, finding: Finding) -> tuple[str, str]:
        """Class name and text of a finding."""
        name = self.catalogue.classes.names[finding.class_id]
        return name, self.catalogue.texts.words([finding.text_id])[0].text

    def finding(self, name: str) -> Finding:
        """A finding by "CLASS:TEXT", by its rank, or by its id. Raises QueryError, naming the first ones."""
        found = self.findings()
        for one in found:
            own_class, text = self.pair(one)
            if name.casefold() == f"{own_class}:{text}".casefold():
                return one
        if name.isdecimal():
            for one in found:
                if int(name) in (one.rank, one.finding_id):
                    return one
        first = ", ".join(":".join(self.pair(one)) for one in found[:3])
        raise QueryError(
            f"There is no finding {name!r}.",
            where=self.snapshot.storage.uri,
            fix=f"Name it by CLASS:TEXT or by its rank: {first or 'there are no findings'}.",
        )

    def mark(self, finding: Finding, said: str, note: str = "") -> Mark:
        """Say what a finding is: core, spurious or unclear. It is kept with the store, for all snapshots."""
        made = Mark(*self.pair(finding), said, note)
        add_mark(self.snapshot.storage, made)
        self.__dict__.pop("marks", None)
        return made

    def unmark(self, name: str) -> Mark:
        """Take back what was said about a finding, named as for ``finding`` or, where there is no such
        finding any more, by CLASS:TEXT. Raises QueryError for one that is not marked.
        """
        held = {":".join(pair).casefold(): pair for pair in self.marks}
        pair = held.get(name.casefold()) or self.pair(self.finding(name))
        if pair not in self.marks:
            raise QueryError(
                f"{':'.join(pair)} is not marked.",
                where=self.snapshot.storage.uri,
                fix=f"Marked are: {', '.join(':'.join(one) for one in sorted(self.marks)) or 'none'}.",
            )
        removal = Mark(*pair, REMOVED)
        add_mark(self.snapshot.storage, removal)
        self.__dict__.pop("marks", None)
        return removal

    # --- images ---------------------------------------------------------------------------------------------

    def slices(self, findings: Sequence[Finding]) -> pa.Table:
        """Images that follow, break and fail by these findings; see ``textcam.slices``."""
        return slice_rows(self.snapshot, findings, self._names(findings))

    def slice_batches(self, findings: Sequence[Finding]) -> Iterator[pa.RecordBatch]:
        """The same rows, streamed shard by shard."""
        return slice_batches(self.snapshot, findings, self._names(findings))

    def _names(self, findings: Sequence[Finding]) -> SliceNames:
        return SliceNames(self.catalogue.classes.names, [self.pair(one)[1] for one in findings])

    def label_suspects(self, confident: float = CONFIDENT) -> pa.Table:
        """Images whose label is in doubt; see ``textcam.slices``."""
        names, texts = self.catalogue.classes.names, self.catalogue.texts.texts
        return label_suspects(self.snapshot, names, texts, confident)

    def matched(self, findings: Sequence[Finding]) -> list[Matched]:
        """Accuracy with minus without each finding's text, matched for the rest; see ``textcam.matching``."""
        return matched(self.snapshot, findings)

    # --- the data alone -------------------------------------------------------------------------------------

    def associations(self) -> list[Association]:
        """Classes and texts that go together in the images; see ``textcam.association``."""
        core = core_texts(self.catalogue.classes.names, self.catalogue.texts.texts)
        return associations(self.snapshot, core)

    def doubles(self, near: float | None = NEAR, most: int = 100_000) -> list[Double]:
        """Images that are there twice; see ``textcam.association.doubles``."""
        return doubles(self.snapshot, near, most)

    # --- the head -------------------------------------------------------------------------------------------

    def head(self) -> Head:
        """The linear head: weights (C, K), bias (C,). Raises QueryError where it is not linear."""
        classes = self.catalogue.classes
        if classes.weights is None or classes.bias is None:
            raise QueryError(
                "This classifier's head is not linear on its pooled maps: it cannot be changed in the store.",
                where="classes.weights",
                fix="Use a classifier of global average pooling and one linear layer.",
            )
        return np.asarray(classes.weights, np.float64), np.asarray(classes.bias, np.float64)

    def what_if(self, *, group_id: int | None = None, text: str | None = None) -> Replay:
        """All images answered again with a group's channels set to their mean, or with a text's direction
        (from the channels' own) taken out of the activations; see ``textcam.replay``. Raises QueryError
        unless exactly one of both is named, and for a group or a text that is not there.
        """
        if (group_id is None) == (text is None):
            raise QueryError("A what-if needs a group or a text.", fix="Name one of both.")
        head, mean = self.head(), self._mean_pooled()
        if group_id is not None:
            channels = np.flatnonzero(self.catalogue.channels.group_of == group_id)
            if not len(channels):
                raise QueryError(f"There is no group {group_id}.", where="groups")
            changed = neutral_head(*head, channels, mean)
        else:
            row = self.catalogue.texts.row_of(str(text))
            if row is None:
                raise QueryError(f"The bank has no text {text!r}.", where="texts")
            direction = self.catalogue.channels.directions @ self.catalogue.texts.embeddings[row]
            changed = project_out(*head, direction, mean)
        return replay(self.snapshot, head, changed, labelled=has_labels(self.snapshot))

    def _mean_pooled(self) -> NDArray[np.float64]:
        means = ClassMeans(1, self.snapshot.dims.channels)
        for rows in image_rows(self.snapshot, pooled=True):
            means.update(np.zeros(len(rows), np.int64), rows.pooled)
        return means.overall

    def suppress(
        self, findings: Sequence[Finding], method: Method = "refit", lost: float = LOST
    ) -> Suppressed:
        """The head without these shortcuts, and what it does to held-out images; see ``textcam.suppress``.
        ``lost`` of the average accuracy may be given up for it.

        Raises QueryError without a linear head, activations or labels.
        """
        (weights, bias), samples = self.head(), self._samples(findings)
        if of_store(self.snapshot.manifest.config):
            # The user's layer has one weight a channel: it is corrected, not the two of its sides.
            weights, samples = weights[:, : weights.shape[1] // 2], samples.of_channels()
        classes = np.array([one.class_id for one in findings], np.int64)
        return corrected_head(samples, (weights, bias), classes, method, lost)

    def _samples(self, findings: Sequence[Finding]) -> Samples:
        """The labelled images, or as many of the lowest ids (hashes: a random draw) as time and memory
        allow. They are gathered where they will lie: nothing of them is held twice."""
        if not has_labels(self.snapshot):
            raise QueryError("A head is corrected by labels, and these images have none.", where="images")
        place = np.searchsorted(self.catalogue.texts.ids, [one.text_id for one in findings])
        channels, classes = self.snapshot.dims.channels, len(self.catalogue.classes.names)
        most = max(1, int(min(_MOST_PRODUCTS / classes, _MOST_VALUES) / channels))
        limit, size = self._lowest_ids(most), min(most, self.snapshot.count("images"))
        kept = Samples(
            np.empty(size, np.int64),
            np.empty(size, np.int64),
            np.empty((size, channels), np.float32),
            np.empty((size, len(findings)), np.bool_),
        )
        presence, n = concept_presence(self.snapshot), 0
        for rows in image_rows(self.snapshot, embeddings=True, pooled=True):
            mine = np.flatnonzero((rows.labels >= 0) & (rows.image_ids <= limit))
            to = slice(n, n + len(mine))
            kept.image_ids[to], kept.labels[to] = rows.image_ids[mine], rows.labels[mine]
            kept.pooled[to] = rows.pooled[mine]
            kept.present[to] = presence(rows.embeddings[mine])[:, place]
            n += len(mine)
        return Samples(kept.image_ids[:n], kept.labels[:n], kept.pooled[:n], kept.present[:n])

    def _lowest_ids(self, most: int) -> int:
        """The largest of the ``most`` lowest ids."""
        if self.snapshot.count("images") <= most:
            return np.iinfo(np.int64).max
        ids = self.snapshot.table("images", ["image_id"])["image_id"].to_numpy()
        return int(np.partition(ids, most - 1)[most - 1])
