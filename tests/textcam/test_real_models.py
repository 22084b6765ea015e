"""Real weights on real photographs. Skipped where they are absent: nothing of them is part of the project."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from tests.textcam.test_cam_methods import REFERENCES, reference_weights
from textcam.classifier import load_classifier
from textcam.encoder import load_encoder
from textcam.layers import find_target

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("TEXTCAM_REAL", REPOSITORY.parent / "shared" / "real"))
NAMES = REAL / "classifiers" / "imagenet_classes.csv"
SQUEEZENET = REAL / "classifiers" / "squeezenet1_1_imagenet1k.pth"
pytestmark = pytest.mark.skipif(
    not NAMES.is_file(), reason=f"no real models and photographs in {REAL} (set TEXTCAM_REAL)"
)


def classes():
    with NAMES.open(encoding="utf-8") as lines:
        return {row["wnid"]: (int(row["class_id"]), row["name"]) for row in csv.DictReader(lines)}


def samples(step):
    """(path, class id) of every so many photographs, one a class."""
    known = classes()
    paths = sorted((REAL / "photographs" / "imagenet-samples").glob("*.JPEG"))[::step]
    return [(path, known[path.name.partition("_")[0]][0]) for path in paths]


def accuracy(classifier, photographs):
    right = 0
    for start in range(0, len(photographs), 16):
        chunk = photographs[start : start + 16]
        pixels = np.stack([classifier.prepare(Image.open(path).convert("RGB")) for path, _ in chunk])
        predicted = classifier.forward(pixels).logits.argmax(1)
        right += sum(int(p) == wanted for p, (_, wanted) in zip(predicted, chunk, strict=True))
    return right / len(photographs)


def test_mobilenet_knows_its_photographs_and_its_contributions_add_up():
    classifier = load_classifier(
        "timm:mobilenetv2_100?pad_type=same",
        weights=str(REAL / "classifiers" / "mobilenetv2_100_imagenet1k.fp16.safetensors"),
        preprocess={"size": 224, "mean": 0.5, "std": 0.5},
        class_names=str(NAMES),
    )
    assert (classifier.channels, classifier.map_size, len(classifier.class_names)) == (1280, (7, 7), 1000)
    photographs = samples(5)
    assert accuracy(classifier, photographs) > 0.8
    pixels = np.stack([classifier.prepare(Image.open(path).convert("RGB")) for path, _ in photographs[:8]])
    output, weights = classifier.forward_cam(pixels)
    best = output.logits.argmax(1)
    expected = output.logits[range(8), best] - classifier.head.bias[best]
    assert np.abs((weights * output.pooled).sum(1) - expected).max() < 1e-5 * np.abs(expected).max()


def test_squeezenet_knows_its_photographs():
    classifier = load_classifier("torchvision:squeezenet1_1", weights=str(SQUEEZENET))
    assert (classifier.layer, classifier.channels, classifier.head) == ("features", 512, None)
    assert accuracy(classifier, samples(5)) > 0.5


def test_the_encoder_names_photographs_of_ten_classes():
    encoder = load_encoder(f"local-dir:{REAL / 'encoder'}")
    known = classes()
    folders = [
        folder for folder in sorted((REAL / "photographs" / "imagenette").iterdir()) if folder.name in known
    ]
    texts = encoder.encode_texts([f"a {known[folder.name][1].split(',')[0]}" for folder in folders])
    right, number = 0, 0
    for index, folder in enumerate(folders):
        paths = sorted(folder.iterdir())[::30]
        pixels = np.stack([encoder.prepare(Image.open(path).convert("RGB")) for path in paths])
        right += int(((encoder.encode_images(pixels) @ texts.T).argmax(1) == index).sum())
        number += len(paths)
    assert right / number > 0.8
    assert encoder.dense(pixels[:2]).shape == (2, encoder.dim, 7, 7)


@pytest.mark.slow
@pytest.mark.parametrize("method", REFERENCES)
def test_weights_of_a_real_network_agree_with_pytorch_grad_cam(method):
    preprocess = models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    path, class_id = samples(5)[1]
    classifier = load_classifier("torchvision:squeezenet1_1", weights=str(SQUEEZENET))
    pixels = classifier.prepare(Image.open(path).convert("RGB"))[None]
    weights = classifier.cam_weights(pixels, [class_id], method)
    network = models.squeezenet1_1()
    network.load_state_dict(torch.load(SQUEEZENET, weights_only=True))
    inputs = preprocess(Image.open(path).convert("RGB"))[None]
    target = find_target(network.eval(), (224, 224))
    expected = reference_weights(REFERENCES[method], network, target, inputs, [class_id])
    if method == "ablationcam":
        expected = expected * classifier.forward(pixels).logits[:, [class_id]]
    if method == "shapleycam":
        expected = expected * np.prod(classifier.map_size)
    assert np.abs(weights - expected).max() < 1e-4 * np.abs(expected).max()
