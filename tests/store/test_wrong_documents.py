"""JSON in a store that has its right hash and says something wrong: a named error or a listed problem, and
never a traceback, whoever reads it.
"""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.collection import NAMES, read_names
from store.documents import canonical, seal, sha256
from store.errors import Damaged, TextcamError
from store.index import load_index
from store.manifest import Manifest, manifest_path
from store.marks import FOLDER, Mark, add_mark, damaged_marks, marks
from store.reader import Snapshot
from store.schema import TABLE_NAMES
from store.storage import open_storage
from store.verify import verify
from tests.store.worlds import TinyWorld, tiny_store

WORLD = TinyWorld()
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from(
        [-1, 0, 1.0, -0.5, 10**15, 10**30, "", "x", "../..", "a\0b", "\u202e", [], {}, [[]], [0]]
    ),
    st.sampled_from(TABLE_NAMES),
    st.text(max_size=3),
)


def places(document, way=()):
    """Every path of keys in a document, whatever lies there."""
    items = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for key, inner in items:
        yield (*way, key)
        yield from places(inner, (*way, key))


def changed(document, place, change, value):
    """The document with one place replaced, removed or doubled."""
    document = copy.deepcopy(document)
    *way, last = place
    inner = document
    for key in way:
        inner = inner[key]
    if change == "replace":
        inner[last] = value
    elif change == "remove":
        del inner[last]
    elif isinstance(inner, list):
        inner.append(copy.deepcopy(inner[last]))
    else:
        inner[f"{last}s"] = inner[last]
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("wrong") / "s"
    tiny_store(path, WORLD)
    return path


@pytest.fixture(scope="module")
def body(folder):
    document = json.loads((folder / manifest_path(1)).read_bytes())
    del document["sha256"]
    return document


def read_all(folder):
    """All that a store holds, by every way that leads there."""
    snapshot = Snapshot.open(folder)
    for name in TABLE_NAMES:
        snapshot.table(name)
        snapshot.sql(f"SELECT * FROM {name}")
    snapshot.matrix("embeddings", "embedding")
    for name in ("texts", "channels", "groups", "embeddings"):
        snapshot.index(name).search([[1, 0, 0, 0, 0]], 3)


def look(folder, body, place, change, value):
    """A rightly hashed manifest, wrong at one place, is listed or refused by name by all that read it."""
    other = changed(body, place, change, value)
    (folder / manifest_path(1)).write_bytes(seal(other))
    try:
        found = verify(folder)
    except TextcamError:
        found = ["a named error"]
    # What is not proven: other hexadecimal digits as a fingerprint, other settings of the run. And a store
    # may be without an optional table or an index.
    free = place[0] in ("config", "fingerprints") or (change == "remove" and place[0] in ("parts", "indexes"))
    assert found or other == body or free
    try:
        read_all(folder)
    except TextcamError:
        assert found


def hunt(folder, body, **how):
    """Look at many places and values, as hypothesis chooses."""
    where = [place for place in places(body) if place[0] != "config" or len(place) < 3]
    changes = st.sampled_from(["replace", "replace", "replace", "remove", "double"])

    @settings(deadline=None, **how)
    @given(place=st.sampled_from(where), change=changes, value=VALUES)
    def wrong(place, change, value):
        look(folder, body, place, change, value)

    wrong()


