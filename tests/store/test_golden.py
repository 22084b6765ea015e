"""Stores that were written once, one by each format, and that every later version must read as they were.

Never write them anew: where this test fails, it is the reader that has to change. (How: golden/write.py.)
"""

import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from store.index import INDEXED, write_index
from store.manifest import Manifest
from store.reader import Snapshot, read_part
from store.schema import FORMAT_VERSION, SINCE, TABLE_NAMES, tables
from store.storage import open_storage
from store.verify import verify
from store.writer import commit, write_part
from tests.store.worlds import fingerprints

GOLDEN = Path(__file__).parent / "golden"
FORMATS = range(1, FORMAT_VERSION + 1)
IMAGE = {
    "image_id": 2566726361010986986,
    "uri": "star/bild-ä-02.png",
    "content_hash": "a0eabbaeaaf129313924d543c63e7e2246e2aee823d4d37e98e80ea13f14209f",
    "width": 24,
    "height": 16,
    "label": 2,
    "prediction": 0,
    "confidence": 0.9860427975654602,
    "shard": 0,
}
WATERMARK = {"text_id": 3457426120298890335, "kind": "artefact"}
IDS = [294581659861754105, 7986048056043884251]  # the least and the greatest image_id
POOLED = [2.16796875, 4.21875, 1.23046875, 4.91796875, 2.841796875, 2.16015625, 0.83251953125]
NEAREST = [[501179216621282385, 977366328649536807]]
SIMILARITIES = [1.0, 0.5897313356399536]


ROWS = {
    "images": 11,
    "errors": 1,
    "embeddings": 11,
    "activations": 11,
    "examples": 28,
    "channels": 7,
    "channel_texts": 7,
    "groups": 2,
    "texts": 13,
    "classes": 3,
    "class_texts": 12,
    "class_effects": 3,
    "explanations": 11,
    "confidences": 23,
    "findings": 2,
    "maps": 9,
}


@pytest.fixture(scope="module", params=FORMATS)
def golden(request):
    return Snapshot.open(GOLDEN / f"{request.param}")


@pytest.mark.parametrize("number", FORMATS)
def test_it_is_sound(number):
    assert verify(GOLDEN / f"{number}") == []


def test_its_manifest(golden):
    manifest = golden.manifest
    number = int(Path(golden.storage.uri).name)
    assert (manifest.format_version, manifest.snapshot, manifest.parent) == (number, 1, None)
    assert (golden.dims.channels, golden.dims.embedding, golden.dims.cells) == (7, 5, 6)
    assert manifest.fingerprints == fingerprints()
    assert manifest.config["encoder"] == {"model": "ViT-B-32", "weights": "none"}
    held = {name for name in TABLE_NAMES if SINCE.get(name, 1) <= number}
    assert {name: golden.count(name) for name in golden.tables} == {name: ROWS[name] for name in held}
    for name in set(TABLE_NAMES) - held:
        assert golden.table(name).num_rows == 0


def test_its_rows(golden):
    assert golden.table("errors").to_pylist() == [
        {"uri": "star/broken-0.png", "stage": "decode", "reason": "cut short"}
    ]
    first = golden.rows("images", "uri", ["star/bild-ä-02.png"]).to_pylist()
    assert first == [IMAGE]
    assert golden.table("groups", ["group_id", "channels"]).to_pylist() == [
        {"group_id": 0, "channels": [0, 2, 4, 6]},
        {"group_id": 1, "channels": [1, 3, 5]},
    ]
    found = golden.sql("SELECT text_id, kind FROM texts WHERE text = 'a watermark'").to_pylist()
    assert found == [WATERMARK]


def test_its_vectors(golden):
    ids, pooled = golden.matrix("activations", "pooled")
    assert ids[[0, -1]].tolist() == IDS
    np.testing.assert_array_equal(pooled[0], POOLED)
    found, similarity = golden.index("texts").search(golden.matrix("texts", "embedding")[1][:1], 2)
    assert found.tolist() == NEAREST
    np.testing.assert_allclose(similarity[0], SIMILARITIES, atol=1e-5)


def pinned(name):
    """The version of a library that constraints.txt names."""
    text = (Path(__file__).parents[2] / "constraints.txt").read_text()
    return re.search(rf"^{name}==(\S+)$", text, re.MULTILINE)[1]


def test_the_present_format_is_written_byte_by_byte(tmp_path):
    """What golden/3 holds, written again by the code at hand: files, their names, and the manifest."""
    for name in ("pyarrow", "faiss-cpu"):
        if version(name) != pinned(name):
            pytest.skip(f"{name} {version(name)} may write other bytes than {pinned(name)}")
    folder = GOLDEN / f"{FORMAT_VERSION}"
    old, new = Snapshot.open(folder), open_storage(tmp_path)
    parts = []
    for part in old.manifest.parts:
        name = Path(part.path).name.rpartition("-")[0]
        parts.append(write_part(new, tables(old.dims)[part.table], read_part(old.storage, part), name))
    manifest = Manifest(1, old.dims, old.manifest.fingerprints, tuple(parts), config=old.manifest.config)
    rewritten = Snapshot(new, manifest)
    indexes = [
        write_index(new, table, rewritten.parts(table), *rewritten.matrix(table, column))
        for table, column in INDEXED.items()
    ]
    commit(new, Manifest(**{**vars(manifest), "indexes": tuple(indexes)}))
    for path in old.manifest.paths():
        assert new.read(path) == old.storage.read(path), path
    assert new.list() == old.manifest.paths()
