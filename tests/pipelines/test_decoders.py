"""Decoding elsewhere: the same tables, whoever decoded, and whoever died of it."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.bench import Bench
from pipelines.config import Config, RunSection
from pipelines.config_file import make_config
from pipelines.decoding import Decoder
from pipelines.execute import local_ray
from pipelines.feed import Batch, Loaded, Request, Unusable, read_batches
from pipelines.images import plan_shards
from pipelines.run import Progress, precompute
from pipelines.together import precompute_together
from pipelines.working import Clock
from store.errors import ConfigError
from tests.pipelines import worlds
from tests.pipelines.stages import decoder_processes

Answer = tuple[list[Loaded | Unusable], Mapping[str, float]] | None


class Nearby:
    """Decoders in this process: two requests at a time, of which every third is left to the worker."""

    lanes = 2

    def __init__(self, configs: Sequence[Config]) -> None:
        self._decoder, self._lock = Decoder(configs), threading.Lock()
        self.asked: list[Request] = []
        self._busy = self.most = 0

    def load(self, request: Request) -> Answer:
        with self._lock:
            self.asked.append(request)
            self._busy += 1
            self.most = max(self.most, self._busy)
            refuse = len(self.asked) % 3 == 0
        try:
            return None if refuse else self._decoder(request)
        finally:
            with self._lock:
                self._busy -= 1


def spoil(world: Path) -> None:
    """Two images that cannot be used."""
    (world / "images" / "red" / "text.jpg").write_text("not an image")
    (world / "images" / "green" / "cut.jpg").write_bytes(worlds.jpeg()[:400])


@pytest.fixture
def world(tmp_path: Path) -> Path:
    worlds.write_images(tmp_path / "images", 60)
    spoil(tmp_path)
    return tmp_path


def batches(config: Config, decoders: Any = None) -> tuple[list[Batch], Clock]:
    bench, clock = Bench(config, decoders=decoders), Clock()
    (shard,) = plan_shards(config.images, 100).shards()
    return list(read_batches([bench], shard, clock)), clock


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same images, pixel by pixel, and the same errors."""
    first, second = (
        [[batch.refs, batch.sizes, batch.hashes, batch.errors], batch.for_classifier() + batch.for_encoder]
        for batch in (one, other)
    )
    pixels = zip(first[1], second[1], strict=True)
    return first[0] == second[0] and all(np.array_equal(*pair) for pair in pixels)


def test_batches_are_the_same_and_in_order_whoever_decoded(world: Path) -> None:
    config = worlds.config(world, run={"feed_threads": 1})
    own, _ = batches(config)
    decoders = Nearby([config])
    others, clock = batches(config, decoders)
    assert len(own) == len(others) == 16  # the last holds only an error
    assert all(same(one, other) for one, other in zip(own, others, strict=True))
    assert sum(len(request.refs) for request in decoders.asked) > 20
    assert max(len(request.refs) for request in decoders.asked) == 8
    assert decoders.most <= 2
    assert clock.seconds["decoding"] > 0


def test_what_is_not_uint8_is_made_where_it_is_used(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = worlds.config(world)
    decoders = Nearby([config])
    bench = Bench(config, decoders=decoders)
    prepare, blank = bench.encoder.prepare, bench.encoder.blank.astype(np.float32)
    monkeypatch.setattr(bench.encoder, "prepare", lambda image: prepare(image).astype(np.float32) / 255)
    monkeypatch.setattr(type(bench.encoder), "blank", blank)
    (shard,) = plan_shards(config.images, 100).shards()
    made = list(read_batches([bench], shard, Clock()))
    assert (sum(len(batch) for batch in made), decoders.asked) == (60, [])


def test_a_decoder_holds_no_network(world: Path) -> None:
    config = worlds.config(world)
    decoder = Decoder([config])
    (bench,) = decoder._benches.values()
    assert list(bench.classifier._module.parameters()) == []
    assert list(bench.encoder._model.parameters()) == []


def test_decoders_need_ray() -> None:
    raw = {"images": {"uri": "x"}, "classifier": {"model": "timm:x"}, "encoder": {"model": "y"}, "store": "z"}
    with pytest.raises(ConfigError, match="decoders are processes of Ray"):
        make_config({**raw, "run": {"executor": "inline", "decoders": 2}})
    assert RunSection(executor="ray", decoders=2).decoders == 2


# on Ray

RAY = {"executor": "ray", "workers": 1, "cpus_per_worker": 0.5, "cpus_per_decoder": 0.25, "shard_size": 20}


def test_tables_are_the_same_with_decoders_and_when_one_is_killed(world: Path) -> None:
    slow = {"model": "python:tests.pipelines.models:slow_classifier"}
    settings: dict[str, Any] = {"classifier": slow}
    limits = {"shard_size": 20, "max_error_rate": 0.1}
    precompute(worlds.config(world, "alone", run=limits, **settings))
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.stage == "extract" and progress.images and not killed:
            killed.extend(decoder_processes()[:1])
            for process in killed:
                os.kill(process, signal.SIGKILL)

    with local_ray():
        run = {**RAY, **limits, "decoders": 2}
        summary = precompute(worlds.config(world, "helped", run=run, **settings), kill_one)
        assert killed
    assert (summary.images, summary.errors) == (60, 2)
    assert worlds.files(world / "helped") == worlds.files(world / "alone")


@pytest.mark.slow
def test_classifiers_of_one_run_share_decoders(world: Path) -> None:
    limits = {"shard_size": 20, "max_error_rate": 0.1}
    sections = {
        "one": {},
        "two": {"classifier": {"model": "python:tests.pipelines.models:squashed_classifier"}},
    }
    for kind, run in (("alone", limits), ("helped", {**RAY, **limits, "decoders": 1})):
        configs = {
            name: worlds.config(world, f"{kind}/{name}", run=run, **section)
            for name, section in sections.items()
        }
        precompute_together(configs)
    for name in sections:
        assert worlds.files(world / "helped" / name) == worlds.files(world / "alone" / name)
