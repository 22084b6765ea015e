"""A store in a bucket, against a real S3-compatible server on this machine."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import store.objects
from store.errors import Damaged, SnapshotConflict, StorageUnavailable, StoreNotFound
from store.manifest import manifest_path
from store.objects import ObjectStorage
from store.reader import Snapshot
from store.schema import TABLE_NAMES
from store.storage import RangeFile, open_storage
from store.verify import verify
from store.writer import commit
from tests.store.worlds import TinyWorld, tiny_manifest, tiny_store

WORLD = TinyWorld()


def test_a_store_in_a_bucket(bucket, tmp_path):
    address = f"{bucket}/audits/größe 1"
    tiny_store(address, WORLD)
    tiny_store(tmp_path / "s", WORLD)
    local, remote = Snapshot.open(tmp_path / "s"), Snapshot.open(address)
    assert remote.manifest.parts == local.manifest.parts
    assert remote.manifest.indexes == local.manifest.indexes
    for path in remote.manifest.paths()[:-1]:  # all but the manifest, which names the images' folder
        assert remote.storage.read(path) == local.storage.read(path)
    for name in TABLE_NAMES:
        assert remote.table(name).equals(local.table(name))
    query = "SELECT text, kind FROM texts ORDER BY text_id"
    assert remote.sql(query).equals(local.sql(query))
    assert len(remote.index("embeddings")) == 11
    assert verify(address) == []


def test_storage_calls(bucket):
    storage = open_storage(f"{bucket}/x")
    storage.put("a/ü 1", b"0123456789")
    storage.put("big", b"ab" * 6_000_000)
    assert storage.list() == ["a/ü 1", "big"]
    assert [entry.size for entry in storage.scan("a/")] == [10]
    assert storage.size("big") == 12_000_000
    assert storage.read("big")[-4:] == b"abab"
    assert storage.read_range("a/ü 1", 8, 5) == b"89"
    assert storage.read_range("a/ü 1", 10, 5) == b""
    storage.delete("big")
    storage.delete("big", "none")
    assert not storage.exists("big")
    with pytest.raises(FileNotFoundError):
        storage.read("big")
    assert open_storage(f"{bucket}/x/a").list() == ["ü 1"]


def test_names_with_letters_that_addresses_give_a_meaning_to(bucket):
    for name in ("run#1", "run?2", "a%20b", "a+b"):
        open_storage(f"{bucket}/odd/{name}").put("x", name.encode())
    assert open_storage(f"{bucket}/odd").list() == ["a%20b/x", "a+b/x", "run#1/x", "run?2/x"]
    assert open_storage(f"{bucket}/odd/run#1").read("x") == b"run#1"


def test_of_many_writers_one_wins(bucket):
    storage = open_storage(f"{bucket}/race")
    manifest = tiny_manifest(storage, WORLD, 2, None)

    def attempt(number):
        try:
            return commit(
                open_storage(storage.uri), replace(manifest, config={**manifest.config, "writer": number})
            )
        except SnapshotConflict:
            return None

    with ThreadPoolExecutor(4) as pool:
        winners = [made for made in pool.map(attempt, range(4)) if made]
    assert len(winners) == 1
    assert Snapshot.open(storage.uri).manifest == winners[0]
    assert verify(storage.uri) == []


def test_a_failing_upload_commits_nothing(bucket, monkeypatch):
    storage = open_storage(f"{bucket}/failing")
    manifest = tiny_manifest(storage, WORLD, 2, None)
    lost = manifest.of("images")[1].path
    storage.delete(lost)
    with pytest.raises(Damaged, match="not there"):
        commit(storage, manifest)
    with pytest.raises(StoreNotFound):
        Snapshot.open(storage.uri)
    assert commit(storage, tiny_manifest(storage, WORLD, 2, None)).of("images")[1].path == lost


def test_damage_in_a_bucket_is_found(bucket):
    address = f"{bucket}/damaged"
    manifest = tiny_store(address, WORLD)
    storage = open_storage(address)
    path = manifest.of("texts")[0].path
    right = storage.read(path)
    for wrong in (right[:50] + b"?" + right[51:], right[:-20], b""):
        storage.put(path, wrong)
        with pytest.raises(Damaged) as caught:
            Snapshot.open(address).table("texts")
        assert path in caught.value.where
        with pytest.raises(Damaged):
            Snapshot.open(address).sql("SELECT * FROM texts")
        assert [one.kind for one in verify(address)] == ["damaged"]
    assert Snapshot.open(address).table("images").num_rows == 11


def test_a_few_rows_do_not_download_a_table(bucket, monkeypatch):
    world = TinyWorld(channels=401, images=2_003)
    address = f"{bucket}/large"
    manifest = tiny_store(address, world, shards=2)
    fetched, read_whole = [], []
    ranges, whole = ObjectStorage.read_range, ObjectStorage.read

    def counted(self, path, start, length):
        fetched.append(length)
        return ranges(self, path, start, length)

    def counted_whole(self, path):
        read_whole.append(path)
        return whole(self, path)

    monkeypatch.setattr(ObjectStorage, "read_range", counted)
    monkeypatch.setattr(ObjectStorage, "read", counted_whole)
    snapshot = Snapshot.open(address)
    rows = snapshot.rows("images", "uri", [world.uris[5]], ["image_id"])
    assert rows.to_pylist() == [{"image_id": int(world.image_ids[5])}]
    assert snapshot.sql("SELECT max(image_id) AS m FROM activations").to_pylist() == [
        {"m": int(max(world.image_ids))}
    ]
    assert sum(part.bytes for part in manifest.of("activations")) > 1_300_000
    assert 0 < sum(fetched) < 600_000
    assert len(fetched) < 12
    assert read_whole == [manifest_path(1)]


def test_no_bucket_and_no_server(bucket, server, monkeypatch):
    with pytest.raises(StoreNotFound):
        Snapshot.open(f"{bucket}/empty")
    with pytest.raises(StorageUnavailable, match="404"):
        Snapshot.open("s3://nobody-made-this/x")
    with pytest.raises(StorageUnavailable, match="no such bucket"):
        open_storage("s3://nobody-made-this/x").put("a", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(store.objects, "RETRIES", {"max_retries": 0})
    with pytest.raises(StorageUnavailable) as caught:
        open_storage(f"{bucket}/x").read("a")
    assert "endpoint" in caught.value.fix
    assert "Profiles and SSO" in caught.value.fix


def test_range_files_over_a_bucket(bucket):
    storage = open_storage(f"{bucket}/ranges")
    storage.put("a", bytes(range(251)))
    file = RangeFile(storage, "a", 251)
    file.seek(-3, 2)
    assert file.read() == bytes([248, 249, 250])
    assert storage.open("a").read_at(5, 100) == bytes(range(100, 105))
