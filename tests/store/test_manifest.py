"""The manifest: stable bytes, and no altered byte goes unseen."""

import copy
import json
from dataclasses import asdict, replace

import pytest

from store.documents import canonical, seal, unseal
from store.errors import Damaged, FormatTooNew, SchemaMismatch, StoreNotFound
from store.manifest import (
    LARGE,
    SMALL,
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
from store.schema import SINCE, Dims
from store.storage import open_storage

BLOCKS = (Block(30, "cd" * 32), Block(40, "ef" * 32))
PART = PartRecord("parts/texts/ä-abababababab.parquet", "texts", 13, 70, "ab" * 32, BLOCKS)
STEM = "indexes/texts-4545aeae4545-010101010101"
INDEX = IndexRecord("texts", f"{STEM}.faiss", 5, "01" * 32, f"{STEM}.json", "23" * 32)
MANIFEST = Manifest(
    snapshot=1,
    dims=Dims(7, 5, 6),
    fingerprints={"encoder": "e", "classifier": "c"},
    parts=(PART,),
    indexes=(INDEX,),
    config={"images": {"uri": "/ü", "limit": None}, "groups": {"count": 2}, "x": [1.5, True]},
)


def plain(manifest=MANIFEST):
    """The manifest as plain JSON, without its hash."""
    body = json.loads(manifest.to_json())
    del body["sha256"]
    return body


def put_in(body, place, value):
    """The document with ``value`` at ``place``, a path of keys; REMOVED takes the key away."""
    body = copy.deepcopy(body)
    *way, last = place
    inner = body
    for key in way:
        inner = inner[key]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    return body


REMOVED = object()


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
    for later in ({"format_version": 4, "novelty": []}, {"format_version": 10**20, "a": 1, "z": 2}):
        with pytest.raises(FormatTooNew, match=f"format {later['format_version']}"):
            Manifest.from_json(seal(later))


WRONG = {
    "no version": (("format_version",), REMOVED),
    "version 0": (("format_version",), 0),
    "version as text": (("format_version",), "1"),
    "version true": (("format_version",), True),
    "number as text": (("snapshot",), "x"),
    "no number": (("snapshot",), None),
    "number with a point": (("snapshot",), 1.0),
    "number 0": (("snapshot",), 0),
    "number of nine digits": (("snapshot",), 10**8),
    "its own parent": (("parent",), 1),
    "a parent of nowhere": (("parent",), 77),
    "dims not complete": (("dims",), {"channels": 7}),
    "no channels": (("dims", "channels"), 0),
    "negative": (("dims", "embedding"), -5),
    "huge": (("dims", "cells"), 10**12),
    "fingerprints null": (("fingerprints",), None),
    "fingerprint of a number": (("fingerprints", "encoder"), 1),
    "config null": (("config",), None),
    "config a list": (("config",), []),
    "images null": (("config", "images"), None),
    "images a text": (("config", "images"), "/data"),
    "address of a number": (("config", "images", "uri"), 5),
    "added null": (("config", "added"), None),
    "encoder a list": (("config", "encoder"), ["model"]),
    "options a list": (("config", "classifier"), {"model": "x", "options": []}),
    "words a list": (("config", "words"), []),
    "sparsity as text": (("config", "words"), {"sparsity": "0.1"}),
    "nothing looked at": (("config", "words"), {"screen": 0}),
    "templates of numbers": (("config", "texts"), {"templates": [1]}),
    "index null": (("config", "index"), None),
    "map size as text": (("config", "map_size"), "3 x 2"),
    "map size of one": (("config", "map_size"), [6]),
    "map size with a point": (("config", "map_size"), [3.0, 2]),
    "no map size": (("config", "map_size"), [0, 2]),
    "view share above 1": (("config", "view_share"), 1.5),
    "activations as text": (("config", "activations"), "no"),
    "unknown key": (("novelty",), 1),
    "parts null": (("parts",), None),
    "part a text": (("parts", 0), "x"),
    "part not complete": (("parts", 0), {"path": "parts/a"}),
    "path out of the store": (("parts", 0, "path"), "../../etc/passwd"),
    "path elsewhere in the store": (("parts", 0, "path"), "anything/else"),
    "NUL in a path": (("parts", 0, "path"), "parts/texts/a\0b-abababababab.parquet"),
    "another hash in the name": (("parts", 0, "path"), "parts/texts/ä-cccccccccccc.parquet"),
    "another table in the path": (("parts", 0, "path"), "parts/images/ä-abababababab.parquet"),
    "unknown table": (("parts", 0, "table"), "nonsense"),
    "bytes as text": (("parts", 0, "bytes"), "70"),
    "bytes 0": (("parts", 0, "bytes"), 0),
    "bytes 10^15": (("parts", 0, "bytes"), 10**15),
    "bytes of no blocks": (("parts", 0), {**PART.to_dict(), "bytes": SMALL + 1, "blocks": []}),
    "bytes and blocks": (("parts", 0, "bytes"), 71),
    "a block too large": (("parts", 0), {**PART.to_dict(), "bytes": LARGE + 1, "blocks": [[LARGE + 1, "a"]]}),
    "an empty block": (("parts", 0, "blocks", 0), [0, "cd" * 32]),
    "a block of three": (("parts", 0, "blocks", 0), [30, "cd" * 32, 1]),
    "rows as text": (("parts", 0, "rows"), "13"),
    "rows negative": (("parts", 0, "rows"), -5),
    "rows 10^15": (("parts", 0, "rows"), 10**15),
    "hash too short": (("parts", 0, "sha256"), "ab" * 31),
    "a file twice": (("parts",), [PART.to_dict(), PART.to_dict()]),
    "indexes of texts": (("indexes",), ["x"]),
    "an index of nothing": (("indexes", 0, "table"), "nonsense"),
    "an index of another table": (("indexes", 0, "table"), "groups"),
    "card out of the store": (("indexes", 0, "card_path"), "/etc/passwd"),
    "card elsewhere": (("indexes", 0, "card_path"), "indexes/other.json"),
    "card's hash": (("indexes", 0, "card_sha256"), 5),
    "two indexes of a table": (
        ("indexes",),
        [
            asdict(INDEX),
            asdict(INDEX)
            | {one: asdict(INDEX)[one].replace("4545", "6767") for one in ("path", "card_path")},
        ],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_rightly_hashed_but_wrong_manifest_is_damaged(case):
    assert Manifest.from_json(seal(plain())) == MANIFEST
    with pytest.raises(Damaged):
        Manifest.from_json(seal(put_in(plain(), *WRONG[case])), where="here")


def test_the_error_says_where_and_what():
    with pytest.raises(Damaged, match=r"parts\.0\.rows: Input should be a valid integer") as caught:
        Manifest.from_json(seal(put_in(plain(), ("parts", 0, "rows"), "13")), where="here")
    assert caught.value.where == "here"


def test_numbers_that_are_none_are_refused_when_written_and_when_read():
    with pytest.raises(SchemaMismatch, match="JSON"):
        replace(MANIFEST, config={"x": float("nan")}).to_json()
    for written in (b"NaN", b"Infinity", b"1e999"):
        body = canonical(plain()).replace(b"1.5", written)
        digest = sha256(body)
        data = body.replace(b'\n "snapshot"', f'\n "sha256": "{digest}",\n "snapshot"'.encode())
        assert unseal(data, "", "", "") == body
        with pytest.raises(Damaged, match="config"):
            Manifest.from_json(data)


def test_a_table_of_a_later_format_is_damage():
    for table, version in SINCE.items():
        path = f"parts/{table}/all-abababababab.parquet"
        given = replace(MANIFEST, parts=(replace(PART, table=table, path=path),), indexes=())
        assert Manifest.from_json(replace(given, format_version=version).to_json()).of(table)
        with pytest.raises(Damaged, match=f"Format {version - 1} has no table {table}"):
            Manifest.from_json(replace(given, format_version=version - 1).to_json())


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
        f"{STEM}.faiss",
        f"{STEM}.json",
        "parts/texts/ä-abababababab.parquet",
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
