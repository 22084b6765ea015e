"""Several people at work on one store, in orders that chance decides: whatever the order, nothing is lost.

A seed names a scene and an order: the same number plays the same again, operation by operation.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import store.storage
from store.collection import read_names, write_names
from store.errors import Damaged, SnapshotConflict, StoreNotFound
from store.manifest import Manifest, read_manifest, snapshots
from store.marks import SAID, Mark, add_mark, marks
from store.prune import Pruned, prune
from store.reader import Snapshot
from store.signs import PRUNING, RUNNING, at_work
from store.storage import Storage, open_storage
from store.verify import verify
from store.writer import commit
from tests.store.interleave import Act, together
from tests.store.test_prune import errors
from tests.store.worlds import TinyWorld, tiny_manifest

NOW = timedelta(0)
FEW, MANY = range(16), range(200)


def grown(storage: Storage) -> None:
    """Three snapshots, each with an errors part of its own."""
    first = tiny_manifest(storage, TinyWorld(), 1, None)
    kept = tuple(part for part in first.parts if part.table != "errors")
    for number, name in enumerate(("one", "two", "three"), start=1):
        parts = (*kept, errors(storage, first, name))
        commit(storage, replace(first, snapshot=number, parent=number - 1 or None, parts=parts))


def next_snapshot(storage: Storage, base: Manifest, *names: str) -> Manifest:
    kept = tuple(part for part in base.parts if part.table != "errors")
    new = tuple(errors(storage, base, name) for name in names)
    number = base.snapshot
    return commit(storage, replace(base, snapshot=number + 1, parent=number, parts=(*kept, *new)))


def run(*names: str) -> Act:
    """A run whose errors parts are those of a snapshot that is to go: it finds them, or writes them anew."""

    def act(storage: Storage) -> Manifest:
        with at_work(storage):
            storage.put(f"work/partials/{names[0]}", b"")
            return next_snapshot(storage, read_manifest(storage), *names)

    return act


def add(*names: str) -> Act:
    """As a run, but what it builds on was read before it put up its sign."""

    def act(storage: Storage) -> Manifest:
        base = read_manifest(storage)
        with at_work(storage):
            return next_snapshot(storage, base, *names)

    return act


def bare_commit(*names: str) -> Act:
    """Somebody's own script, which knows of no signs."""
    return lambda storage: next_snapshot(storage, read_manifest(storage), *names)


def pruned(keep: int = 1, grace: timedelta = timedelta(hours=24), force: bool = False) -> Act:
    return lambda storage: prune(storage, keep, grace=grace, even_beside_a_run=force)


def reader(number: int | None = None) -> Act:
    def act(storage: Storage) -> list[int]:
        snapshot = Snapshot(storage, read_manifest(storage, number))
        counts = [snapshot.table(name).num_rows for name in ("errors", "images")]
        assert snapshot.sql("SELECT count(*) AS n FROM errors")["n"].to_pylist() == counts[:1]
        assert len(snapshot.index("texts")) == 13
        return counts

    return act


def names(*given: str) -> Act:
    return lambda storage: write_names(storage, list(given))


def mark(text: str) -> Act:
    return lambda storage: add_mark(storage, Mark("circle", text, SAID[0]))


SCENES: list[list[Act]] = [
    [pruned(), pruned(), run("one", "new")],
    [pruned(keep=2), run("one", "new")],
    [pruned(grace=NOW), pruned(keep=3), add("two", "new"), add("one", "newer")],
    [reader(), reader(2), pruned(), run("new")],
    [reader(1), pruned(keep=2), pruned()],
    [run("new"), run("newer"), reader()],
    [add("new"), add("newer"), pruned()],
    [names("a", "b"), names("b", "c"), names("d")],
    [mark("red"), mark("green"), pruned(grace=NOW)],
    [pruned(grace=NOW, force=True), run("one", "new")],
    [pruned(force=True), add("one", "new"), pruned()],
    [bare_commit("two", "mine"), pruned(grace=NOW), pruned()],
    [bare_commit("two", "mine"), bare_commit("one", "mine"), pruned(grace=NOW, force=True)],
    [run("one"), bare_commit("mine"), pruned(keep=1), reader(3)],
    [pruned(), pruned(), run("one")],
    [pruned(keep=2), pruned(), bare_commit("two")],
]


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(store.storage, "CONCURRENT", 1)
    before = pa.io_thread_count()
    pa.set_io_thread_count(64)  # a thread that waits for its turn is taken from the others
    yield
    pa.set_io_thread_count(before)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grown") / "s"
    grown(open_storage(path))
    return path


def copied(template: Path, uri: str) -> Storage:
    if "://" not in uri:
        shutil.copytree(template, uri)
        return open_storage(uri)
    storage, local = open_storage(uri), open_storage(template)
    for path in local.list():
        storage.put(path, local.read(path))
    return storage


def is_refusal(outcome: Any) -> bool:
    """Whether it was told, by a named error, that it came at the wrong time. Who commits without a sign, or
    beside a prune that was told to go on, may hear that a file is not there."""
    return isinstance(outcome, SnapshotConflict | StoreNotFound) or (
        isinstance(outcome, Damaged) and "not there" in outcome.what
    )


def check(storage: Storage, outcomes: list[Any]) -> None:
    """Nothing that was told to be done is lost, and whatever is there is whole."""
    wrong = [one for one in outcomes if isinstance(one, Exception) and not is_refusal(one)]
    assert not wrong
    made = [one for one in outcomes if isinstance(one, Manifest)]
    present = snapshots(storage)
    assert len({one.snapshot for one in made}) == len(made)
    assert max(present) == max([3, *(one.snapshot for one in made)])
    if not any(isinstance(one, Pruned) for one in outcomes):
        assert {1, 2, 3, *(one.snapshot for one in made)} == {*present}
    for one in made:
        if one.snapshot in present:
            assert read_manifest(storage, one.snapshot) == one
    check_sound(storage)


def check_sound(storage: Storage) -> None:
    for number in snapshots(storage):
        assert verify(storage.uri, number) == []
    assert storage.list(RUNNING) + storage.list(PRUNING) == []


def play(storage: Storage, seed: int) -> None:
    scene = SCENES[seed % len(SCENES)]
    outcomes, order = together(storage, scene, seed)
    try:
        check(storage, outcomes)
        for outcome, act in zip(outcomes, scene, strict=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, StoreNotFound):
                act(storage)  # once more, with nobody else about
        check_sound(storage)
    except BaseException as error:
        error.add_note("\n".join([f"seed {seed}", *map(repr, outcomes), *order]))
        raise
    if scene[0] is SCENES[7][0]:
        assert sorted(read_names(storage)) == ["a", "b", "c", "d"]
    if scene[0] is SCENES[8][0]:
        assert {text for _, text in marks(storage)} == {"red", "green"}


@pytest.mark.parametrize("seed", FEW)
def test_any_order(template: Path, tmp_path: Path, seed: int) -> None:
    play(copied(template, str(tmp_path / "s")), seed)


def test_any_order_in_a_bucket(template: Path, bucket: str, tmp_path: Path) -> None:
    for seed in (0, 3, 7):
        play(copied(template, f"{bucket}/{tmp_path.name}/{seed}"), seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_two_hundred_orders(
    template: Path, tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if where == "folder" else f"{request.getfixturevalue('bucket')}/orders"
    for seed in MANY:
        play(copied(template, f"{root}/{seed}"), seed)
