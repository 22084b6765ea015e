"""Indexes of a store: written with a card, refused beside another table."""

import json
from dataclasses import replace

import numpy as np
import pytest

from store.errors import Damaged, IndexMismatch
from store.index import INDEXED, index_table, load_index, read_card, write_index
from store.manifest import built_from, sha256
from store.reader import Snapshot
from store.verify import problems
from store.writer import write_part
from tests.store.worlds import TinyWorld, tiny_store

WORLD = TinyWorld()


@pytest.fixture
def snapshot(tmp_path):
    tiny_store(tmp_path / "s", WORLD)
    return Snapshot.open(tmp_path / "s")


def with_index(snapshot, record):
    kept = tuple(one for one in snapshot.manifest.indexes if one.table != record.table)
    return Snapshot(snapshot.storage, replace(snapshot.manifest, indexes=(*kept, record)))


def test_the_card_says_what_the_index_is(snapshot):
    for table in INDEXED:
        record = snapshot.manifest.index_of(table)
        card = read_card(snapshot.storage, record)
        assert card.built_from == built_from(snapshot.parts(table))
        assert (card.table, card.rows, card.dim, card.tier, card.recall_at_10) == (
            table,
            snapshot.count(table),
            5,
            "flat",
            1.0,
        )
        assert json.loads(snapshot.storage.read(record.card_path))["tier"] == "flat"


def test_streamed_and_whole_builds_are_the_same_file(snapshot):
    for table, column in INDEXED.items():
        streamed = index_table(snapshot, table, tier="sqfp16")
        ids, vectors = zip(
            *((b.column(0), b.column(1)) for b in snapshot.batches(table, [_key(table), column])), strict=True
        )
        whole_ids = np.concatenate([one.to_numpy() for one in ids])
        whole = np.concatenate([np.array(one.to_pylist(), np.float32) for one in vectors])
        assert (
            write_index(snapshot.storage, table, snapshot.parts(table), whole_ids, whole, tier="sqfp16")
            == streamed
        )


def _key(table):
    return {"texts": "text_id", "channels": "channel", "groups": "group_id", "embeddings": "image_id"}[table]


def test_too_low_a_recall_is_refused_and_not_written(snapshot):
    before = snapshot.storage.list("indexes/")
    parts, ids = snapshot.parts("texts"), WORLD.text_ids
    with pytest.raises(IndexMismatch, match=r"limit is 1\.1"):
        write_index(snapshot.storage, "texts", parts, ids, WORLD.text_embeddings, min_recall=1.1)
    assert snapshot.storage.list("indexes/") == before


def test_an_index_of_another_table_content_is_refused(snapshot):
    table = snapshot._tables["texts"]
    part = write_part(snapshot.storage, table, snapshot.table("texts").slice(0, 12), "fewer")
    kept = tuple(one for one in snapshot.manifest.parts if one.table != "texts")
    other = Snapshot(snapshot.storage, replace(snapshot.manifest, parts=(*kept, part)))
    with pytest.raises(IndexMismatch, match="not built from"):
        other.index("texts")
    assert any(one.kind == "index" for one in problems(other))


def test_an_index_with_other_vectors_or_ids_is_found(snapshot):
    parts = snapshot.parts("texts")
    exchanged = write_index(snapshot.storage, "texts", parts, WORLD.text_ids[::-1], WORLD.text_embeddings)
    found = problems(with_index(snapshot, exchanged))
    assert [(one.kind, one.where) for one in found] == [("index", exchanged.path)]
    assert "another row's vector" in found[0].what
    strangers = write_index(snapshot.storage, "texts", parts, np.arange(13), WORLD.text_embeddings)
    assert "ids are not the table's" in problems(with_index(snapshot, strangers))[0].what


def test_flips_and_losses_are_found_before_faiss_sees_them(snapshot):
    record = snapshot.manifest.index_of("groups")
    for path in (record.path, record.card_path):
        file = snapshot.storage.root / path
        right = file.read_bytes()
        for place in range(0, len(right), 7):
            wrong = bytearray(right)
            wrong[place] ^= 16
            file.write_bytes(wrong)
            with pytest.raises(Damaged) as caught:
                load_index(snapshot, "groups")
            assert path in caught.value.where
        file.write_bytes(right + b"x")
        with pytest.raises(Damaged):
            load_index(snapshot, "groups")
        file.unlink()
        with pytest.raises(Damaged, match="missing"):
            load_index(snapshot, "groups")
        file.write_bytes(right)
    assert len(load_index(snapshot, "groups")) == 2


def test_an_index_is_read_once(snapshot, monkeypatch):
    """What is checked is what FAISS gets: a file that changes under a reader cannot come between."""
    record = snapshot.manifest.index_of("groups")
    read, fetched = type(snapshot.storage).read_range, []

    def counted(self, path, start, length):
        data = read(self, path, start, length)
        if path == record.path:
            fetched.append((start, len(data)))
            (self.root / path).write_bytes(b"\xff" * record.bytes)
        return data

    monkeypatch.setattr(type(snapshot.storage), "read_range", counted)
    assert len(load_index(snapshot, "groups")) == 2
    assert fetched == [(0, record.bytes)]


def other_index(kind):
    import faiss

    own = faiss.IndexFlatIP(5)
    own.add(WORLD.text_embeddings)
    data = faiss.serialize_index(own).tobytes()
    return {"cut": data[:-7], "no ids": data, "words": b"no index at all", "nothing": b""}[kind]


@pytest.mark.parametrize("kind", ["cut", "no ids", "words", "nothing"])
def test_what_faiss_does_not_take_is_named(snapshot, kind):
    """Rightly hashed, and yet no index of ours."""
    record, data = snapshot.manifest.index_of("texts"), other_index(kind)
    snapshot.storage.put("indexes/wrong.faiss", data)
    wrong = replace(record, path="indexes/wrong.faiss", bytes=len(data), sha256=sha256(data))
    with pytest.raises(Damaged, match="index") as caught:
        load_index(with_index(snapshot, wrong), "texts")
    assert caught.value.where.endswith("indexes/wrong.faiss")


def test_without_an_index_a_small_table_is_searched_exactly(snapshot):
    bare = Snapshot(snapshot.storage, replace(snapshot.manifest, indexes=()))
    found, _ = bare.index("channels").search(WORLD.directions, 1)
    assert found[:, 0].tolist() == list(range(7))
