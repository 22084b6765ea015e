"""T3: real photographs. The logits of a trained classifier are taken as channels: what each means is known,
its class.

    python -m benchmarks.truth.photographs --images DIR --classes CSV --squeezenet FILE --encoder DIR

DIR holds folders named by class identifier; CSV has class_id, wnid and name of a thousand classes; FILE is
a torchvision state dict; the encoder is one for open_clip's local-dir. Every method names each logit of a
class that has a hundred photographs or more; right is the class's own name among all thousand. Nothing is
downloaded.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import open_clip
import torch
import torchvision
from PIL import Image
from torchvision import transforms

from benchmarks.measure import Measure, machine, publish
from benchmarks.truth.evidence import Array, Evidence
from benchmarks.truth.measures import bootstrap
from benchmarks.truth.ours import PAPER, Choices, Directions
from benchmarks.truth.rivals import RIVALS

FEWEST = 100
BATCH = 50
IMAGENET = transforms.Compose(
    [
        transforms.Resize(224),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


@torch.no_grad()
def collect(
    images: Path, squeezenet: Path, encoder: Path, names: list[str]
) -> tuple[list[Path], Array, Array, Array]:
    """The files, logits (N, 1000), embeddings (N, D) of the images and (1000, D) of the names."""
    classifier = torchvision.models.squeezenet1_1(weights=None)
    classifier.load_state_dict(torch.load(squeezenet, weights_only=True))
    classifier.eval()
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{encoder}")
    model.eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{encoder}")
    files = sorted(path for path in images.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    logits, embeddings = [], []
    for first in range(0, len(files), BATCH):
        pictures = [Image.open(path).convert("RGB") for path in files[first : first + BATCH]]
        logits.append(classifier(torch.stack([IMAGENET(one) for one in pictures])).numpy())
        pixels = torch.stack([prepare(one) for one in pictures])
        embeddings.append(model.encode_image(pixels, normalize=True).numpy())
    texts = [
        model.encode_text(
            tokenize([f"a photo of a {one.split(',')[0]}" for one in names[i : i + BATCH]]), normalize=True
        )
        for i in range(0, len(names), BATCH)
    ]
    return files, np.concatenate(logits), np.concatenate(embeddings), torch.cat(texts).numpy()


def ranks(evidence: Evidence, classes: Array) -> dict[str, list[int]]:
    """By method, the place of the right name among all of them, for each of the logits."""
    fitted = Directions(evidence)
    scores = {
        "ours": fitted.scores(Choices(form="names")),
        "LDA (shrinkage 0.1)": fitted.scores(Choices(form="whole")),
        "ridge over all images": fitted.scores(Choices(form="ridge")),
        "TextCAM, the paper's form": fitted.scores(PAPER),
        **{name: method(evidence) for name, method in RIVALS.items()},
    }
    return {
        name: [int((made[row] > made[row, own]).sum()) + 1 for row, own in enumerate(classes)]
        for name, made in scores.items()
    }


def main() -> None:
    """Print every method's ranks and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("images", "classes", "squeezenet", "encoder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    rows = sorted(csv.DictReader(asked.classes.open()), key=lambda row: int(row["class_id"]))
    files, logits, embeddings, texts = collect(
        asked.images, asked.squeezenet, asked.encoder, [row["name"] for row in rows]
    )
    number = {row["wnid"]: place for place, row in enumerate(rows)}
    labels = np.array([number.get(path.parent.name, -1) for path in files])
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    classes = found[counts >= FEWEST]
    evidence = Evidence(logits[:, classes], embeddings, texts, ("object",) * len(rows))
    measures = []
    for method, of_method in ranks(evidence, classes).items():
        print(f"{method:28} {of_method}")
        first = bootstrap(np.array(of_method) == 1)
        measures.append(Measure(f"t3 | {method} | own name first", *first, better="higher"))
        five = bootstrap(np.array(of_method) <= 5)
        measures.append(Measure(f"t3 | {method} | own name in first five", *five, better="higher"))
    publish("truth_photographs", measures, machine(), write=True)


if __name__ == "__main__":
    main()
