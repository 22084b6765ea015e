"""Uploads that fail in the middle, and answers that get lost, against a real S3-compatible server.

A front between the client and the server refuses what a test tells it to refuse. Nothing of ours is replaced.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

import store.objects
from store.errors import SnapshotConflict, StorageUnavailable, StoreNotFound
from store.reader import Snapshot
from store.storage import concurrently, open_storage
from store.verify import verify
from store.writer import commit
from tests.store.worlds import TinyWorld, tiny_manifest, tiny_store

moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")
WORLD = TinyWorld()


class Front:
    """A WSGI application before another: ``before`` and ``after`` say which puts get an error for an answer.

    One that ``before`` names never arrives; one that ``after`` names is done, and its answer is lost.
    """

    def __init__(self, inner: Callable) -> None:
        self.inner, self.puts, self.methods = inner, [], []
        self.before = self.after = lambda number, path: False

    def __call__(self, environ: dict, start_response: Callable) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.methods.append(environ["REQUEST_METHOD"])
        if environ["REQUEST_METHOD"] != "PUT":
            return self.inner(environ, start_response)
        self.puts.append(path)
        number = len(self.puts) - 1
        if self.before(number, path):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        if self.after(number, path):
            list(self.inner(environ, lambda *answer: None))
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return []
        return self.inner(environ, start_response)

    def reset(self) -> None:
        """Everything passes again."""
        self.__init__(self.inner)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Front, str]]:
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    front = Front(moto.DomainDispatcherApplication(moto.create_backend_app))
    running = make_server("127.0.0.1", 0, front, threaded=True)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield front, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()


@pytest.fixture
def bucket(served: tuple[Front, str], monkeypatch: pytest.MonkeyPatch) -> str:
    front, address = served
    front.reset()
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="failing")
    front.reset()
    return "s3://failing"


def test_an_upload_that_fails_anywhere_commits_nothing_and_a_second_try_ends_the_same(
    served: tuple[Front, str], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, _ = served
    whole = tiny_store(f"{bucket}/whole", WORLD)
    puts = len(front.puts)
    assert puts > 20
    monkeypatch.setattr(store.objects, "RETRIES", {"max_retries": 0})
    for failing in (0, 5, puts - 2, puts - 1):  # the last one is the manifest
        front.reset()
        front.before = lambda number, path, failing=failing: number >= failing
        address = f"{bucket}/at-{failing}"
        with pytest.raises(StorageUnavailable):
            tiny_store(address, WORLD)
        assert len(front.puts) == failing + 1
        with pytest.raises(StoreNotFound):
            Snapshot.open(address)
        front.reset()
        assert tiny_store(address, WORLD) == whole
        assert verify(address) == []


def test_an_error_that_passes_is_not_noticed(served: tuple[Front, str], bucket: str) -> None:
    front, _ = served
    front.before = lambda number, path: number in (3, 4, 11)
    manifest = tiny_store(f"{bucket}/shaky", WORLD)
    assert Snapshot.open(f"{bucket}/shaky").manifest == manifest
    assert verify(f"{bucket}/shaky") == []


def test_a_commit_whose_answer_is_lost_is_a_commit(served: tuple[Front, str], bucket: str) -> None:
    front, _ = served
    storage = open_storage(f"{bucket}/lost")
    manifest = tiny_manifest(storage, WORLD, 2, None)
    lost: list[int] = []

    def once(number: int, path: str) -> bool:
        if "/snapshots/" in path and not lost:
            lost.append(number)
            return True
        return False

    front.after = once
    assert commit(storage, manifest) == manifest
    assert len(lost) == 1
    assert sum("/snapshots/" in path for path in front.puts) == 2
    assert Snapshot.open(storage.uri).manifest == manifest


def test_a_rival_is_not_taken_for_a_lost_answer(served: tuple[Front, str], bucket: str) -> None:
    storage = open_storage(f"{bucket}/rival")
    manifest = tiny_manifest(storage, WORLD, 2, None)
    commit(storage, replace(manifest, config={"writer": 1}))
    with pytest.raises(SnapshotConflict, match="snapshot 1 first"):
        commit(storage, manifest)
    assert Snapshot.open(storage.uri).manifest.config == {"writer": 1}


def test_many_objects_go_in_few_requests(served: tuple[Front, str], bucket: str) -> None:
    front, _ = served
    storage = open_storage(f"{bucket}/many")
    paths = [f"work/{number}" for number in range(60)]
    concurrently(lambda path: storage.put(path, b""), paths)
    front.reset()
    storage.delete(*paths, "work/none")
    assert front.methods == ["POST"]
    assert storage.list() == []
