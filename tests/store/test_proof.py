"""The promises by the hundred: kills, races and altered bytes. Slow; the fast tests have smaller twins."""

import multiprocessing
import os
import random
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import store.storage
import store.writer
from store.errors import Damaged, SnapshotConflict, TextcamError
from store.manifest import manifest_path, snapshots
from store.reader import Snapshot
from store.schema import TABLE_NAMES
from store.signs import RUNNING, at_work
from store.storage import open_storage
from store.verify import verify
from store.writer import commit
from tests.store.worlds import TinyWorld, tiny_manifest, tiny_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = (
    "part:encoded",
    "put:begun",
    "put:written",
    "put:flushed",
    "put:visible",
    "commit:checked",
    "commit:done",
)
WORLD = TinyWorld()
children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["tests.store.worlds"])


def files_of(folder):
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {path: data for path, data in found.items() if ".tmp-" not in path}


def write_and_die(folder, name, countdown):
    """Write and commit the world; die by SIGKILL at the ``countdown``-th time that step ``name`` comes by."""
    left = [countdown]

    def kill(at):
        if at == name:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    store.storage.step = store.writer.step = kill
    storage = open_storage(folder)
    commit(storage, tiny_manifest(storage, WORLD, 2, None))


def run_child(folder, name="", countdown=0, seconds=None):
    child = children.Process(target=write_and_die, args=(str(folder), name, countdown))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
    child.join()
    return child.exitcode


def test_two_hundred_kills(tmp_path):
    whole = tmp_path / "whole"
    assert run_child(whole) == 0
    expected = files_of(whole)
    chance = random.Random(1)
    killed = 0
    for number in range(200):
        folder = tmp_path / "s"
        if number % 2:
            # Few steps come by in a commit, about 25 in the parts before it.
            name = STEPS[number // 2 % len(STEPS)]
            code = run_child(folder, name, 1 if name.startswith("commit") else chance.randrange(1, 28))
        else:
            code = run_child(folder, seconds=chance.uniform(0, 1.5))
        killed += code == -signal.SIGKILL
        left = {path: data for path, data in files_of(folder).items() if not path.startswith(RUNNING)}
        if snapshots(open_storage(folder)):
            assert left == expected
        else:
            assert set(left.items()) <= set(expected.items())
            assert run_child(folder) == 0
        with at_work(open_storage(folder)):
            pass  # whoever comes next takes away the signs of the dead
        assert files_of(folder) == expected
        shutil.rmtree(folder)
    assert killed > 100


def ask(folder, table, indexed):
    """Read one table, or ask one index."""
    snapshot = Snapshot.open(folder)
    return snapshot.table(table) if table else snapshot.index(indexed)


def test_a_thousand_flips(tmp_path):
    manifest = tiny_store(tmp_path / "s", WORLD)
    chance = random.Random(2)
    paths = manifest.paths()
    tables = {part.path: part.table for part in manifest.parts}
    indexes = {path: one.table for one in manifest.indexes for path in (one.path, one.card_path)}
    for number in range(1000):
        path = paths[number % len(paths)]
        file = tmp_path / "s" / path
        right = file.read_bytes()
        wrong = bytearray(right)
        wrong[chance.randrange(len(right))] ^= 1 << chance.randrange(8)
        file.write_bytes(wrong)
        found = verify(tmp_path / "s")
        assert [one.kind for one in found] == ["damaged"]
        assert path in found[0].where
        with pytest.raises(Damaged):
            ask(tmp_path / "s", tables.get(path), indexes.get(path))
        file.write_bytes(right)
    assert verify(tmp_path / "s") == []


def test_fifty_races(tmp_path):
    storage = open_storage(tmp_path / "s")
    manifest = commit(storage, tiny_manifest(storage, WORLD, 2, None))

    def attempt(offer):
        try:
            return commit(open_storage(storage.uri), offer)
        except SnapshotConflict:
            return None

    for number in range(2, 52):
        offers = [
            replace(
                manifest, snapshot=number, parent=number - 1, config={**manifest.config, "writer": writer}
            )
            for writer in (0, 1)
        ]
        with ThreadPoolExecutor(2) as pool:
            winners = [made for made in pool.map(attempt, offers) if made]
        assert len(winners) == 1
        assert Snapshot.open(storage.uri).manifest == winners[0]
    assert snapshots(storage) == list(range(1, 52))
    assert verify(storage.uri) == []


def read_everything(folder):
    """Ask for all that a store holds; leaves with 0 where nothing was wrong, 7 where damage was named."""
    try:
        snapshot = Snapshot.open(folder)
        for name in TABLE_NAMES:
            snapshot.table(name)
            snapshot.sql(f"SELECT * FROM {name}")
        for name in ("texts", "channels", "groups", "embeddings"):
            snapshot.index(name).search([[1, 0, 0, 0, 0]], 3)
    except TextcamError:
        os._exit(7)
    os._exit(0)


def mutated(right, chance):
    """Other bytes than ``right``: cut short, a piece lost, doubled, zeroed, exchanged, or one bit flipped."""
    wrong = right
    while wrong == right:
        at, to = sorted(chance.sample(range(len(right) + 1), 2))
        flipped = bytearray(right)
        flipped[chance.randrange(len(right))] ^= 1 << chance.randrange(8)
        wrong = chance.choice(
            [
                right[:at],
                right[:at] + right[to:],
                right[:to] + right[at:],
                right[:at] + bytes(to - at) + right[to:],
                right[:at] + chance.randbytes(to - at) + right[to:],
                bytes(flipped),
            ]
        )
    return wrong


def test_mutated_files_never_crash_a_reader(tmp_path):
    """Everything is asked of a store with one mutated file, each in a child of its own."""
    manifest = tiny_store(tmp_path / "s", WORLD)
    chance = random.Random(3)
    paths = [path for path in manifest.paths() if path != manifest_path(1)]
    for number in range(200):
        path = paths[number % len(paths)]
        file: Path = tmp_path / "s" / path
        right = file.read_bytes()
        wrong = mutated(right, chance)
        file.write_bytes(wrong)
        child = children.Process(target=read_everything, args=(str(tmp_path / "s"),))
        child.start()
        child.join()
        assert child.exitcode == 7
        file.write_bytes(right)


def refusals(folder, ending, seed, count):
    """Mutate ``count`` files of a kind, one at a time, and ask; how many were refused by their own name."""
    manifest = tiny_store(folder, WORLD)
    chance, refused = random.Random(seed), 0
    tables = {part.path: part.table for part in manifest.parts}
    indexes = {one.path: one.table for one in manifest.indexes}
    paths = [path for path in manifest.paths() if path.endswith(ending)]
    for number in range(count):
        path = paths[number % len(paths)]
        file = Path(folder) / path
        right = file.read_bytes()
        file.write_bytes(mutated(right, chance))
        try:
            ask(folder, tables.get(path), indexes.get(path))
        except Damaged as error:
            refused += path in error.where
        file.write_bytes(right)
    assert verify(folder) == []
    return refused


@pytest.mark.parametrize("ending", [".faiss", ".parquet"])
def test_two_thousand_mutated_files_of_a_kind(tmp_path, ending):
    """In children, a hundred files each: a crash would break the pool, and an answer would not be counted."""
    with ProcessPoolExecutor(2, children) as pool:
        batches = [pool.submit(refusals, str(tmp_path / f"{seed}"), ending, seed, 100) for seed in range(20)]
        assert [batch.result() for batch in batches] == [100] * 20
