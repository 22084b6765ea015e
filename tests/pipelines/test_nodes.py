"""A real Ray cluster of several nodes on this machine, one of which is lost while a run is going on."""

import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.run import Progress, precompute
from tests.pipelines import worlds
from tests.pipelines.stages import decoder_processes

SLOW = {"model": "python:tests.pipelines.models:slow_classifier"}


def undisturbed(folder: Path, settings: dict[str, int]) -> None:
    """60 images, and the store ``alone`` that a cluster's has to equal."""
    worlds.write_images(folder / "images", 60)
    precompute(worlds.config(folder, "alone", classifier=SLOW, run=settings))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_is_lost_costs_no_image(tmp_path: Path) -> None:
    settings = {"shard_size": 3, "batch_size": 3}
    undisturbed(tmp_path, settings)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        cluster.wait_for_nodes()
        lost: list[float] = []

        def lose_one(progress: Progress) -> None:
            if progress.stage == "extract" and progress.done == 4 and not lost:
                cluster.remove_node(nodes[0], allow_graceful=False)
                lost.append(time.monotonic())

        log = tmp_path / "log"
        run = {**settings, "executor": "ray", "address": cluster.address, "workers": 3, "events": str(log)}
        summary = precompute(worlds.config(tmp_path, "cluster", classifier=SLOW, run=run), lose_one)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost
    assert (summary.images, summary.errors) == (60, 0)
    assert '"event": "lost"' in log.read_text()
    assert worlds.files(tmp_path / "cluster") == worlds.files(tmp_path / "alone")
    print(f"finished {time.monotonic() - lost[0]:.0f} s after the node was lost")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_decodes_for_others_is_lost_and_nobody_notices(tmp_path: Path) -> None:
    settings = {"shard_size": 6, "batch_size": 3}
    undisturbed(tmp_path, settings)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        cluster.add_node(num_cpus=1)
        decodes = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        lost: list[int] = []

        def lose_it(progress: Progress) -> None:
            if progress.stage == "extract" and progress.done == 4 and not lost:
                lost.append(len(decoder_processes()))
                cluster.remove_node(decodes, allow_graceful=False)

        ray_run = {"executor": "ray", "address": cluster.address, "workers": 1, "cpus_per_worker": 1}
        run = {**settings, **ray_run, "decoders": 1, "cpus_per_decoder": 2}
        summary = precompute(worlds.config(tmp_path, "cluster", classifier=SLOW, run=run), lose_it)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost == [1]
    assert (summary.images, summary.errors) == (60, 0)
    assert worlds.files(tmp_path / "cluster") == worlds.files(tmp_path / "alone")
