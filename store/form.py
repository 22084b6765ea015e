"""The form of a part's file: what its footer and its pages say beside its rows, and where its blocks end."""

from collections.abc import Iterator
from itertools import pairwise

import pyarrow.parquet as pq

from store.checked import chunk_starts, cut, read_range
from store.manifest import PartRecord
from store.storage import Storage
from store.writer import PARQUET, ROW_GROUP_ROWS

_HEADER = 64  # bytes, more than the beginning of a page's header takes
_CHECKSUM = 0x15  # the fourth field of a page's header: a 32-bit integer right after the third


def faults(storage: Storage, part: PartRecord, file: pq.ParquetFile) -> Iterator[str]:
    """What in a file, whose hash holds, is not as FORMAT.md says that parts are written."""
    metadata = file.metadata
    if metadata.format_version != PARQUET:
        yield f"it is Parquet {metadata.format_version} and not {PARQUET}"
    if {*(metadata.metadata or {})} - {b"ARROW:schema"} or file.schema_arrow.metadata:
        yield "it carries metadata beside Arrow's schema"
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if any(one != ROW_GROUP_ROWS for one in rows[:-1]) or any(one > ROW_GROUP_ROWS for one in rows):
        yield f"its row groups are not of {ROW_GROUP_ROWS} rows"
    yield from dict.fromkeys(_chunks(storage, part, metadata))


def block_faults(part: PartRecord, metadata: pq.FileMetaData) -> Iterator[str]:
    """Whether the blocks of a part end where they should."""
    ends = cut(part.bytes, chunk_starts(metadata))
    if [block.bytes for block in part.blocks] != [end - start for start, end in pairwise(ends)]:
        yield "its blocks do not end where readers stop"


def _chunks(storage: Storage, part: PartRecord, metadata: pq.FileMetaData) -> Iterator[str]:
    for group in range(metadata.num_row_groups):
        if metadata.row_group(group).num_rows == 0:
            continue  # an empty part: no pages
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            name = chunk.path_in_schema
            if chunk.compression != "ZSTD":
                yield f"{name} is compressed by {chunk.compression} and not by zstd"
            if chunk.has_dictionary_page and chunk.physical_type != "BYTE_ARRAY":
                yield f"{name} is no text and has a dictionary"
            if "BYTE_STREAM_SPLIT" in chunk.encodings:
                yield f"{name} is split by bytes"
            for start in (chunk.dictionary_page_offset, chunk.data_page_offset):
                if start is not None and not _has_checksum(storage, part, start):
                    yield f"a page of {name} has no checksum"


def _has_checksum(storage: Storage, part: PartRecord, start: int) -> bool:
    """Whether the page that begins at ``start`` has its CRC: its header's fourth field (compact Thrift)."""
    header = read_range(storage, part.path, start, min(_HEADER, part.bytes - start))
    at = 0
    for _ in range(3):  # type and both sizes: a byte that names the field, then a number of 7 bits a byte
        at += 1
        while header[at] & 0x80:
            at += 1
        at += 1
    return header[at] == _CHECKSUM