def test_a_manifest_that_is_wrong_anywhere(folder, body):
    hunt(folder, body, max_examples=50, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_manifests_that_are_wrong(folder, body):
    hunt(folder, body, max_examples=2000)


def test_a_manifest_in_another_form(folder, body):
    manifest = Manifest.from_json(seal(body))
    (folder / manifest_path(1)).write_bytes(seal(body))
    assert verify(folder) == []
    spaced = json.dumps(body, indent=1).encode() + b"\n"  # keys as they came, not sorted
    data = spaced.replace(b'\n "snapshot"', f'\n "sha256": "{sha256(spaced)}",\n "snapshot"'.encode(), 1)
    assert Manifest.from_json(data) == manifest
    (folder / manifest_path(1)).write_bytes(data)
    assert [(one.kind, one.where) for one in verify(folder)] in ([], [("manifest", manifest_path(1))])
    twice = canonical(body).replace(b'{\n "config"', b'{\n "config": {},\n "config"', 1)
    data = twice.replace(b'\n "snapshot"', f'\n "sha256": "{sha256(twice)}",\n "snapshot"'.encode(), 1)
    (folder / manifest_path(1)).write_bytes(data)
    assert [(one.kind, one.where) for one in verify(folder)] == [("manifest", manifest_path(1))]


CARDS = {
    "no JSON": b"{",
    "a list": b"[]",
    "rows as text": {"rows": "13"},
    "rows negative": {"rows": -1},
    "dim huge": {"dim": 10**12},
    "tier unknown": {"tier": "guess"},
    "tier null": {"tier": None},
    "recall as text": {"recall_at_10": "1.0"},
    "recall above 1": {"recall_at_10": 2.0},
    "recall not a number": b'{"recall_at_10": NaN}',
    "hash short": {"built_from": "ab"},
    "table unknown": {"table": "cats"},
    "another key": {"made": "today"},
    "a key less": {"rows": ...},
}


@pytest.mark.parametrize("case", CARDS)
def test_a_card_that_is_wrong(tmp_path, case):
    manifest = tiny_store(tmp_path / "s", WORLD)
    record = manifest.index_of("texts")
    data = CARDS[case]
    if isinstance(data, dict):
        card = {**json.loads((tmp_path / "s" / record.card_path).read_bytes()), **data}
        data = canonical({key: value for key, value in card.items() if value is not ...})
    (tmp_path / "s" / record.card_path).write_bytes(data)
    others = tuple(one for one in manifest.indexes if one != record)
    other = replace(manifest, indexes=(*others, replace(record, card_sha256=sha256(data))))
    (tmp_path / "s" / manifest_path(1)).write_bytes(other.to_json())
    with pytest.raises(Damaged, match="card cannot be understood") as caught:
        load_index(Snapshot.open(tmp_path / "s"), "texts")
    assert record.card_path in caught.value.where
    assert [one.kind for one in verify(tmp_path / "s")] == ["damaged"]


MARKS = {
    "no JSON": {"class_name": ...},
    "number": {"class_name": 5},
    "null": {"note": None},
    "said otherwise": {"said": "perhaps"},
    "a key more": {"when": "today"},
}


@pytest.mark.parametrize("case", MARKS)
def test_a_mark_that_is_wrong(tmp_path, case):
    storage = open_storage(tmp_path)
    path = add_mark(storage, Mark("star", "a watermark", "spurious"))
    right = json.loads(storage.read(path))
    assert marks(storage) == {("star", "a watermark"): Mark("star", "a watermark", "spurious")}
    wrong = {
        key: value for key, value in {**right, **MARKS[case]}.items() if value is not ... and key != "sha256"
    }
    storage.put(path, seal(wrong))
    with pytest.raises(Damaged, match="mark's file cannot be understood"):
        marks(storage)
    assert [path in error.where for error in damaged_marks(storage)] == [True]


def test_a_mark_of_another_form_is_listed(tmp_path):
    storage = open_storage(tmp_path)
    add_mark(storage, Mark("star", "a watermark", "spurious"))
    body = b'{\n "class_name": "x", "note": "",\n "said": "core",\n "text": "y"}'
    storage.put(
        f"{FOLDER}00000002.json",
        body.replace(b'\n "text"', f'\n "sha256": "{sha256(body)}",\n "text"'.encode()),
    )
    assert [error.what for error in damaged_marks(storage)] == [
        "A mark's file is not the one that was written."
    ]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"classifiers": "ab"}', b'{"classifiers": [1]}', b'{"classifiers": ["../x"]}',
     b'{"classifiers": ["a/b"]}', b'{"classifiers": [""]}', b'{"classifiers": ["a"], "b": 1}', b"\xff"],
)  # fmt: skip
def test_a_list_of_stores_that_is_wrong(tmp_path, data):
    storage = open_storage(tmp_path)
    storage.put(NAMES, b'{"classifiers": ["a", "b.1"]}')
    assert read_names(storage) == ["a", "b.1"]
    storage.put(NAMES, data)
    with pytest.raises(Damaged):
        read_names(storage)
