"""The form of a part's file: each thing that FORMAT.md says of it, broken alone, is a listed problem."""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.checked import cut_blocks
from store.errors import Damaged
from store.manifest import LARGE, Block, sha256
from store.reader import Snapshot
from store.schema import TABLE_NAMES, tables
from store.verify import problems
from store.writer import ROW_GROUP_ROWS, encode
from tests.store.worlds import TinyWorld, tiny_store

WORLD = TinyWorld()
WRITTEN = {  # as ``store.writer.encode`` writes the table errors
    "row_group_size": ROW_GROUP_ROWS,
    "compression": "zstd",
    "use_dictionary": ["uri", "stage", "reason"],
    "write_page_checksum": True,
    "version": "2.6",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("form") / "s"
    tiny_store(path, WORLD)
    return Snapshot.open(path)


def with_file(snapshot, table, rows, data):
    """The snapshot with a rightly hashed file of these bytes in place of a table's parts."""
    digest = sha256(data)
    path = f"parts/{table}/forged-{digest[:12]}.parquet"
    snapshot.storage.put(path, data)
    old = snapshot.parts(table)[0]
    part = replace(old, path=path, rows=rows, bytes=len(data), sha256=digest, blocks=cut_blocks(data))
    kept = tuple(one for one in snapshot.manifest.parts if one.table != table)
    indexes = tuple(one for one in snapshot.manifest.indexes if one.table != table)
    return Snapshot(snapshot.storage, replace(snapshot.manifest, parts=(*kept, part), indexes=indexes))


def written(rows, **settings):
    sink = io.BytesIO()
    pq.write_table(rows, sink, **{**WRITTEN, **settings})
    return sink.getvalue()


def errors(count):
    names = [f"broken/{number:06d}.png" for number in range(count)]
    return pa.table(
        [names, ["decode"] * count, ["cut short"] * count], schema=tables(WORLD.dims)["errors"].schema
    )


BROKEN = {
    "version": ({"version": "1.0"}, "it is Parquet 1.0 and not 2.6"),
    "snappy": ({"compression": "snappy"}, "uri is compressed by SNAPPY and not by zstd"),
    "one column": (
        {"compression": {"uri": "zstd", "stage": "zstd", "reason": "gzip"}},
        "reason is compressed by GZIP and not by zstd",
    ),
    "no checksums": ({"write_page_checksum": False}, "a page of uri has no checksum"),
    "row groups": ({"row_group_size": 5}, "its row groups are not of 8192 rows"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_property_of_a_file_is_proven(sound, case):
    settings, words = BROKEN[case]
    rows = errors(17)
    assert problems(with_file(sound, "errors", 17, written(rows))) == []
    found = problems(with_file(sound, "errors", 17, written(rows, **settings)))
    assert {one.kind for one in found} == {"form"}
    assert words in [one.what for one in found]


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_an_empty_part_of_any_table_is_of_the_right_form(sound, table):
    data = encode(tables(sound.dims)[table].schema.empty_table())
    assert [
        one for one in problems(with_file(sound, table, 0, data)) if one.kind in ("form", "damaged")
    ] == []


def test_a_row_group_that_is_too_large(sound):
    rows = errors(ROW_GROUP_ROWS + 2)
    assert problems(with_file(sound, "errors", rows.num_rows, written(rows))) == []
    found = problems(with_file(sound, "errors", rows.num_rows, written(rows, row_group_size=10**6)))
    assert [(one.kind, one.what) for one in found] == [("form", "its row groups are not of 8192 rows")]


@pytest.mark.parametrize("where", ["file", "schema"])
def test_metadata_beside_arrows_schema(sound, where):
    rows = errors(3)
    sink = io.BytesIO()
    schema = rows.schema.with_metadata({"made": "2024-05-01"}) if where == "schema" else rows.schema
    options = {key: value for key, value in WRITTEN.items() if key != "row_group_size"}
    with pq.ParquetWriter(sink, schema, **options) as writer:
        writer.write_table(rows.cast(schema))
        if where == "file":
            writer.add_key_value_metadata({"made": "2024-05-01"})
    found = problems(with_file(sound, "errors", 3, sink.getvalue()))
    assert [(one.kind, one.what) for one in found] == [("form", "it carries metadata beside Arrow's schema")]


def test_dictionaries_are_for_text_alone(sound):
    rows = sound.table("activations")
    data = written(rows, use_dictionary=True)
    found = problems(with_file(sound, "activations", rows.num_rows, data))
    assert [one.what for one in found] == [
        "image_id is no text and has a dictionary",
        "pooled.list.element is no text and has a dictionary",
    ]


def test_byte_stream_split(sound):
    rows = sound.table("examples")
    data = written(
        rows, use_dictionary=["side"], use_byte_stream_split=["activation"], use_compliant_nested_type=False
    )
    found = problems(with_file(sound, "examples", rows.num_rows, data))
    assert [(one.kind, one.what) for one in found] == [("form", "activation is split by bytes")]


def test_blocks_end_where_readers_stop(sound):
    """Other blocks with right hashes serve the same bytes, but make a small question a large one."""
    random = np.random.default_rng(5)
    count = 60_000
    names = [f"broken/{number:06d}-{random.integers(1 << 60):x}.png" for number in range(count)]
    rows = pa.table(
        [names, ["decode"] * count, ["cut short"] * count], schema=tables(WORLD.dims)["errors"].schema
    )
    data = encode(rows)
    right = with_file(sound, "errors", count, data)
    assert problems(right) == []
    part = right.parts("errors")[0]
    assert len(part.blocks) > 2
    ends = [*range(0, len(data), LARGE), len(data)]
    pieces = [data[a:b] for a, b in pairwise(ends)]
    other = replace(part, blocks=tuple(Block(len(one), sha256(one)) for one in pieces))
    kept = tuple(one for one in right.manifest.parts if one != part)
    found = problems(Snapshot(sound.storage, replace(right.manifest, parts=(*kept, other))))
    assert [(one.kind, one.what) for one in found] == [("form", "its blocks do not end where readers stop")]


@pytest.mark.parametrize("data", [b"PAR1", b"PAR1" + bytes(50) + b"PAR1", b"no parquet at all" * 9])
def test_what_is_no_parquet_file_is_damage(sound, data):
    other = with_file_of_bytes(sound, data)
    assert "damaged" in {one.kind for one in problems(other)}
    with pytest.raises(Damaged, match="no Parquet file"):
        other.table("errors")


def with_file_of_bytes(snapshot, data):
    digest = sha256(data)
    path = f"parts/errors/forged-{digest[:12]}.parquet"
    snapshot.storage.put(path, data)
    part = replace(snapshot.parts("errors")[0], path=path, rows=1, bytes=len(data), sha256=digest, blocks=())
    kept = tuple(one for one in snapshot.manifest.parts if one.table != "errors")
    return Snapshot(snapshot.storage, replace(snapshot.manifest, parts=(*kept, part)))
