"""Reading: whole tables, batches, few rows, matrices; and nothing damaged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store.errors import Damaged, IndexMismatch, QueryError, StoreNotFound
from store.reader import Snapshot, as_matrix
from store.schema import TABLE_NAMES, tables
from store.storage import open_storage
from tests.store.worlds import CLASSES, TinyWorld, tiny_store

WORLD = TinyWorld()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    path = tmp_path_factory.mktemp("read") / "s"
    tiny_store(path, WORLD, shards=3)
    return Snapshot.open(path)


def test_every_table_comes_whole_sorted_and_typed(snapshot):
    assert snapshot.tables == list(TABLE_NAMES)
    for name, table in tables(snapshot.dims).items():
        rows = snapshot.table(name)
        assert rows.schema.equals(table.schema)
        assert rows.num_rows == snapshot.count(name)
        keys = list(zip(*(rows.column(column).to_pylist() for column in table.key), strict=True))
        assert keys == sorted(set(keys))


def test_parts_are_merged_by_key(snapshot):
    assert [part.rows for part in snapshot.parts("images")] == [4, 4, 3]
    order = np.argsort(WORLD.image_ids)
    rows = snapshot.table("images", ["uri", "label"]).to_pylist()
    assert rows == [{"uri": WORLD.uris[i], "label": int(WORLD.labels[i])} for i in order]


def test_columns_come_in_the_order_asked(snapshot):
    assert snapshot.table("classes", ["name", "class_id"]).column_names == ["name", "class_id"]
    assert snapshot.table("classes", ["name"]).column(0).to_pylist() == list(CLASSES)


def test_batches_hold_every_row_once_by_part(snapshot):
    batches = list(snapshot.batches("images", ["uri"], batch_rows=3))
    assert [len(batch) for batch in batches] == [3, 1, 3, 1, 3]
    shards = [WORLD.uris[:4], WORLD.uris[4:8], WORLD.uris[8:]]
    ids = dict(zip(WORLD.uris, WORLD.image_ids, strict=True))
    expected = [uri for shard in shards for uri in sorted(shard, key=ids.get)]
    assert [uri for batch in batches for uri in batch.column(0).to_pylist()] == expected


def test_a_matrix_is_the_numbers_that_were_stored(snapshot):
    ids, vectors = snapshot.matrix("activations", "pooled")
    order = np.argsort(WORLD.image_ids)
    assert ids.dtype == np.int64
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(ids, WORLD.image_ids[order])
    np.testing.assert_array_equal(vectors, WORLD.pooled[order])  # the world's activations fit half floats
    ids, vectors = snapshot.matrix("channels", "region_direction")
    np.testing.assert_array_equal(ids, np.arange(7))
    np.testing.assert_array_equal(vectors, WORLD.region_directions)


def test_a_matrix_needs_vectors(snapshot):
    with pytest.raises(QueryError, match="uri"):
        snapshot.matrix("images", "uri")


@pytest.mark.parametrize("chosen", [[], [3], [0, 4, 10], list(range(11))])
def test_rows_by_key_across_parts(snapshot, chosen):
    wanted = [int(WORLD.image_ids[i]) for i in chosen]
    rows = snapshot.rows("activations", "image_id", [*wanted, 5, *wanted], ["pooled", "image_id"])
    assert rows.column("image_id").to_pylist() == sorted(wanted)
    for row in rows.to_pylist():
        i = WORLD.image_ids.tolist().index(row["image_id"])
        assert row["pooled"] == WORLD.pooled[i].tolist()


def test_rows_by_another_column(snapshot):
    assert snapshot.rows("images", "uri", [WORLD.uris[7], "no"], ["image_id"]).to_pylist() == [
        {"image_id": int(WORLD.image_ids[7])}
    ]
    rows = snapshot.rows("channels", "group_id", [np.int64(1)], ["channel"])
    assert rows.column(0).to_pylist() == [1, 3, 5]
    assert snapshot.rows("images", "label", [2], ["label"]).num_rows == (WORLD.labels == 2).sum()
    assert snapshot.rows("examples", "channel", [6]).num_rows == 4
    assert snapshot.rows("images", "label", []).num_rows == 0


def test_questions_that_make_no_sense(snapshot):
    for ask in (
        lambda: snapshot.table("nonsense"),
        lambda: snapshot.has("nonsense"),
        lambda: snapshot.table("images", ["nonsense"]),
        lambda: snapshot.rows("images", "nonsense", [1]),
        lambda: snapshot.rows("images", "image_id", ["a"]),
        lambda: list(snapshot.batches("images", ["nonsense"])),
    ):
        with pytest.raises(QueryError):
            ask()


def test_no_store_here(tmp_path):
    with pytest.raises(StoreNotFound):
        Snapshot.open(tmp_path)
    with pytest.raises(StoreNotFound):
        Snapshot.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_index_answers_with_our_ids(snapshot):
    ids, similarities = snapshot.index("texts").search(WORLD.text_embeddings[4], 3)
    exact = WORLD.text_embeddings @ WORLD.text_embeddings[4]
    order = np.argsort(-exact)[:3]
    np.testing.assert_array_equal(ids[0], WORLD.text_ids[order])
    np.testing.assert_allclose(similarities[0], exact[order], atol=1e-6)
    with pytest.raises(IndexMismatch, match="images"):
        snapshot.index("images")


def test_a_copied_store_is_the_same_store(snapshot, tmp_path):
    for place in (tmp_path / "copy", "memory://copied/deep/er"):
        copy = open_storage(place)
        for path in snapshot.manifest.paths():
            copy.put(path, snapshot.storage.read(path))
        again = Snapshot.open(place)
        assert again.manifest == snapshot.manifest
        for name in TABLE_NAMES:
            assert again.table(name).equals(snapshot.table(name))
        found = again.sql("SELECT count(*) AS n FROM images JOIN activations USING (image_id)")
        assert found.to_pylist() == [{"n": 11}]
        assert len(again.index("embeddings")) == 11


@pytest.mark.parametrize(("channels", "embedding", "images"), [(1, 1, 1), (5, 5, 3), (1, 7, 11), (7, 1, 2)])
def test_sizes_of_one_are_nothing_special(tmp_path, channels, embedding, images):
    world = TinyWorld(channels, embedding, images)
    tiny_store(tmp_path / "s", world, shards=1)
    snapshot = Snapshot.open(tmp_path / "s")
    assert snapshot.matrix("activations", "pooled")[1].shape == (images, channels)
    assert snapshot.matrix("channels", "direction")[1].shape == (channels, embedding)
    assert snapshot.sql("SELECT max(len(embedding)) AS d FROM embeddings").to_pylist() == [{"d": embedding}]
    ids, _ = snapshot.index("embeddings").search(world.embeddings[:1], 5)
    assert (ids[0] >= 0).sum() == min(5, images)


def test_each_flip_in_a_part_is_found_before_a_row_is_returned(tmp_path):
    manifest = tiny_store(tmp_path / "s", WORLD)
    random = np.random.default_rng(2)
    for part in manifest.parts:
        file = tmp_path / "s" / part.path
        right = file.read_bytes()
        for place in random.integers(0, len(right), 2):
            wrong = bytearray(right)
            wrong[place] ^= 1 << random.integers(8)
            file.write_bytes(wrong)
            damaged = Snapshot.open(tmp_path / "s")
            for ask in (damaged.table, lambda t, d=damaged: list(d.batches(t))):
                with pytest.raises(Damaged) as caught:
                    ask(part.table)
                assert part.path in caught.value.where
        with pytest.raises(Damaged) as caught:
            Snapshot.open(tmp_path / "s").sql(f"SELECT * FROM {part.table}")
        assert part.path in caught.value.where
        file.write_bytes(right)
    assert Snapshot.open(tmp_path / "s").table("images").num_rows == 11


def test_lost_and_shortened_files(tmp_path):
    manifest = tiny_store(tmp_path / "s", WORLD)
    part = manifest.of("texts")[0]
    file = tmp_path / "s" / part.path
    right = file.read_bytes()
    for wrong in (right[:-1], right[:100], b""):
        file.write_bytes(wrong)
        with pytest.raises(Damaged, match="cut short") as caught:
            Snapshot.open(tmp_path / "s").table("texts")
        assert part.path in str(caught.value)
    file.unlink()
    for ask in (lambda s: s.table("texts"), lambda s: s.sql("SELECT text FROM texts")):
        with pytest.raises(Damaged, match="missing"):
            ask(Snapshot.open(tmp_path / "s"))
    assert Snapshot.open(tmp_path / "s").sql("SELECT count(*) AS n FROM images").to_pylist() == [{"n": 11}]


def test_a_file_that_changes_while_it_is_open(tmp_path):
    manifest = tiny_store(tmp_path / "s", WORLD)
    snapshot = Snapshot.open(tmp_path / "s")
    assert snapshot.table("texts").num_rows == 13
    file = tmp_path / "s" / manifest.of("texts")[0].path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(Damaged):
        snapshot.table("texts")


def test_reading_needs_no_heavy_imports():
    code = (
        "import sys, store.reader, store.writer, store.manifest\n"
        "print([m for m in ('torch', 'ray', 'faiss', 'duckdb', 'obstore') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_halves_become_the_floats_that_they_are():
    bits = np.arange(1 << 16, dtype=np.uint16)
    whole = pa.FixedSizeListArray.from_arrays(pa.array(bits.view(np.float16)), 16)
    with np.errstate(invalid="ignore"):
        wanted = bits.view(np.float16).astype(np.float32).reshape(-1, 16)
    assert as_matrix(whole).tobytes() == wanted.tobytes()
    assert as_matrix(whole.slice(3, 7)).tobytes() == wanted[3:10].tobytes()
    assert as_matrix(whole.slice(0, 0)).shape == (0, 16)
