"""A store that was written once, by format 1, and that every later version must read as it was.

Never write it anew: where this test fails, it is the reader that has to change.
"""

from pathlib import Path

import numpy as np
import pytest

from store.reader import Snapshot
from store.schema import TABLE_NAMES
from store.verify import verify
from tests.store.worlds import fingerprints

GOLDEN = Path(__file__).parent / "golden" / "store"
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


@pytest.fixture(scope="module")
def golden():
    return Snapshot.open(GOLDEN)


def test_it_is_sound():
    assert verify(GOLDEN) == []


def test_its_manifest(golden):
    manifest = golden.manifest
    assert (manifest.format_version, manifest.snapshot, manifest.parent) == (1, 1, None)
    assert (golden.dims.channels, golden.dims.embedding, golden.dims.cells) == (7, 5, 6)
    assert manifest.fingerprints == fingerprints()
    assert manifest.config["encoder"] == {"model": "ViT-B-32", "weights": "none"}
    assert set(TABLE_NAMES) > set(golden.tables)
    assert {name: golden.count(name) for name in golden.tables} == {
        "images": 11,
        "errors": 1,
        "embeddings": 11,
        "activations": 11,
        "examples": 28,
        "channels": 7,
        "groups": 2,
        "texts": 13,
        "classes": 3,
        "class_texts": 12,
        "explanations": 11,
        "findings": 2,
        "maps": 9,
    }


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
