"""One part in: what is refused, and that the same rows are the same bytes."""

import hashlib

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import store.storage
import store.writer
from store.checked import LARGE, SMALL, CheckedFile, cut_blocks
from store.errors import SchemaMismatch
from store.rows import check_rows, sort_rows, strictly_ascending
from store.schema import Dims, tables
from store.storage import open_storage
from store.writer import ROW_GROUP_ROWS, encode, write_part
from tests.store.worlds import vectors

TABLES = tables(Dims(7, 5, 6))


def rows_of(table, **columns):
    """Rows with the given columns; the others are filled with something allowed."""
    count = len(next(iter(columns.values())))
    arrays = []
    for field in TABLES[table].schema:
        given = columns.get(field.name)
        if pa.types.is_fixed_size_list(field.type):
            values = np.zeros((count, field.type.list_size)) if given is None else np.asarray(given, float)
            arrays.append(vectors(values, field.type))
        elif given is not None:
            arrays.append(pa.array(given, field.type))
        else:
            filler = [] if pa.types.is_list(field.type) else "other" if field.type == pa.string() else 0
            arrays.append(pa.array([filler] * count, field.type))
    return pa.Table.from_arrays(arrays, schema=TABLES[table].schema)


def bulk(count, dim=5):
    random = np.random.default_rng(1)
    return rows_of("embeddings", image_id=np.arange(count), embedding=random.normal(size=(count, dim)))


def test_the_path_names_table_name_and_content(tmp_path):
    storage = open_storage(tmp_path)
    rows = bulk(17)
    part = write_part(storage, TABLES["embeddings"], rows, "shard-3")
    data = storage.read(part.path)
    digest = hashlib.sha256(data).hexdigest()
    assert part.path == f"parts/embeddings/shard-3-{digest[:12]}.parquet"
    assert (part.table, part.rows, part.bytes, part.sha256) == ("embeddings", 17, len(data), digest)
    assert pq.read_table(pa.BufferReader(data)).equals(rows)


def test_the_same_rows_are_the_same_bytes_however_chunked(tmp_path):
    rows = bulk(31)
    pieces = pa.concat_tables([rows.slice(0, 7), rows.slice(7, 13), rows.slice(20)])
    assert encode(rows) == encode(pieces) == encode(rows.replace_schema_metadata({"made": "elsewhere"}))
    storage = open_storage(tmp_path)
    first = write_part(storage, TABLES["embeddings"], rows, "a")
    assert write_part(storage, TABLES["embeddings"], pieces, "a") == first
    assert write_part(storage, TABLES["embeddings"], rows.slice(0, 30), "a").path != first.path
    assert len(storage.list("parts/")) == 2


def test_a_second_write_repairs_a_damaged_part(tmp_path):
    storage = open_storage(tmp_path)
    part = write_part(storage, TABLES["embeddings"], bulk(3), "a")
    right = storage.read(part.path)
    (tmp_path / part.path).write_bytes(right[:-1])
    assert write_part(storage, TABLES["embeddings"], bulk(3), "a") == part
    assert storage.read(part.path) == right


def test_duckdb_reads_half_floats_from_the_file_itself(tmp_path):
    part = write_part(open_storage(tmp_path), TABLES["embeddings"], bulk(9), "a")
    found = duckdb.sql(f"SELECT sum(image_id), count(embedding[5]) FROM '{tmp_path}/{part.path}'").fetchall()
    assert found == [(36, 9)]


def test_parquet_is_written_as_the_format_says():
    data = encode(bulk(ROW_GROUP_ROWS + 1))
    metadata = pq.read_metadata(pa.BufferReader(data))
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [
        ROW_GROUP_ROWS,
        1,
    ]
    chunk = metadata.row_group(0).column(1)
    assert chunk.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" not in chunk.encodings
    assert "RLE_DICTIONARY" not in chunk.encodings
    assert metadata.row_group(0).column(0).statistics.max == ROW_GROUP_ROWS - 1


def test_an_empty_part_is_a_part(tmp_path):
    empty = TABLES["errors"].schema.empty_table()
    part = write_part(open_storage(tmp_path), TABLES["errors"], empty, "a")
    assert part.rows == 0
    assert pq.read_table(tmp_path / part.path).equals(empty)


def image(**columns):
    """One row of images with other values than these."""
    right = {"image_id": [1], "uri": ["a"], "content_hash": ["ab"], "width": [1], "height": [1]}
    return rows_of("images", **{**right, **columns})


