"""The demo: render scenes, explain a clean and a biased classifier, and show what each looks for.

Everything is real: images on disk, the models' files, Ray, a store each. The probe images that are explained
carry no bias of their own; a second probe that does carry the training bias shows both models side by side,
so that nobody takes what goes together in the data for what a model uses.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from demo.probe import write_probe
from demo.truth import write_truth
from pipelines.config_file import load_config
from pipelines.execute import local_ray
from pipelines.run import Progress, RunSummary, precompute
from service.pages import write_report

HERE = Path(__file__).resolve().parent
PROBES = {"unbiased": False, "confounded": True}
MODELS = ("clean", "biased")
SEED = 20251


@dataclass(frozen=True)
class DemoResult:
    """Where everything is."""

    stores: dict[str, Path]
    report: Path
    truth: Path
    images: int
    seconds: float


def main(
    out: Path, report: Callable[[str, Progress], None] = lambda name, progress: None, per_class: int = 150
) -> DemoResult:
    """Make the demo's folder. What is already there is kept: a second call only does what is missing.

    ``out`` then holds ``clean.yaml``, ``biased.yaml`` (the configurations), the stores ``clean/`` and
    ``biased/``, the same for the confounded probe, ``truth.json``, the images, and ``report/index.html``.
    """
    started = time.monotonic()
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name, confounded in PROBES.items():
        report("", Progress("scenes", list(PROBES).index(name), len(PROBES) + 1))
        if not (out / "images" / f"{name}_attributes.csv").exists():  # written last
            write_probe(
                out / "images" / name, confounded=confounded, per_class=per_class, seed=SEED + confounded
            )
    report("", Progress("scenes", len(PROBES), len(PROBES) + 1))
    if not (out / "truth.json").exists():
        write_truth(out / "truth.json")
    report("", Progress("scenes", len(PROBES) + 1, len(PROBES) + 1))
    stores: dict[str, Path] = {}
    summaries: list[RunSummary] = []
    with local_ray():
        for probe in PROBES:
            for model in MODELS:
                name = model if probe == "unbiased" else f"{model}-{probe}"
                path = write_config(out, name, model, probe)
                stores[name] = out / name
                summaries.append(precompute(load_config(path), partial(report, name)))
    page = write_report(
        stores["biased"],
        out / "report",
        label="biased model",
        compare_with=[(title, stores[name]) for name, title in COMPARED.items()],
    )
    seconds = time.monotonic() - started
    return DemoResult(stores, page, out / "truth.json", sum(one.images for one in summaries), seconds)


COMPARED = {
    "clean": "clean model",
    "biased-confounded": "biased model, biased images",
    "clean-confounded": "clean model, biased images",
}


def write_config(out: Path, name: str, model: str, probe: str) -> Path:
    """Write ``name.yaml``; paths are relative to it where they lie in ``out``."""
    config = {
        "images": {"uri": f"images/{probe}", "format": "folder"},
        "classifier": {
            "model": "python:demo.models:tiny_classifier",
            "weights": str(HERE / "weights" / f"{model}.safetensors"),
        },
        "encoder": {"model": f"local-dir:{HERE / 'weights' / 'clip'}"},
        "texts": {"bank": str(HERE / "texts.csv")},
        "directions": {"examples": 50},
        "groups": {"count": 12},
        "run": {"executor": "ray", "shard_size": 300, "batch_size": 100},
        "store": name,
    }
    path = out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path
