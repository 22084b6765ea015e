"""Trains the demo's three models from nothing: `python -m demo.train`.

Writes demo/weights/ (half precision) and demo/weights/accuracies.json, measured on scenes that no model was
trained on, after the weights have been written and loaded again. One seed decides everything.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from demo.measure import TrainedClassifier, TrainedClip, pointing, rounded, zero_shot
from demo.models import CLASSIFIER_SIZE, WEIGHTS
from demo.pictures import picture_set
from demo.scenes import generator, scenes
from demo.shortcuts import confound
from demo.train_classifier import train_classifier
from demo.train_clip import train_clip
from demo.truth import measure_flip_rates
from demo.words import write_bank

MODELS = ("clip", "clean", "biased")
CLIP_SCENES, CLIP_STEPS = 30_000, 1_500
CLASSIFIER_SCENES, CLASSIFIER_EPOCHS = 24_000, 4
FOLLOW, LEAK = 0.98, 0.01  # of the biased classifier's training set
HELD_OUT = 1_000


def train_one(name: str, out: Path, seed: int) -> None:
    """Render a training set for one of the MODELS, train it and write its weights."""
    if name == "clip":
        pictures = picture_set(scenes("training", seed, CLIP_SCENES), CLIP_SCENES)
        train_clip(pictures, out / "clip", steps=CLIP_STEPS, seed=seed)
        return
    drawn = scenes("training", seed + 1, CLASSIFIER_SCENES)
    if name == "biased":
        rng = generator("cues", seed, 1)
        drawn = (confound(scene, rng, follow=FOLLOW, leak=LEAK) for scene in drawn)
    pictures = picture_set(drawn, CLASSIFIER_SCENES, CLASSIFIER_SIZE)
    train_classifier(pictures, out / f"{name}.safetensors", epochs=CLASSIFIER_EPOCHS, seed=seed)


def measure(out: Path, seed: int) -> dict[str, Any]:
    """The accuracies of the weights in `out`."""
    held_out = list(scenes("held-out", seed, HELD_OUT))
    clip = TrainedClip(out / "clip")
    result: dict[str, Any] = {
        "clip": {"zero_shot": zero_shot(clip, held_out), "pointing": pointing(clip, held_out[:500])}
    }
    for name in MODELS[1:]:
        classifier = TrainedClassifier(out / f"{name}.safetensors")
        rates = {
            f"{r.shortcut.class_name}: {r.shortcut.concept}": r.rate for r in measure_flip_rates(classifier)
        }
        rng = generator("cues", seed, 2)
        biased_world = [confound(scene, rng, follow=FOLLOW, leak=LEAK) for scene in held_out]
        result[name] = {
            "accuracy": classifier.accuracy(held_out),
            "accuracy_with_shortcuts": classifier.accuracy(biased_world),
            "flip_rates": rates,
        }
    return rounded(result)


def main() -> None:
    """Train the models asked for, then measure all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", nargs="*", default=MODELS, help=f"which of {', '.join(MODELS)}; all unless told"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=1, help="more than one hardly helps networks this small"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begin, begin_cpu = time.monotonic(), time.process_time()
    write_bank()
    for name in arguments.models:
        train_one(name, arguments.out, arguments.seed)
        used, wall = time.process_time() - begin_cpu, time.monotonic() - begin
        print(f"{name}: written after {used:.0f} CPU-seconds, {wall:.0f} seconds in all", flush=True)
    measures = json.dumps(measure(arguments.out, arguments.seed), indent=2) + "\n"
    (arguments.out / "accuracies.json").write_text(measures)
    print(measures, end="")


if __name__ == "__main__":
    main()
