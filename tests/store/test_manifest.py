"""The manifest: stable bytes, and no altered byte goes unseen."""

import json
from dataclasses import replace

import pytest

from store.errors import Damaged, FormatTooNew, StoreNotFound
from store.manifest import (
    Block,
    IndexRecord,
    Manifest,
    PartRecord,
    built_from,
    manifest_path,
    read_manifest,
    sha256,
    snapshots,
)
from store.schema import Dims
from store.storage import open_storage

PART = PartRecord(
    "parts/texts/ä-1.parquet", "texts", 13, 70, "ab" * 32, (Block(30, "cd" * 32), Block(40, "ef" * 32))
)
INDEX = IndexRecord("texts", "indexes/t.faiss", 5, "01" * 32, "indexes/t.json", "23" * 32)
MANIFEST = Manifest(
    snapshot=1,
    dims=Dims(7, 5, 6),
    fingerprints={"encoder": "e", "classifier": "c"},
    parts=(PART,),
    indexes=(INDEX,),
    config={"images": {"uri": "/ü", "limit": None}, "groups": {"count": 2}, "x": [1.5, True]},
)


def sealed(body):
    """Bytes with a right hash over any content, as a later version would write them."""
    text = json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    whole = {**body, "sha256": sha256(text.encode())}
    return (json.dumps(whole, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def test_there_and_back():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert PartRecord.from_dict(json.loads(json.dumps(PART.to_dict()))) == PART


def test_bytes_do_not_depend_on_order():
    second = replace(PART, path="parts/a.parquet")
    one = replace(MANIFEST, parts=(PART, second), fingerprints={"a": "1", "b": "2"})
    other = replace(MANIFEST, parts=(second, PART), fingerprints={"b": "2", "a": "1"})
    assert one.to_json() == other.to_json()


def test_every_flipped_byte_is_found():
    data = MANIFEST.to_json()
    for place in range(len(data)):
        for bit in (0, 3, 7):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            with pytest.raises(Damaged):
                Manifest.from_json(bytes(altered))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"sha256": 1}'])
def test_what_is_no_manifest_is_damaged(data):
    with pytest.raises(Damaged):
        Manifest.from_json(data)


def test_a_later_version_says_so_even_with_keys_we_do_not_know():
    with pytest.raises(FormatTooNew, match="format 4"):
        Manifest.from_json(sealed({"format_version": 4, "novelty": []}))


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 0},
        {"format_version": "1"},
        {"dims": {"channels": 7}},
        {"novelty": 1},
        {"parts": [{**PART.to_dict(), "path": "../../etc/passwd"}]},
        {"parts": [{**PART.to_dict(), "table": "nonsense"}]},
        {"parts": [{**PART.to_dict(), "bytes": 71}]},
        {"parts": [{"path": "parts/a"}]},
        {"indexes": [{**INDEX.to_dict(), "card_path": "/etc/passwd"}]},
    ],
)
def test_a_rightly_hashed_but_wrong_manifest_is_damaged(change):
    body = json.loads(MANIFEST.to_json())
    del body["sha256"]
    assert Manifest.from_json(sealed(body)) == MANIFEST
    with pytest.raises(Damaged):
        Manifest.from_json(sealed({**body, **change}))


def test_snapshots_are_found_by_number(tmp_path):
    storage = open_storage(tmp_path)
    with pytest.raises(StoreNotFound):
        read_manifest(storage)
    for number in (1, 2, 12):
        storage.put(
            manifest_path(number), replace(MANIFEST, snapshot=number, parent=number - 1 or None).to_json()
        )
    storage.put("snapshots/notes.json", b"")
    assert snapshots(storage) == [1, 2, 12]
    assert read_manifest(storage).snapshot == 12
    assert read_manifest(storage, 2).snapshot == 2
    with pytest.raises(StoreNotFound, match="No snapshot 3") as caught:
        read_manifest(storage, 3)
    assert "1, 2, 12" in caught.value.fix


def test_a_manifest_under_another_number_is_damaged(tmp_path):
    storage = open_storage(tmp_path)
    storage.put(manifest_path(2), MANIFEST.to_json())
    with pytest.raises(Damaged, match="snapshot 1"):
        read_manifest(storage)


def test_paths_and_parts_of_a_table():
    assert MANIFEST.paths() == [
        "indexes/t.faiss",
        "indexes/t.json",
        "parts/texts/ä-1.parquet",
        "snapshots/00000001.json",
    ]
    assert MANIFEST.of("texts") == [PART]
    assert MANIFEST.of("images") == []
    assert MANIFEST.index_of("texts") == INDEX
    assert MANIFEST.index_of("groups") is None


def test_built_from_changes_with_content_and_not_with_order():
    other = replace(PART, path="parts/b", sha256="00" * 32)
    assert built_from([PART, other]) == built_from([other, PART])
    assert built_from([PART]) != built_from([other])
    assert built_from([PART, other]) != built_from([PART])
