"""Reading that proves what it reads: a block's SHA-256 is checked before a byte of it is handed on.

So a small question fetches and checks little, locally and from a bucket, and nothing that was flipped, cut
short or lost ever reaches a parser or a result.
"""

import hashlib
from itertools import accumulate, pairwise
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import Damaged, StoreNotFound, TextcamError
from store.manifest import LARGE, SMALL, Block, PartRecord, sha256, was_pruned
from store.storage import RangeFile, Storage

PIECE = 8 << 20  # bytes of a file that are fetched together where all of it is wanted


def cut_blocks(data: bytes) -> tuple[Block, ...]:
    """Cut a Parquet file where its readers do: at column chunks, and ``SMALL`` before its end for the footer.

    Neighbouring chunks share a block of up to ``SMALL`` bytes; larger ones are cut into ``LARGE`` pieces.
    """
    cuts = cut(len(data), chunk_starts(pq.read_metadata(pa.BufferReader(data))))
    view = memoryview(data)
    return tuple(Block(b - a, sha256(view[a:b])) for a, b in pairwise(cuts))


def cut(size: int, chunks: list[int]) -> list[int]:
    """Where the blocks of a file of ``size`` bytes begin, whose column chunks begin at ``chunks``, and its
    end; empty where it is one block.
    """
    if size <= SMALL:
        return []
    tail = size - SMALL
    cuts = [0]
    for start, end in pairwise([*sorted({*chunks, tail}), size]):
        if start > cuts[-1] and (end - cuts[-1] > SMALL or start == tail):
            cuts.append(start)
        while end - cuts[-1] > LARGE:
            cuts.append(cuts[-1] + LARGE)
    return [*cuts, size]


def chunk_starts(metadata: pq.FileMetaData) -> list[int]:
    """Where the column chunks begin; the first shares its block with the magic bytes before it."""
    starts = []
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            has_dictionary = chunk.dictionary_page_offset is not None
            starts.append(chunk.dictionary_page_offset if has_dictionary else chunk.data_page_offset)
    return [0, *sorted(starts)[1:]]


class CheckedFile(RangeFile):
    """A part, read by ranges; every block touched is checked. Raises ``Damaged`` naming the file."""

    def __init__(self, storage: Storage, record: PartRecord, snapshot: int | None = None) -> None:
        """``snapshot``: the number of the one that it is read for."""
        super().__init__(storage, record.path, record.bytes)
        self._snapshot = snapshot
        self._blocks = record.blocks or (Block(record.bytes, record.sha256),)
        self._starts = list(accumulate((block.bytes for block in self._blocks), initial=0))
        # What was found, for readers that swallow it; not the error, whose traceback would hold the reader.
        self.damage: tuple[type[TextcamError], str, str, str] | None = None
        self._held: tuple[int, bytes] = (0, b"")  # the last run of checked blocks, if small

    def _fetch(self, start: int, length: int) -> bytes:
        first, data = self._held
        if not (first <= start and start + length <= first + len(data)):
            try:
                first, data = self._checked_run(start, start + length)
            except (Damaged, StoreNotFound) as error:
                self.damage = (type(error), error.what, error.where, error.fix)
                raise
            self._held = (first, data) if len(data) <= SMALL else (0, b"")
        return data[start - first : start - first + length]

    def _checked_run(self, start: int, end: int) -> tuple[int, bytes]:
        """All blocks that overlap [start, end): where they begin and their bytes."""
        touched = [i for i, block in enumerate(self._blocks) if self._overlaps(i, block, start, end)]
        first = self._starts[touched[0]]
        length = self._starts[touched[-1] + 1] - first
        data = read_range(self._storage, self._path, first, length, self._snapshot)
        view = memoryview(data)
        for i in touched:
            block = self._blocks[i]
            offset = self._starts[i] - first
            if sha256(view[offset : offset + block.bytes]) != block.sha256:
                raise damaged(
                    self._storage, self._path, f"bytes from {self._starts[i]} do not have their hash"
                )
        return first, data

    def _overlaps(self, i: int, block: Block, start: int, end: int) -> bool:
        return self._starts[i] < end and start < self._starts[i] + block.bytes


def read_checked(storage: Storage, path: str, digest: str, snapshot: int | None = None) -> bytes:
    """A whole file that must have this hash. Raises ``Damaged`` naming the file (or see ``missing``)."""
    try:
        data = storage.read(path)
    except FileNotFoundError:
        raise missing(storage, path, snapshot) from None
    if sha256(data) != digest:
        raise damaged(storage, path, "its content does not have its hash")
    return data


def check_file(storage: Storage, path: str, size: int, digest: str) -> None:
    """Raise ``Damaged``, naming the file, unless it has this size and hash. Reads it once, in pieces."""
    _check_size(storage, path, size, None)
    if file_hash(RangeFile(storage, path, size)) != digest:
        raise damaged(storage, path, "its content does not have its hash")


def copy_checked(
    storage: Storage, path: str, size: int, digest: str, into: BinaryIO, snapshot: int | None
) -> None:
    """Read a file once, in pieces, into one of our own, which is set back to its beginning: what is checked
    is what is used, whatever becomes of the file. Raises ``Damaged`` naming the file (or see ``missing``)."""
    _check_size(storage, path, size, snapshot)
    found = hashlib.sha256()
    for start in range(0, size, PIECE):
        piece = read_range(storage, path, start, min(PIECE, size - start), snapshot)
        found.update(piece)
        into.write(piece)
    if found.hexdigest() != digest:
        raise damaged(storage, path, "its content does not have its hash")
    into.seek(0)


def _check_size(storage: Storage, path: str, size: int, snapshot: int | None) -> None:
    try:
        found = storage.size(path)
    except FileNotFoundError:
        raise missing(storage, path, snapshot) from None
    if found != size:
        raise damaged(storage, path, f"it has {found} bytes and not {size}")


def file_hash(file: BinaryIO | RangeFile) -> str:
    """SHA-256 of a file from its beginning, to which it is set back."""
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(LARGE):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()


def read_range(storage: Storage, path: str, start: int, length: int, snapshot: int | None = None) -> bytes:
    """Exactly these bytes. Raises ``Damaged`` naming the file where they are missing (or see ``missing``)."""
    try:
        data = storage.read_range(path, start, length)
    except FileNotFoundError:
        raise missing(storage, path, snapshot) from None
    if len(data) != length:
        raise damaged(storage, path, f"it is cut short: {start + len(data)} bytes")
    return data


def missing(storage: Storage, path: str, snapshot: int | None) -> TextcamError:
    """The error for a committed file that is not there: ``StoreNotFound`` where the snapshot that it is read
    for was pruned meanwhile, else ``Damaged``."""
    if snapshot is not None and was_pruned(storage, snapshot):
        return StoreNotFound(
            f"Snapshot {snapshot} was pruned while it was being read.",
            where=f"{storage.uri}/{path}",
            fix="Open the store anew: its newest snapshot is whole.",
        )
    return damaged(storage, path, "it is missing")


def damaged(storage: Storage, path: str, why: str) -> Damaged:
    """The error for a committed file that is not what was committed."""
    return Damaged(
        f"A file of the store is damaged: {why}.",
        where=f"{storage.uri}/{path}",
        fix="Restore it from a copy or run the precompute again; `textcam verify` lists all damage.",
    )
