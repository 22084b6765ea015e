"""What shards add to the whole is merged as a tree: in any order the same bits, and in bounded memory."""

import random
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipelines import directions
from pipelines.bench import Bench
from pipelines.directions import FAN_IN, bundles, merge_bundle
from pipelines.execute import local_ray
from pipelines.ledger import WorkFile
from pipelines.partial import Partial, read_partial, write_partial
from pipelines.run import precompute
from store.reader import Snapshot
from tests.pipelines import worlds


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    worlds.write_images(tmp_path / "images", 3)
    return Bench(worlds.config(tmp_path))


def write_partials(bench: Bench, count: int, each: int = 3) -> list[WorkFile]:
    """Partials of ``count`` shards with ``each`` images; values repeat, so that ties must be broken."""
    rng = np.random.default_rng(count)
    channels, dim = bench.dims.channels, bench.dims.embedding
    made = []
    for shard in range(count):
        partial = Partial.empty(channels, dim, bench.config.directions.examples)
        ids = np.arange(shard * each, (shard + 1) * each)
        pooled = rng.integers(0, 40, (each, channels)).astype(np.float16) / np.float16(8)
        partial.update(ids, pooled.astype(np.float32), pooled, np.ones((each, dim), np.float16))
        made.append(write_partial(bench.store, f"work/partials/{shard}.safetensors", partial))
    return made


def reduce(bench: Bench, partials: list[WorkFile]) -> WorkFile:
    """The tree, to its root."""
    while len(partials) > 1:
        partials = [merge_bundle(bench, one) for one in bundles(partials)]
    return partials[0]


def test_any_tree_in_any_order_gives_the_same_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    partials = write_partials(bench, 29)
    flat = Partial.empty(bench.dims.channels, bench.dims.embedding, bench.config.directions.examples)
    for one in partials:
        flat.merge(read_partial(bench.store, one))
    expected = write_partial(bench.store, "work/flat.safetensors", flat).sha256
    for seed, fan_in in enumerate((2, 5, 60)):
        monkeypatch.setattr(directions, "FAN_IN", fan_in)
        shuffled = partials.copy()
        random.Random(seed).shuffle(shuffled)
        assert reduce(bench, shuffled).sha256 == expected
    assert flat.examples.images == 87


def test_no_partial_is_left_out_of_the_bundles_or_in_two(bench: Bench) -> None:
    for count in (1, FAN_IN - 1, FAN_IN, FAN_IN + 1, 5 * FAN_IN + 7):
        partials = [WorkFile(f"{at}", at, f"{at}") for at in range(count)]
        made = bundles(partials)
        assert [one for bundle in made for one in bundle.partials] == partials
        assert len(made) == -(-count // FAN_IN)
        assert len({bundle.key for bundle in made}) == len(made)


def test_a_run_that_merges_as_a_tree_ends_in_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds.write_images(tmp_path / "images", 12)
    precompute(worlds.config(tmp_path, "flat", run={"shard_size": 1}))
    monkeypatch.setattr(directions, "FAN_IN", 3)
    levels = []
    precompute(
        worlds.config(tmp_path, "tree", run={"shard_size": 1}),
        lambda progress: levels.append(progress.total) if progress.stage == "merge" else None,
    )
    assert sorted(set(levels), reverse=True) == [4, 2]  # 12 shards, 4 bundles, 2 bundles
    assert worlds.files(tmp_path / "flat") == worlds.files(tmp_path / "tree")


@pytest.mark.slow
def test_neither_who_ran_it_nor_how_it_was_cut_changes_a_table(tmp_path: Path) -> None:
    """In this process and by one or two workers, in 1, 2, 7 and 50 shards."""
    worlds.write_images(tmp_path / "images", 50)
    precompute(worlds.config(tmp_path, "first", run={"shard_size": 50}))
    runners = {"inline": {}, "one": {"workers": 1}, "two": {"workers": 2}}
    with local_ray():
        for (name, runner), (count, size) in product(runners.items(), ((1, 50), (2, 25), (7, 8), (50, 1))):
            run = {"shard_size": size, "executor": "ray" if runner else "inline", "cpus_per_worker": 0.5}
            store = f"{name}-{count}"
            precompute(worlds.config(tmp_path, store, run={**run, **runner}))
            assert len(Snapshot.open(tmp_path / store).parts("images")) == count
            assert worlds.different_tables(tmp_path / "first", tmp_path / store) == []


def peak_of_merging(bench: Bench, partials: list[WorkFile]) -> int:
    tracemalloc.start()
    reduce(bench, partials)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "count", [pytest.param(150, id="150"), pytest.param(10_000, id="10,000", marks=pytest.mark.slow)]
)
def test_memory_of_merging_does_not_grow_with_shards(bench: Bench, count: int) -> None:
    """Beside the bundles, which hold some bytes for each."""
    partials = write_partials(bench, count)
    few = peak_of_merging(bench, partials[:80])
    many = peak_of_merging(bench, partials)
    assert many < 1.1 * few + 64 * count
    assert read_partial(bench.store, reduce(bench, partials)).examples.images == 3 * count
