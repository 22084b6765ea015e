"""A run's extraction beside what users write today: the same files, weights and cores, in turns.

The peers run in environments of their own, as scripts of `scripts/`. None of them does all that a run does;
``COMPUTES`` says what each leaves out. Loading models and starting processes is not counted for anyone.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Measure
from benchmarks.speed.world import (
    BATCH,
    BIG,
    CORES,
    FORMATS,
    config,
    decided,
    drain,
    ratios,
    seconds,
    shards_of,
    warm_up,
    write_photos,
)
from pipelines.bench import Bench

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Peer:
    """A script, the environment under ``--peers`` that it needs (None: this one), how many times as fast a
    run should be, and further arguments."""

    script: str
    environment: str | None = None
    goal: float = 1.5
    arguments: tuple[str, ...] = ()


PEERS = {
    "loop": Peer("plain_loop", goal=3),
    "loader": Peer("data_loader"),
    "clip-retrieval": Peer("clip_retrieval_inference", "clip-retrieval"),
    "semanticlens": Peer("semantic_lens", "semanticlens"),
    "ray-data-1": Peer("ray_data", "semanticlens", arguments=("1",)),
    "ray-data-2": Peer("ray_data", "semanticlens", arguments=("2",)),
}
COMPUTES = {
    "loop": "a map and an embedding, image by image; keeps nothing",
    "loader": "activations, logits, embeddings; no sums, no accounting, nothing kept until the end",
    "clip-retrieval": "embeddings only",
    "semanticlens": "best examples of each channel, and embeddings in memory; decodes twice",
    "ray-data-1": "activations, logits, embeddings in Parquet; one actor with a core",
    "ray-data-2": "the same; two actors, half a core each for the scheduler",
}


def beside(name: str, folder: Path, options: argparse.Namespace) -> list[Measure]:
    """One peer and a run's extraction in turns, the latter in float32 and in the formats that it chooses."""
    write_photos(folder / "images", options.photos, options.folder)
    write_photos(folder / "warm", BATCH, options.folder)
    benches, shards = {}, []
    for kind in FORMATS:
        settings = config(folder, BIG, store=f"store-{kind}", number_format=kind)
        shards = shards_of(settings, options.photos)
        benches[kind] = decided(settings)
        warm_up(benches[kind], shards[0])
    save_weights(benches["float32"], folder / "weights")
    ours: dict[str, list[float]] = {kind: [] for kind in FORMATS}
    theirs: list[float] = []
    for number in range(options.rounds):
        for kind, bench in benches.items():
            ours[kind].append(options.photos / float(seconds(partial(drain, bench, shards[0]))[0]))
        theirs.append(ask(PEERS[name], folder, options.peers, f"{name}-{number}"))
        print(name, round(theirs[-1], 2), {kind: round(one[-1], 2) for kind, one in ours.items()}, flush=True)
    return [
        ratios(f"{name}: images a second, its own ({COMPUTES[name]})", theirs, None),
        *(ratios(f"{name}: images a second, a run in {kind}", rates, None) for kind, rates in ours.items()),
        *(
            ratios(
                f"{name}: times as fast as it, a run in {kind}",
                [one / other for one, other in zip(rates, theirs, strict=True)],
                PEERS[name].goal,
            )
            for kind, rates in ours.items()
        ),
    ]


def save_weights(bench: Bench, folder: Path) -> None:
    """Both models' weights, as timm and open_clip load them."""
    folder.mkdir()
    torch.save(bench.classifier._module.state_dict(), folder / "classifier.pt")
    torch.save(bench.encoder._model.state_dict(), folder / "encoder.pt")


def ask(peer: Peer, folder: Path, peers: Path, name: str) -> float:
    """The images a second that a peer's script tells. Raises RuntimeError with the end of what it said."""
    python = str(peers / peer.environment / "bin" / "python") if peer.environment else sys.executable
    request = {
        "images": str(folder / "images"),
        "warm": str(folder / "warm"),
        "weights": str(folder / "weights"),
        "out": str(folder / name),
        "batch": BATCH,
        "cores": CORES,
    }
    command = [python, str(SCRIPTS / f"{peer.script}.py"), json.dumps(request), *peer.arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return float(told["images"] / told["seconds"])


PARTS: dict[str, Callable[[Path, Any], list[Measure]]] = {name: partial(beside, name) for name in PEERS}