REFUSED = {
    "unsorted": (rows_of("embeddings", image_id=[2, 1]), "not sorted"),
    "twice": (rows_of("embeddings", image_id=[1, 1]), "not sorted"),
    "not a number": (rows_of("embeddings", image_id=[1], embedding=[[0, np.nan, 0, 0, 0]]), "NaN"),
    "infinite": (rows_of("embeddings", image_id=[1], embedding=[[0, 0, 0, np.inf, 0]]), "NaN or infinite"),
    "half float overflow": (
        rows_of("activations", image_id=[1], pooled=[[70_000, 0, 0, 0, 0, 0, 0]]),
        "65504",
    ),
    "confidence above 1": (
        rows_of("confidences", subject=["channel"], id=[1], confidence=[1.25]),
        "from 1.25 to 1.25",
    ),
    "confidence of what": (rows_of("confidences", subject=["cat"], id=[1], confidence=[0.5]), "Values other"),
    "number not a number": (rows_of("channels", channel=[0], separation=[float("nan")]), "separation"),
    "nullable not a number": (rows_of("classes", class_id=[0], accuracy=[float("nan")]), "accuracy"),
    "list not a number": (
        rows_of("groups", group_id=[0], similarities=[[0.5, float("inf")]]),
        "similarities",
    ),
    "negative id": (rows_of("embeddings", image_id=[-1]), "at least 0"),
    "negative id in list": (rows_of("groups", group_id=[0], text_ids=[[3, -1]]), "text_ids"),
    "finding of no text": (rows_of("findings", finding_id=[1], text_id=[-1], verdict=["used"]), "at least 0"),
    "map of no group": (rows_of("maps", image_id=[1], group_id=[-2]), "at least -1"),
    "unknown kind": (rows_of("texts", text_id=[1], kind=["thing"]), "object, part"),
    "unknown side": (rows_of("examples", channel=[1], side=["up"]), "positive, negative"),
    "unknown verdict": (rows_of("findings", finding_id=[1], verdict=["maybe"]), "used, association"),
    "negative label": (image(label=[-1]), "column label"),
    "negative prediction": (image(prediction=[-1]), "column prediction"),
    "negative shard": (image(shard=[-5]), "column shard"),
    "no width": (image(width=[0]), "at least 1"),
    "negative height": (image(height=[-1]), "column height"),
    "sure above 1": (image(confidence=[7.0]), "from 7.0 to 7.0; allowed is 0.0 to 1.0"),
    "no content": (image(content_hash=[""]), "column content_hash"),
    "no uri": (image(uri=[""]), "column uri"),
    "no text": (rows_of("texts", text_id=[1], text=[""]), "column text"),
    "not UTF-8": (image(uri=pa.array([b"a\xff"]).view(pa.string())), "Not values of string"),
    "negative count": (rows_of("class_texts", class_id=[0], n=[-1]), "column n"),
    "more than all": (rows_of("classes", class_id=[0], accuracy=[1.5]), "column accuracy"),
    "negative scale": (rows_of("maps", image_id=[1], scale=[-1]), "column scale"),
    "missing column": (
        rows_of("embeddings", image_id=[1]).drop_columns("embedding"),
        "Columns are image_id;",
    ),
    "unknown column": (rows_of("errors", uri=["a"]).append_column("more", pa.array([1])), "more"),
    "other order": (rows_of("errors", uri=["a"]).select(["stage", "uri", "reason"]), "stage, uri"),
    "other type": (
        rows_of("embeddings", image_id=[1]).set_column(0, "image_id", pa.array([1], pa.int32())),
        "int32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_rows_write_nothing(tmp_path, case):
    rows, words = REFUSED[case]
    table = next(one for one in TABLES.values() if one.schema.names[0] in rows.column_names)
    table = next((one for one in TABLES.values() if set(rows.column_names) == set(one.schema.names)), table)
    if case == "missing column":
        table = TABLES["embeddings"]
    if case == "unknown column":
        table = TABLES["errors"]
    with pytest.raises(SchemaMismatch) as caught:
        write_part(open_storage(tmp_path / "s"), table, rows, "a")
    assert words in str(caught.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".tmp-a", "a\0b", "a\\b"])
def test_a_part_is_not_called_just_anything(tmp_path, name):
    with pytest.raises(SchemaMismatch, match="name"):
        write_part(open_storage(tmp_path / "s"), TABLES["embeddings"], bulk(3), name)
    assert not (tmp_path / "s").exists()


def test_uris_are_compared_byte_by_byte(tmp_path):
    """Two ways to write an e with an accent are two names, and nothing is unescaped."""
    names = ["caf%C3%A9", "cafe\u0301", "caf\u00e9"]  # ascending by their bytes
    part = write_part(open_storage(tmp_path), TABLES["errors"], rows_of("errors", uri=names), "a")
    assert pq.read_table(tmp_path / part.path)["uri"].to_pylist() == names
    with pytest.raises(SchemaMismatch, match="not sorted"):
        write_part(open_storage(tmp_path), TABLES["errors"], rows_of("errors", uri=names[::-1]), "b")


def test_what_is_allowed_at_the_edges_is_written(tmp_path):
    for rows, table in (
        (image(label=[None], confidence=[0.0]), "images"),
        (image(label=[0], prediction=[0], confidence=[1.0], shard=[0]), "images"),
        (rows_of("maps", image_id=[1], group_id=[-1]), "maps"),
    ):
        assert write_part(open_storage(tmp_path), TABLES[table], rows, "a").rows == 1


def test_missing_values_are_refused_where_the_schema_does_not_allow_them():
    table = TABLES["errors"]
    rows = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array([None], pa.string()), pa.array(["b"])], schema=table.schema
    )
    with pytest.raises(SchemaMismatch, match="1 values are missing"):
        check_rows(table, rows, "here")
    inner = pa.array([[1, None]], pa.list_(pa.field("item", pa.int64(), nullable=False)))
    groups = rows_of("groups", group_id=[0]).set_column(3, TABLES["groups"].schema.field(3), inner)
    with pytest.raises(SchemaMismatch, match="inside the lists"):
        check_rows(TABLES["groups"], groups, "here")


