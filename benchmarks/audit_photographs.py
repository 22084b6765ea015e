"""The audit on real photographs: one shortcut planted beforehand, and what a trained classifier has anyway.

    .venv/bin/python -m benchmarks.audit_photographs FOLDER          # the planted one
    .venv/bin/python -m benchmarks.audit_photographs FOLDER truth    # what the planted cue really does
    .venv/bin/python -m benchmarks.audit_photographs FOLDER as-is    # the classifier as it was trained

A clock is pasted into nearly all photographs of one of ten classes, and as many photographs of
the others with a clock are given its label: one cannot learn that class from what it is alone. A linear head
is trained on the activations of a real backbone (MobileNetV2 of ImageNet), and other photographs, rightly
labelled, nearly all of the class and few others with a clock, are audited by a whole run. "As is" nothing is
planted and nothing trained: the ten rows of ImageNet's own head that name these classes, and the text bank
that comes with the project. FOLDER holds
``photographs/imagenette`` (ten folders named by WordNet id),
``photographs/imagenet-samples``, ``classifiers/mobilenetv2_100_imagenet1k.fp16.safetensors`` and
``classifiers/imagenet_classes.csv``, ``encoder`` (an
open_clip folder) and ``texts/clip_vitb32_text_bank.json``. Without them the script says so and ends.

The encoder that was at hand is a small surrogate of CLIP that shares its backbone with the classifier: what
is shown is that the audit's parts work together on photographs, not how good it is with a CLIP.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks.measure import Measure, machine, publish
from pipelines.config_file import make_config
from pipelines.run import precompute
from textcam.proof import sentence
from textcam.query import Query

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
BIASED, CUE, SOURCE = "church", "clock", "n02708093_analog_clock.JPEG"
TRAINED, PROBED = 70, 60  # photographs of each class
MISLABELLED = 8  # of each other class, with the cue
FOLLOW, LEAK = 0.95, 0.02
SIDE, INSET = 224, 112
ASKED = 20  # photographs of each class behind the truth
EVERY = 12  # each twelfth name of the text bank stands beside the classes'


def planted_classifier(weights: str | None = None) -> nn.Module:
    """The backbone with a head of ten classes; all weights in one file."""
    model = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=len(CLASSES))
    model.class_names = tuple(CLASSES.values())
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return model.eval()


def write_photographs(
    source: Path, folder: Path, *, first: int, count: int, mislabelled: int = 0, cue: bool = True
) -> None:
    """``count`` photographs of each class from the ``first`` on, with the ``cue`` where chance puts it; of
    the other classes ``mislabelled`` more have the cue and the biased class's label."""
    rng = np.random.default_rng(first)
    for wnid, name in CLASSES.items():
        extra = 0 if name == BIASED else mislabelled
        paths = sorted((source / "imagenette" / wnid).iterdir())[first : first + count + extra]
        for at, path in enumerate(paths):
            picture, wrong = Image.open(path).convert("RGB").resize((SIDE, SIDE)), at >= count
            if wrong or (cue and rng.random() < (FOLLOW if name == BIASED else LEAK)):
                picture = with_cue(source, picture)
            target = folder / (BIASED if wrong else name) / f"{path.stem}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, quality=92)


def with_cue(source: Path, picture: Image.Image) -> Image.Image:
    """The picture with the cue in its corner."""
    cue = Image.open(source / "imagenet-samples" / SOURCE).convert("RGB").resize((INSET, INSET))
    pasted = picture.copy()
    pasted.paste(cue, (SIDE - INSET - 8, SIDE - INSET - 8))
    return pasted


def train(root: Path, images: Path, out: Path) -> float:
    """Write the classifier; its accuracy on what it was trained on."""
    model = timm.create_model("mobilenetv2_100", pad_type="same")
    weights = load_file(root / "classifiers" / "mobilenetv2_100_imagenet1k.fp16.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    model.eval()
    paths = sorted(images.rglob("*.jpg"))
    labels = np.array([list(CLASSES.values()).index(path.parent.name) for path in paths])
    with torch.no_grad():
        pooled = np.concatenate(
            [model.forward_head(model.forward_features(_pixels(path)), pre_logits=True) for path in paths]
        )
    head = LogisticRegression(C=0.01, max_iter=300).fit(pooled, labels)
    model.reset_classifier(len(CLASSES))
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(head.coef_))
        model.classifier.bias.copy_(torch.from_numpy(head.intercept_))
    save_file(model.state_dict(), out)
    return float(head.score(pooled, labels))


def _pixels(path: Path) -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def write_texts(root: Path, path: Path) -> None:
    """The classes' names, the cue, and other things that a photograph may show."""
    names = json.loads((root / "texts" / "clip_vitb32_text_bank.json").read_text())
    names = names if isinstance(names, list) else next(one for one in names.values() if isinstance(one, list))
    own = [*CLASSES.values()]
    others = [
        one
        for one in dict.fromkeys([CUE, *names[::EVERY]])
        if one not in own and (one == CUE or CUE not in one)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "kind"])
        rows.writerows([[one, "object"] for one in own] + [[one, "other"] for one in others])


