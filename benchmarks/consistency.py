"""Do networks of different kinds give the same words for the same images? And what does one decode save?

    python -m benchmarks.consistency [--per-class 150] [--photographs FOLDER]

The paper says that explanations are consistent across architectures; here it is measured. Networks that tell
the shapes of the demo's scenes apart are explained in one run: the demo's residual one, plain convolutions, a
hybrid with attention (all right on 97 % of scenes and more), two transformers that are right on 65 %, and a
residual one that has learnt shortcuts and should agree less. Pairs are compared as `textcam compare` does;
bounds are over pairs.

With the folder of real data, a MobileNetV2 and a SqueezeNet on photographs.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measure, interval, machine, publish
from benchmarks.small_networks import weights as trained
from demo.models import CLIP_FOLDER, WEIGHTS
from demo.probe import write_probe
from demo.run import HERE
from demo.scenes import VALUES
from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.config_file import make_configs
from pipelines.extract import extract_for
from pipelines.images import plan_shards
from pipelines.together import precompute_together
from store.reader import Snapshot
from textcam.compare import Comparison, compare

CONVOLUTIONAL = "python:demo.models:tiny_classifier"
DEMO, BIASED = "residual", "biased"
COMPETENT = ("plain", "hybrid")
WEAK = ("pooling_vit", "class_token_vit")
SEED = 71
KINDS = {
    "networks that are mostly right": {"good"},
    "one of these, and a transformer right on 65 %": {"good", "weak"},
    "one of these, and one with shortcuts": {"good", "biased"},
}


def kind_of(name: str) -> str:
    """good, weak or biased."""
    if name == BIASED:
        return "biased"
    return "weak" if name.replace("-", "_") in WEAK else "good"


def networks(folder: Path) -> list[dict[str, Any]]:
    """The classifiers, as a configuration lists them."""
    names = folder / "shapes.txt"
    names.write_text("\n".join(VALUES["shape"]) + "\n")
    small = [
        {
            "name": name.replace("_", "-"),
            "model": f"python:benchmarks.small_networks:{name}",
            "weights": str(trained(name)),
            "class_names": str(names),
        }
        for name in (*COMPETENT, *WEAK)
    ]
    return [
        {"name": DEMO, "model": CONVOLUTIONAL, "weights": str(WEIGHTS / "clean.safetensors")},
        *small,
        {"name": BIASED, "model": CONVOLUTIONAL, "weights": str(WEIGHTS / "biased.safetensors")},
    ]


def scene_configs(folder: Path, per_class: int) -> dict[str, Config]:
    """All networks over one set of scenes without shortcuts."""
    images = folder / "scenes"
    write_probe(images, confounded=False, per_class=per_class, seed=SEED)
    raw = {
        "images": {"uri": str(images)},
        "classifiers": networks(folder),
        "encoder": {"model": f"local-dir:{CLIP_FOLDER}"},
        "texts": {"bank": str(HERE / "texts.csv")},
        "directions": {"examples": 50},
        "groups": {"count": 12},
        "proof": {"findings": 0},
        "report": {"exemplars": 0},
        "run": {"executor": "inline", "shard_size": 240, "batch_size": 48},
        "store": str(folder / "stores"),
    }
    return make_configs(raw)


def photograph_configs(real: Path, folder: Path) -> dict[str, Config]:
    """Two real networks over the photographs, with the encoder that lies beside them."""
    names = real / "classifiers" / "imagenet_classes.csv"
    mobilenet = real / "classifiers" / "mobilenetv2_100_imagenet1k.fp16.safetensors"
    squeezenet = real / "classifiers" / "squeezenet1_1_imagenet1k.pth"
    raw = {
        "images": {"uri": str(real / "photographs" / "imagenette")},
        "classifiers": [
            {
                "name": "mobilenet",
                "model": "timm:mobilenetv2_100?pad_type=same",
                "weights": str(mobilenet),
                "preprocess": {"mean": [0.5] * 3, "std": [0.5] * 3},
                "class_names": str(names),
            },
            {
                "name": "squeezenet",
                "model": "torchvision:squeezenet1_1",
                "weights": str(squeezenet),
                "class_names": str(names),
            },
        ],
        "encoder": {"model": f"local-dir:{real / 'encoder'}"},
        "directions": {"examples": 30},
        "proof": {"findings": 0},
        "report": {"exemplars": 0},
        "run": {"executor": "inline", "shard_size": 500, "batch_size": 32},
        "store": str(folder / "photographs"),
    }
    return make_configs(raw)


def compared(configs: Mapping[str, Config]) -> dict[tuple[str, str], Comparison]:
    """Every pair of the stores, made now."""
    precompute_together(configs, lambda name, progress: None)
    opened = {name: Snapshot.open(config.store) for name, config in configs.items()}
    return {(a, b): compare(opened[a], opened[b]) for a, b in combinations(opened, 2)}


def agreements(found: Comparison) -> dict[str, float]:
    """What two networks have in common, each in [0, 1] but for the lead over chance."""
    first = [one.words_a[:1] == one.words_b[:1] for one in found.classes]
    return {
        "same prediction": found.same_prediction or 0.0,
        "same first word of an image": found.same_first_word or 0.0,
        "same first word of a class": float(np.mean(first)),
        "share of a class's evidence on the same words": float(
            np.mean([one.agreement for one in found.classes])
        ),
        "cosine of a channel with the nearest of the other": found.alike,
        "the same by chance": found.by_chance,
    }


def rows(title: str, pairs: list[Comparison]) -> list[Measure]:
    """One measure a kind of agreement, over pairs."""
    told = [agreements(one) for one in pairs]
    return [
        Measure(f"{title}: {name}", *interval([one[name] for one in told], np.mean), better="higher")
        for name in told[0]
    ]


def decode_saving(configs: Mapping[str, Config], rounds: int) -> Measure:
    """Core seconds of extraction for all classifiers, one after the other, over those of them together."""
    benches = [Bench(config) for config in configs.values()]
    for bench in benches[1:]:
        bench.encoder = benches[0].encoder
    first = next(iter(configs.values()))
    shard = next(iter(plan_shards(first.images, first.run.shard_size).shards()))

    def spent(groups: list[list[Bench]]) -> float:
        begin = time.process_time()
        for group in groups:
            for _ in extract_for(group, shard):
                pass
        return time.process_time() - begin

    spent([benches])  # the first pass of a network sets itself up
    ratios = [spent([[one] for one in benches]) / spent([benches]) for _ in range(rounds)]
    title = f"cores: {len(benches)} networks one by one / together"
    return Measure(title, *interval(ratios, np.median), better="higher")


def main() -> None:
    """Print the table and write ``results/consistency.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-class", type=int, default=150)
    parser.add_argument(
        "--photographs", type=Path, help="folder with classifiers/, encoder/ and photographs/"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the stores; without it they are removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = (options.keep or Path(passing)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        configs = scene_configs(folder, options.per_class)
        pairs = compared(configs)
        measures = []
        for title, wanted in KINDS.items():
            chosen = [found for names, found in pairs.items() if {kind_of(name) for name in names} == wanted]
            measures += rows(title, chosen)
        measures.append(decode_saving(configs, options.rounds))
        if options.photographs:
            real = compared(photograph_configs(options.photographs.resolve(), folder))
            measures += rows("MobileNetV2 and SqueezeNet", list(real.values()))
    whole = options.per_class == parser.get_default("per_class") and options.photographs is not None
    publish("consistency", measures, machine(), whole)


if __name__ == "__main__":
    main()