def test_allowed_rows():
    check_rows(TABLES["maps"], rows_of("maps", image_id=[1, 1], group_id=[-1, 0]), "here")
    check_rows(TABLES["classes"], rows_of("classes", class_id=[0, 5], accuracy=[None, 0.5]), "here")
    check_rows(
        TABLES["findings"], rows_of("findings", finding_id=[0], group_id=[-1], verdict=["used"]), "here"
    )
    check_rows(TABLES["channels"], rows_of("channels", channel=[]), "here")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], True),
        ([(1, "b", 0)], True),
        ([(1, "a", 0), (1, "a", 1), (1, "b", 0), (2, "a", 0)], True),
        ([(1, "b", 0), (1, "a", 1)], False),
        ([(1, "a", 1), (1, "a", 1)], False),
        ([(2, "a", 0), (1, "b", 1)], False),
        ([(1, "é", 0), (1, "z", 0)], False),  # bytes of UTF-8 decide, not a language
        ([(1, "Z", 0), (1, "a", 0)], True),
    ],
)
def test_strictly_ascending(rows, expected):
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    kinds = (pa.int32(), pa.string(), pa.int32())
    keys = pa.table(
        {f"c{i}": pa.array(list(one), kind) for i, (one, kind) in enumerate(zip(columns, kinds, strict=True))}
    )
    assert strictly_ascending(keys) is expected


def test_sort_rows_puts_them_in_key_order():
    table = TABLES["examples"]
    rows = rows_of("examples", channel=[1, 0, 1, 0], side=["positive", "positive", "negative", "negative"])
    ordered = sort_rows(table, rows)
    assert ordered.select(["channel", "side"]).to_pylist() == [
        {"channel": 0, "side": "negative"},
        {"channel": 0, "side": "positive"},
        {"channel": 1, "side": "negative"},
        {"channel": 1, "side": "positive"},
    ]
    assert strictly_ascending(ordered.select(table.key))


@pytest.mark.parametrize("name", ["part:encoded", "put:begun", "put:written", "put:flushed"])
def test_a_write_that_dies_leaves_nothing(tmp_path, monkeypatch, name):
    def boom(at):
        if at == name:
            raise RuntimeError("boom")

    monkeypatch.setattr(store.storage, "step", boom)
    monkeypatch.setattr(store.writer, "step", boom)
    with pytest.raises(RuntimeError, match="boom"):
        write_part(open_storage(tmp_path), TABLES["embeddings"], bulk(3), "a")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("count", [1, 500, 9_000, 50_000])
def test_blocks_cover_the_file(tmp_path, count):
    storage = open_storage(tmp_path)
    part = write_part(storage, TABLES["embeddings"], bulk(count), "a")
    data = storage.read(part.path)
    at = 0
    for block in part.blocks:
        assert hashlib.sha256(data[at : at + block.bytes]).hexdigest() == block.sha256
        assert 0 < block.bytes <= LARGE
        at += block.bytes
    assert at == (len(data) if part.blocks else 0)
    assert bool(part.blocks) == (len(data) > SMALL)
    if part.blocks:
        assert part.blocks[-1].bytes == SMALL
    assert cut_blocks(data) == part.blocks


def test_reading_ids_leaves_the_vectors_alone(tmp_path):
    storage = open_storage(tmp_path)
    table = tables(Dims(7, 499, 6))["embeddings"]
    vectors_of = np.random.default_rng(0).normal(size=(3_001, 499))
    rows = pa.Table.from_arrays(
        [pa.array(range(3_001)), vectors(vectors_of, table.schema.field(1).type)], schema=table.schema
    )
    part = write_part(storage, table, rows, "a")

    class Counting(CheckedFile):
        fetched = 0

        def _checked_run(self, start, end):
            first, data = super()._checked_run(start, end)
            Counting.fetched += len(data)
            return first, data

    file = pq.ParquetFile(pa.PythonFile(Counting(storage, part), mode="r"), pre_buffer=True)
    assert file.read(columns=["image_id"]).column(0).to_pylist() == list(range(3_001))
    assert part.bytes > 2_500_000
    assert Counting.fetched < 100_000  # 64 KiB with the footer, and the ids