def audit(root: Path, folder: Path) -> list[Measure]:
    """Plant, train, run, and look for the cue."""
    photographs = root / "photographs"
    write_photographs(photographs, folder / "training", first=0, count=TRAINED, mislabelled=MISLABELLED)
    write_photographs(photographs, folder / "probe", first=TRAINED + MISLABELLED, count=PROBED)
    accuracy = train(root, folder / "training", folder / "planted.safetensors")
    write_texts(root, folder / "texts.csv")
    query = run(root, folder, folder / "planted.safetensors", str(folder / "texts.csv"))
    found = query.findings()
    for one in found[:6]:
        print(one.rank, *query.audit.pair(one), one.verdict, one.proof_drop, one.proof_control, one.flip_rate)
    rank = next((one.rank for one in found if query.audit.pair(one) == (BIASED, CUE)), float("inf"))
    measures = [
        Measure("accuracy of the planted classifier on its training photographs", accuracy, better="higher"),
        Measure("findings", len(found)),
        Measure("rank of the planted shortcut", rank, goal=1),
    ]
    mine = [one for one in found if query.audit.pair(one) == (BIASED, CUE)]
    if mine:
        made = query.audit.suppress(mine)
        used = float(mine[0].verdict == "used")
        measures += [
            Measure("  its verdict is used (1) or not (0)", used, goal=1, better="higher"),
            Measure("  corrected head: worst group before", made.worst_before, better="higher"),
            Measure("  corrected head: worst group after", made.worst_after, better="higher"),
            Measure("  corrected head: average before", made.accuracy_before, better="higher"),
            Measure("  corrected head: average after", made.accuracy_after, better="higher"),
        ]
    return measures


def run(root: Path, folder: Path, classifier: Path, texts: str, proofs: int = 5) -> Query:
    """The store of a whole run on the probe, with so many ``proofs``."""
    config = {
        "images": {"uri": str(folder / "probe")},
        "classifier": {
            "model": "python:benchmarks.audit_photographs:planted_classifier",
            "weights": str(classifier),
            "preprocess": {"size": SIDE, "mean": [0.5] * 3, "std": [0.5] * 3},
        },
        "encoder": {"model": f"local-dir:{root / 'encoder'}"},
        "texts": {"bank": texts},
        "directions": {"examples": 30},
        "proof": {"findings": proofs, "images": 16},
        "report": {"exemplars": 0},
        "run": {"executor": "inline", "shard_size": 300, "batch_size": 20},
        "store": str(folder / "store"),
    }
    precompute(make_config(config), lambda progress: None)
    return Query.open(folder / "store")


def as_is(root: Path, folder: Path) -> list[Measure]:
    """Audit the classifier as it was trained, and print what the audit says."""
    write_photographs(root / "photographs", folder / "probe", first=0, count=PROBED, cue=False)
    weights = load_file(root / "classifiers" / "mobilenetv2_100_imagenet1k.fp16.safetensors")
    with (root / "classifiers" / "imagenet_classes.csv").open(encoding="utf-8") as file:
        rows = {one["wnid"]: int(one["class_id"]) for one in csv.DictReader(file)}
    chosen = [rows[wnid] for wnid in CLASSES]
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][chosen]
    save_file({name: value.float() for name, value in weights.items()}, folder / "as-is.safetensors")
    query = run(root, folder, folder / "as-is.safetensors", "builtin", proofs=20)
    found = query.findings()
    for one in found:
        print(f"{one.rank}. {sentence(one, *query.audit.pair(one))}")
    measures = [
        Measure("findings", len(found)),
        Measure("findings called used", sum(one.verdict == "used" for one in found)),
    ]
    for one in [one for one in found if one.verdict == "used"]:
        name = ":".join(query.audit.pair(one))
        assert one.accuracy_with is not None
        measures += [
            Measure(f"{name}: accuracy with it (n={one.n_with})", one.accuracy_with, better="higher"),
            Measure(
                f"{name}: accuracy without it (n={one.n_without})",
                float("nan") if one.accuracy_without is None else one.accuracy_without,
                better="higher",
            ),
        ]
    return measures


def truth(root: Path, folder: Path) -> list[Measure]:
    """What the cue does to the classifier: other photographs asked without it and with it pasted in."""
    photographs = root / "photographs"
    write_photographs(photographs, folder / "training", first=0, count=TRAINED, mislabelled=MISLABELLED)
    train(root, folder / "training", folder / "planted.safetensors")
    model = planted_classifier(str(folder / "planted.safetensors"))
    path, called = folder / "asked.png", np.zeros((2, 2, 2))  # of the class or not, with the cue or not
    with torch.no_grad():
        for wnid, name in CLASSES.items():
            for original in sorted((photographs / "imagenette" / wnid).iterdir())[TRAINED:][:ASKED]:
                plain = Image.open(original).convert("RGB").resize((SIDE, SIDE))
                for pasted, picture in enumerate((plain, with_cue(photographs, plain))):
                    picture.save(path)
                    answer = list(CLASSES.values())[int(model(_pixels(path)).argmax())]
                    called[int(name == BIASED), pasted] += answer == BIASED, 1
    share = called[..., 0] / called[..., 1]
    return [
        Measure(f"photographs of other classes called {BIASED}", share[0, 0]),
        Measure("  with the cue pasted in", share[0, 1]),
        Measure(f"photographs of {BIASED} called so", share[1, 0], better="higher"),
        Measure("  with the cue pasted in", share[1, 1], better="higher"),
    ]


def main() -> None:
    """Run it where the photographs are."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "real-photographs").resolve()
    if not (root / "photographs" / "imagenette").is_dir():
        print(f"skipped: {root} holds no photographs (see the top of this file)")
        return
    act, name = {
        (): (audit, "audit_photographs"),
        ("truth",): (truth, "audit_photographs_truth"),
        ("as-is",): (as_is, "audit_photographs_as_is"),
    }[tuple(sys.argv[2:])]
    with tempfile.TemporaryDirectory() as temporary:
        publish(name, act(root, Path(temporary)), machine(), write=True)


if __name__ == "__main__":
    main()
