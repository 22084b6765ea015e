"""Memory that is short, storage that is away, tables that are left out, and what the event log says of it."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines import execute, feed
from pipelines.run import Progress, precompute
from pipelines.working import bound
from store.errors import ModelError, QueryError, RunIncomplete, StorageUnavailable, StoreNotFound
from store.reader import Snapshot, as_matrix
from store.storage import LocalStorage
from store.verify import verify
from tests.pipelines import worlds
from textcam.device import with_room
from textcam.image_rows import image_rows
from textcam.query import Query


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(execute, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(feed, "WAITS", (0.0, 0.01, 0.01, 0.01))
    worlds.write_images(tmp_path / "images")
    return tmp_path


def events(path: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


# memory


def test_a_batch_without_room_is_halved_until_it_fits(world: Path) -> None:
    precompute(worlds.config(world, "roomy"))
    hungry = {"model": "python:tests.pipelines.models:hungry_classifier"}
    precompute(worlds.config(world, "short", classifier=hungry, run={"batch_size": 7, "events": "log"}))
    assert verify(world / "short") == []
    one, two = (Snapshot.open(world / name) for name in ("roomy", "short"))
    for table, column in (("activations", "pooled"), ("embeddings", "embedding")):
        first, second = (as_matrix(store.table(table)[column].combine_chunks()) for store in (one, two))
        np.testing.assert_allclose(first, second, atol=2e-3)
    for column in ("image_id", "prediction"):
        assert one.table("images")[column].equals(two.table("images")[column])
    assert [(line["unit"], line["images"]) for line in events(world / "log", "halved")][:1] == [
        ("shard 0", 2)
    ]


def test_what_fits_is_remembered_and_other_errors_are_not_halved() -> None:
    tried: list[int] = []

    def work(size: int) -> int:
        tried.append(size)
        if size > 3:
            raise MemoryError
        return size * 10

    assert with_room(20, work) == (30, 3)
    assert tried == [20, 10, 5, 3]
    with pytest.raises(RuntimeError, match="another"):
        with_room(4, lambda size: (_ for _ in ()).throw(RuntimeError("another")))


def test_no_room_for_one_image_is_said() -> None:
    def never(size: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(ModelError, match="no room for a single image"):
        with_room(8, never)


# storage


class Flaky(LocalStorage):
    """A folder that fails for some calls: every ``period`` calls, ``away`` calls in a row."""

    calls, away, period = 0, 0, 1

    def _fail(self, path: str) -> None:
        if not str(self.root).endswith("images"):
            return
        Flaky.calls += 1
        if Flaky.calls % Flaky.period < Flaky.away:
            error = OSError(errno.EIO, os.strerror(errno.EIO))
            raise StorageUnavailable("The connection was lost.", where=path) from error

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self._fail(path)
        return super().read_range(path, start, length)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type[Flaky]:
    monkeypatch.setattr("pipelines.bench.open_storage", lambda uri: Flaky(Path(uri)))
    monkeypatch.setattr(Flaky, "calls", 0)
    return Flaky


def test_images_are_waited_for_while_their_storage_is_away(
    world: Path, flaky: type[Flaky], monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute(worlds.config(world, "calm"))
    monkeypatch.setattr(flaky, "away", 2)
    monkeypatch.setattr(flaky, "period", 7)
    summary = precompute(worlds.config(world, "stormy"))
    assert (summary.images, summary.errors) == (23, 0)
    assert worlds.files(world / "calm") == worlds.files(world / "stormy")
    assert flaky.calls > 23 + 23


def test_storage_that_stays_away_costs_no_image_its_good_name(
    world: Path, flaky: type[Flaky], monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute(worlds.config(world, "calm"))
    monkeypatch.setattr(flaky, "away", 1)  # every call fails
    with pytest.raises(RunIncomplete, match="2 of 2 units of 'extract' could not be finished") as caught:
        precompute(worlds.config(world, "later", run={"max_error_rate": 1}))
    assert "The images' storage does not answer." in caught.value.where
    with pytest.raises(StoreNotFound):
        Snapshot.open(world / "later")
    monkeypatch.setattr(flaky, "away", 0)
    precompute(worlds.config(world, "later", run={"max_error_rate": 1}))
    assert worlds.files(world / "calm") == worlds.files(world / "later")


def test_a_file_that_alone_cannot_be_read_is_the_files_own_fault(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(LocalStorage):
        def read_range(self, path: str, start: int, length: int) -> bytes:
            if path == "red/003.png":
                raise StorageUnavailable("A bad sector.", where=path) from OSError(errno.EIO, "")
            return super().read_range(path, start, length)

    monkeypatch.setattr("pipelines.bench.open_storage", lambda uri: Broken(Path(uri)))
    summary = precompute(worlds.config(world, run={"max_error_rate": 0.1}))
    assert (summary.images, summary.errors) == (22, 1)
    row = Snapshot.open(world / "store").table("errors").to_pylist()[0]
    assert (row["uri"], row["stage"]) == ("red/003.png", "read")
    assert row["reason"] == "The file cannot be read: A bad sector."


# what is left out


def test_without_activations_all_other_tables_are_the_same(world: Path) -> None:
    precompute(worlds.config(world, "whole"))
    precompute(worlds.config(world, "lean", activations=False))
    assert worlds.different_tables(world / "whole", world / "lean") == ["activations"]
    lean = Snapshot.open(world / "lean")
    assert not lean.has("activations")
    assert verify(world / "lean") == []
    image = int(lean.table("images", ["image_id"]).column(0)[0].as_py())
    queries = (Query.open(world / name, trust_code=True) for name in ("whole", "lean"))
    whole, left = (query.explain_image(image) for query in queries)
    assert [one.text for one in left.words] == [one.text for one in whole.words]  # from the original
    with pytest.raises(QueryError, match="This store has no activations"):
        next(image_rows(lean, pooled=True))


def test_activations_that_were_left_out_can_be_asked_for_later_without_the_images(world: Path) -> None:
    precompute(worlds.config(world, activations=False))
    (world / "images").rename(world / "gone")
    (world / "images").mkdir()
    for path in (world / "gone").rglob("*.png"):
        twin = world / "images" / path.relative_to(world / "gone")
        twin.parent.mkdir(exist_ok=True)
        twin.write_bytes(b"x" * path.stat().st_size)
        os.utime(twin, ns=(path.stat().st_mtime_ns,) * 2)
    precompute(worlds.config(world, report={"exemplars": 0}))
    assert Snapshot.open(world / "store").count("activations") == 23


# the log, and what is told on the way


def test_the_event_log_tells_the_whole_run(world: Path) -> None:
    heard: list[Progress] = []
    config = worlds.config(world, run={"events": "logs/run.jsonl"})
    precompute(config, heard.append)
    log = world / "logs" / "run.jsonl"
    (begin,) = events(log, "run")
    assert (begin["images"], begin["shards"]) == (23, 2)
    done = [line for line in events(log, "done") if line["stage"] == "extract"]
    assert [(line["unit"], line["images"], line["errors"]) for line in done] == [
        ("shard 0", 12, 0),
        ("shard 1", 11, 0),
    ]
    assert all(
        line["seconds"].keys() == {"reading", "decoding", "device", "writing", "waiting"} for line in done
    )
    assert [line["new"] for line in events(log, "end")] == [True]
    extract = [one for one in heard if one.stage == "extract"]
    assert [one.planned for one in extract] == [23] * len(extract)
    assert 12 in [one.images for one in extract if one.done == 0]  # told within the shard
    precompute(config, heard.append)
    assert [line["new"] for line in events(log, "end")] == [True, False]
    assert (heard[-1].stage, [one.resumed for one in heard if one.stage == "extract"][-1]) == ("commit", 23)


def test_a_run_that_fails_says_so_in_the_log(world: Path) -> None:
    (world / "images" / "red" / "text.jpg").write_text("not an image")
    with pytest.raises(RunIncomplete):
        precompute(worlds.config(world, run={"events": "log"}))
    (line,) = events(world / "log", "stopped")
    assert (line["error"], line["what"][:32]) == ("RunIncomplete", "1 of 24 images could not be used")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({"reading": 1, "decoding": 3, "device": 5, "writing": 1, "waiting": 2}, "decoding"),
        ({"reading": 4, "decoding": 3, "device": 1, "writing": 1, "waiting": 2}, "reading"),
        ({"reading": 4, "decoding": 3, "device": 9, "writing": 1, "waiting": 1}, "device"),
        ({"reading": 0, "decoding": 0, "device": 1, "writing": 2, "waiting": 0}, "writing"),
        ({}, ""),
    ],
)
def test_what_bounds_the_pace(seconds: dict[str, float], said: str) -> None:
    assert bound(seconds) == said
