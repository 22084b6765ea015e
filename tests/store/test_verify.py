"""The proof: a sound store has no problems, and each kind of harm is named."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from store.documents import canonical
from store.errors import StoreNotFound
from store.index import INDEXED, index_table, write_index
from store.manifest import built_from, sha256
from store.reader import Snapshot
from store.schema import TABLE_NAMES, tables
from store.storage import open_storage
from store.verify import Problem, problems, verify
from store.writer import encode, sort_rows, write_part
from tests.store.worlds import TinyWorld, tiny_store, vectors

WORLD = TinyWorld()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "s"
    tiny_store(path, WORLD)
    return Snapshot.open(path)


def changed(snapshot, table, change):
    """The snapshot with ``change`` (rows -> rows) applied to a whole table, which is then one part."""
    schema = tables(snapshot.dims)[table]
    part = write_part(snapshot.storage, schema, change(snapshot.table(table)), "changed")
    kept = tuple(one for one in snapshot.manifest.parts if one.table != table)
    other = Snapshot(snapshot.storage, replace(snapshot.manifest, parts=(*kept, part), indexes=()))
    indexes = [index_table(other, name) for name in INDEXED]
    return Snapshot(snapshot.storage, replace(other.manifest, indexes=tuple(indexes)))


def set_value(column, row, value):
    """A change of one cell."""

    def change(rows):
        place = rows.column_names.index(column)
        values = rows.column(column).to_pylist()
        values[row] = value
        field = rows.schema.field(column)
        array = (
            vectors(np.array(values, float), field.type)
            if pa.types.is_fixed_size_list(field.type)
            else pa.array(values, field.type)
        )
        return rows.set_column(place, field, array)

    return change


def test_a_sound_store_has_no_problems(sound):
    assert verify(sound.storage.uri) == []
    assert verify(sound.storage.uri, 1) == []


def test_no_store_is_not_a_problem_but_an_error(tmp_path):
    with pytest.raises(StoreNotFound):
        verify(tmp_path)


CASES = {
    "embedding length": (
        "embeddings",
        set_value("embedding", 3, [1, 0.2, 0, 0, 0]),
        "norm",
        "1 vectors of embedding",
    ),
    "zero embedding": ("embeddings", set_value("embedding", 3, [0] * 5), "norm", "has 0.00000"),
    "direction length": (
        "channels",
        set_value("direction", 2, [0.5, 0, 0, 0, 0]),
        "norm",
        "id 2 has 0.50000",
    ),
    "text length": ("texts", set_value("embedding", 0, [0.999, 0, 0, 0, 0]), "norm", "0.99900"),
    "region length": (
        "channels",
        set_value("region_direction", 6, [3] + [0] * 4),
        "norm",
        "region_direction",
    ),
    "label": (
        "images",
        set_value("label", 0, 3),
        "reference",
        "ids of label are not in classes, the least: 3",
    ),
    "prediction": ("images", set_value("prediction", 0, 77), "reference", "prediction"),
    "example": (
        "examples",
        set_value("image_id", 0, 5),
        "reference",
        "ids of image_id are not in images, the least: 5",
    ),
    "channel's text": ("channels", set_value("text_ids", 0, [1, 2, 3]), "reference", "3 ids of text_ids"),
    "channel's group": ("channels", set_value("group_id", 0, 1), "reference", "channel 0 and group"),
    "unknown group": (
        "channels",
        set_value("group_id", 0, 9),
        "reference",
        "ids of group_id are not in groups",
    ),
    "group's channel": (
        "groups",
        set_value("channels", 1, [1, 3, 5, 7]),
        "reference",
        "not in channels, the least: 7",
    ),
    "class text": ("class_texts", set_value("text_id", 11, 1 << 62), "reference", "text_id are not in texts"),
    "explained class": ("explanations", set_value("class_id", 4, 3), "reference", "class_id"),
    "explained group": ("explanations", set_value("group_ids", 4, [0, 2]), "reference", "group_ids"),
    "lists": ("explanations", set_value("coefficients", 4, [0.5]), "value", "text_ids and coefficients"),
    "group lists": ("explanations", set_value("group_contributions", 4, []), "value", "group_contributions"),
    "finding": (
        "findings",
        set_value("text_id", 1, 4),
        "reference",
        "ids of text_id are not in texts, the least: 4",
    ),
    "confidence": ("confidences", set_value("id", 11, 3), "reference", "a group is not in groups"),
    "map": ("maps", set_value("group_id", 8, 5), "reference", "group_id are not in groups"),
    "fewer images": ("activations", lambda rows: rows.slice(1), "reference", "10 rows for 11 images"),
    "error and image": ("errors", set_value("uri", 0, WORLD.uris[0]), "reference", WORLD.uris[0]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_harm_is_named(sound, case):
    table, change, kind, words = CASES[case]
    found = problems(changed(sound, table, change))
    assert [one for one in found if one.kind == kind and words in one.what], found
    assert {one.kind for one in found} == {kind}


def test_allowed_exceptions(sound):
    for table, change in (
        ("channels", set_value("direction", 2, [0] * 5)),  # a channel that never fires
        ("groups", set_value("direction", 0, [0] * 5)),
        ("images", set_value("label", 0, None)),
        ("findings", set_value("group_id", 0, -1)),
    ):
        assert problems(changed(sound, table, change)) == []


def test_manifest_wide_problems(sound):
    kept = tuple(one for one in sound.manifest.parts if one.table not in ("classes", "maps"))
    bare = replace(sound.manifest, parts=kept, fingerprints={**sound.manifest.fingerprints, "encoder": ""})
    found = problems(Snapshot(sound.storage, bare))
    assert Problem("manifest", "fingerprints", "that of the encoder is missing") in found
    assert Problem("table", "classes", "the snapshot does not have this table") in found
    assert not [one for one in found if "maps" in one.where]


def test_parts_that_were_not_written_by_the_writer(sound):
    """A right hash does not make right rows."""
    table = tables(sound.dims)["images"]
    rows = sound.table("images")
    backwards = rows.take(pa.array(range(10, -1, -1)))
    record = forged(sound, "images", backwards)
    found = problems(record)
    assert [one.kind for one in found] == ["key"]
    twice = pa.concat_tables([rows, rows.slice(5, 1)])
    found = problems(forged(sound, "images", sort_rows(table, twice)))
    assert "key" in {one.kind for one in found}
    nan = sound.table("channels")
    nan = nan.set_column(3, table_field("channels", 3), pa.array([float("nan")] * 7, pa.float32()))
    assert [one.kind for one in problems(forged(sound, "channels", nan, "channels"))] == ["value"]
    sure = sound.table("confidences")
    sure = sure.set_column(2, table_field("confidences", 2), pa.array([1.5] * 23, pa.float32()))
    assert [one.kind for one in problems(forged(sound, "confidences", sure))] == ["value"]
    other = problems(forged(sound, "errors", pa.table({"uri": ["a"]})))
    assert [(one.kind, one.what) for one in other] == [("value", "Its columns are not those of errors.")]


FORGED = {
    "label": ("images", "label", -1),
    "prediction": ("images", "prediction", -1),
    "shard": ("images", "shard", -5),
    "width": ("images", "width", -1),
    "confidence": ("images", "confidence", 7.0),
    "content hash": ("images", "content_hash", ""),
    "example's rank": ("examples", "rank", -1),
    "accuracy": ("classes", "accuracy", 1.01),
    "kind": ("texts", "kind", "thing"),
    "verdict": ("findings", "verdict", "maybe"),
    "image's id": ("images", "uri", "circle/another.png"),
    "text's id": ("texts", "text", "a circles"),
}


@pytest.mark.parametrize("case", FORGED)
def test_each_wrong_value_in_a_forged_part_is_named(sound, case):
    table, column, value = FORGED[case]
    found = problems(forged(sound, table, set_value(column, 0, value)(sound.table(table)), table))
    assert {one.kind for one in found} == {"value"}
    assert any(column in one.what + one.where or repr(value) in one.what for one in found), found


def test_text_that_is_not_utf_8(sound):
    rows = sound.table("errors")
    wrong = rows.set_column(2, table_field("errors", 2), pa.array([b"caf\xe9"]).view(pa.string()))
    found = problems(forged(sound, "errors", wrong))
    assert [one.kind for one in found] == ["value"]
    assert "column reason" in found[0].where


def test_fingerprints_and_configuration_are_what_they_should_be(sound):
    def kinds(**changes):
        found = problems(Snapshot(sound.storage, replace(sound.manifest, **changes)))
        assert {one.kind for one in found} == {"manifest"}
        return [f"{one.where}: {one.what}" for one in found]

    prints, config = sound.manifest.fingerprints, sound.manifest.config
    wrong = {**prints, "plan": "not hexadecimal"}
    assert kinds(fingerprints=wrong) == ["fingerprints: that of the plan is no hash in hexadecimal digits"]
    for other in ({"encoder": {}}, {"encoder": {"model": ""}}):
        assert kinds(config={**config, **other}) == ["config: encoder.model is missing"]
    gone = {key: value for key, value in config.items() if key != "images"}
    assert kinds(config=gone) == ["config: images.uri is missing"]
    assert kinds(config={**config, "map_size": [4, 2]}) == ["config: maps have 6 cells, and not 4 x 2"]
    assert (
        problems(Snapshot(sound.storage, replace(sound.manifest, config={**config, "map_size": [3, 2]})))
        == []
    )


def test_an_index_is_what_its_name_and_its_card_say(sound):
    record = sound.manifest.index_of("texts")
    others = tuple(one for one in sound.manifest.indexes if one != record)

    def found(other):
        snapshot = Snapshot(sound.storage, replace(sound.manifest, indexes=(*others, other)))
        return [(one.kind, one.what) for one in problems(snapshot)]

    stem = record.path.replace(built_from(sound.parts("texts"))[:12], "0" * 12).removesuffix(".faiss")
    for old, new in ((record.path, f"{stem}.faiss"), (record.card_path, f"{stem}.json")):
        sound.storage.put(new, sound.storage.read(old))
    renamed = replace(record, path=f"{stem}.faiss", card_path=f"{stem}.json")
    assert found(renamed) == [("index", "its name says that it was built from other content than its card")]
    half = write_index(sound.storage, "texts", sound.parts("texts"), *text_vectors(sound), tier="sqfp16")
    assert found(half) == [("index", "its tier is sqfp16; 13 vectors are for flat")]
    card = json.loads(sound.storage.read(half.card_path))
    for change, what in (
        ({"tier": "flat"}, "its card says flat, its content is sqfp16"),
        ({"recall_at_10": 0.5}, "its card says recall 0.5, measured is 1.000"),
    ):
        data = canonical({**card, **change})
        sound.storage.put(half.card_path, data)
        assert ("index", what) in found(replace(half, card_sha256=sha256(data)))


def text_vectors(snapshot):
    return snapshot.matrix("texts", "embedding")


def table_field(table, place):
    return tables(WORLD.dims)[table].schema.field(place)


def forged(snapshot, table, rows, indexed=None):
    data = encode(rows)
    path = f"parts/{table}/forged-{sha256(data)[:12]}.parquet"
    snapshot.storage.put(path, data)
    old = snapshot.parts(table)[0]
    part = replace(old, path=path, rows=rows.num_rows, bytes=len(data), sha256=sha256(data), blocks=())
    kept = tuple(one for one in snapshot.manifest.parts if one.table != table)
    indexes = tuple(one for one in snapshot.manifest.indexes if one.table != indexed)
    return Snapshot(snapshot.storage, replace(snapshot.manifest, parts=(*kept, part), indexes=indexes))


def test_a_wrong_count_and_a_key_in_two_parts(sound):
    part = sound.parts("texts")[0]
    parts = tuple(replace(one, rows=12) if one == part else one for one in sound.manifest.parts)
    found = problems(Snapshot(sound.storage, replace(sound.manifest, parts=parts, indexes=())))
    assert [(one.kind, one.what) for one in found] == [("value", "It has 13 rows; the manifest says 12.")]
    images = sound.parts("images")
    again = write_part(
        sound.storage, tables(sound.dims)["images"], sound.table("images").slice(0, 2), "again"
    )
    parts = (*sound.manifest.parts, again)
    found = problems(Snapshot(sound.storage, replace(sound.manifest, parts=parts)))
    assert Problem("key", "images", "2 keys are in more than one part") in found
    assert len(images) == 2


def test_every_file_is_covered_by_flips_cuts_and_losses(tmp_path):
    manifest = tiny_store(tmp_path / "s", WORLD)
    random = np.random.default_rng(7)
    for path in manifest.paths():
        file = tmp_path / "s" / path
        right = file.read_bytes()
        flipped = bytearray(right)
        flipped[random.integers(len(right))] ^= 1 << random.integers(8)
        for wrong in (bytes(flipped), right[:-1], right + b"\n", None):
            if wrong is None and path.startswith("snapshots/"):
                continue  # without its manifest there is no snapshot to verify
            file.unlink() if wrong is None else file.write_bytes(wrong)
            found = verify(tmp_path / "s")
            assert [one.kind for one in found] == ["damaged"]
            assert path in found[0].where
        file.write_bytes(right)
    assert verify(tmp_path / "s") == []


def test_problems_are_all_listed_not_only_the_first(tmp_path):
    manifest = tiny_store(tmp_path / "s", WORLD)
    for table in ("images", "texts", "maps"):
        file = tmp_path / "s" / manifest.of(table)[0].path
        file.write_bytes(file.read_bytes()[:-3])
    found = verify(tmp_path / "s")
    assert {one.where.split("parts/")[1].split("/")[0] for one in found} == {"images", "texts", "maps"}
    assert all(str(one).startswith("damaged: ") for one in found)


def test_all_tables_are_known_to_the_tests(sound):
    assert set(sound.tables) == set(TABLE_NAMES)


def test_verify_in_an_object_store(sound):
    copy = open_storage("memory://verify/x")
    for path in sound.manifest.paths():
        copy.put(path, sound.storage.read(path))
    assert verify("memory://verify/x") == []
    copy.put(sound.parts("texts")[0].path, b"PAR1")
    assert [one.kind for one in verify("memory://verify/x")] == ["damaged"]
