"""Indexes of a run: the tier and the limit that the configuration says; the limit is kept also on a rerun."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config import IndexSection
from pipelines.publish import build_indexes
from store.errors import IndexMismatch
from store.index import INDEXED, read_card
from store.reader import Snapshot
from store.vectors import TIERS
from tests.store.worlds import TinyWorld, tiny_store


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """A store whose 997 embeddings are too many for an exact index, and which has no index at all."""
    monkeypatch.setitem(TIERS, "flat", 500)
    whole = tiny_store(tmp_path / "s", TinyWorld(embedding=8, images=997))
    opened = Snapshot.open(tmp_path / "s")
    for path in opened.storage.list("indexes/"):
        opened.storage.delete(path)
    return Snapshot(opened.storage, replace(whole, indexes=()))


def tiers(snapshot: Snapshot, wanted: IndexSection) -> dict[str, str]:
    made = build_indexes(snapshot, None, wanted)
    return {one.table: read_card(snapshot.storage, one).tier for one in made}


def test_the_tier_is_for_large_tables_only(snapshot: Snapshot) -> None:
    small = dict.fromkeys(INDEXED, "flat")
    assert tiers(snapshot, IndexSection()) == small | {"embeddings": "sqfp16"}
    assert tiers(snapshot, IndexSection(tier="hnsw")) == small | {"embeddings": "hnsw"}


def test_an_index_that_finds_too_little_is_refused_and_an_old_one_built_anew(snapshot: Snapshot) -> None:
    loose = IndexSection(tier="opq-ivf-pq", min_recall=0.3)
    made = build_indexes(snapshot, None, loose)
    record = next(one for one in made if one.table == "embeddings")
    recall = read_card(snapshot.storage, record).recall_at_10
    assert 0.3 <= recall < 1
    before = replace(snapshot.manifest, indexes=made)
    written = snapshot.storage.list("indexes/")
    assert build_indexes(snapshot, before, loose) == made
    with pytest.raises(IndexMismatch, match=r"the limit is 1\.0") as caught:
        build_indexes(snapshot, before, IndexSection(tier="opq-ivf-pq", min_recall=1.0))
    assert caught.value.where == "embeddings"
    assert "index.min_recall" in caught.value.fix
    assert snapshot.storage.list("indexes/") == written
    exact = build_indexes(snapshot, before, IndexSection(tier="flat", min_recall=1.0))
    assert read_card(snapshot.storage, next(one for one in exact if one.table == "embeddings")).tier == "flat"


def test_a_damaged_card_is_written_again(snapshot: Snapshot) -> None:
    made = build_indexes(snapshot, None, IndexSection())
    path = next(one for one in made if one.table == "texts").card_path
    right = snapshot.storage.read(path)
    snapshot.storage.put(path, right[:-9])
    assert build_indexes(snapshot, replace(snapshot.manifest, indexes=made), IndexSection()) == made
    assert snapshot.storage.read(path) == right
