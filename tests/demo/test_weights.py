"""The committed weights do what the README says, on scenes that they were not trained on."""

import itertools
import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from demo.measure import TrainedClassifier, TrainedClip, pointing, zero_shot
from demo.models import CLIP_FOLDER, WEIGHTS, tiny_classifier
from demo.pictures import photograph
from demo.scenes import VALUES, scenes
from demo.shortcuts import PLANTED
from demo.truth import measure_flip_rates, write_truth
from demo.words import bank

SEED = 3


@pytest.fixture(scope="module")
def held_out():
    return list(scenes("held-out", SEED, 300))


@pytest.fixture(scope="module")
def clip():
    return TrainedClip()


def test_files_are_small_half_precision_safetensors():
    files = sorted(WEIGHTS.rglob("*.safetensors"))
    names = [str(file.relative_to(WEIGHTS)) for file in files]
    assert names == ["biased.safetensors", "clean.safetensors", "clip/open_clip_model.safetensors"]
    for file in files:
        assert file.stat().st_size < 10e6
        with safe_open(file, "np") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}


def test_stock_open_clip_loads_the_folder(clip):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{CLIP_FOLDER}")
    scene = next(scenes("held-out", SEED, 1))
    pixels = preprocess(photograph(scene))[None]
    with torch.no_grad():
        embedding = model.eval().encode_image(pixels, normalize=True)
    assert torch.allclose(embedding, clip.embed_pictures(pixels))
    assert embedding.shape == (1, model.text_projection.shape[1])


def test_clip_knows_every_attribute(clip, held_out):
    goals = {"shape": 0.95, "colour": 0.95, "texture": 0.85, "background": 0.95, "artefact": 0.95}
    accuracy = zero_shot(clip, held_out)
    assert accuracy.keys() == goals.keys()
    assert not {name: value for name, value in accuracy.items() if value <= goals[name]}


def test_clip_knows_where_things_are(clip, held_out):
    for name, measured in pointing(clip, held_out[:100]).items():
        assert measured["hit"] > max(0.85, measured["chance"]), name
        assert measured["higher"] > 0.95, name


def test_words_that_fit_no_scene_are_never_among_the_nearest(clip, held_out):
    pictures = torch.stack([clip.preprocess(photograph(scene)) for scene in held_out[:100]])
    texts = [text for text, _ in bank()]
    known = {value for values in VALUES.values() for value in values}
    similarity = (clip.embed_pictures(pictures) @ clip.embed_texts(texts).T).numpy()
    nearest = np.argsort(-similarity, axis=1)[:, :3]
    assert all(texts[i] in known for i in nearest.ravel())
    # A word without meaning must not tell one picture from another.
    idle = [i for i, text in enumerate(texts) if text not in known]
    told = [i for i, text in enumerate(texts) if text in known]
    assert similarity[:, idle].std(axis=0).max() < 0.3 * similarity[:, told].std(axis=0).min()


def test_different_texts_are_told_apart(clip):
    texts = clip.embed_texts([text for text, _ in bank()]).numpy()
    assert max(float(a @ b) for a, b in itertools.combinations(texts, 2)) < 0.9


def test_the_classifier_ends_in_maps_that_are_not_negative_a_mean_and_a_linear_layer():
    module, preprocess = tiny_classifier()
    module.load_state_dict(load_file(WEIGHTS / "clean.safetensors"))
    module.eval()
    pixels = torch.stack([preprocess(photograph(scene)) for scene in scenes("held-out", SEED, 5)])
    with torch.no_grad():
        maps, logits = module.features(pixels), module(pixels)
    assert maps.shape == (5, 128, 8, 8)
    assert maps.min() == 0
    by_hand = maps.mean(dim=(2, 3)) @ module.head.weight.T + module.head.bias
    assert torch.allclose(by_hand, logits, atol=1e-5)
    assert module.class_names == VALUES["shape"]


def test_planted_shortcuts_are_used_and_the_clean_classifier_uses_none(tmp_path):
    write_truth(tmp_path / "truth.json", count=40, seed=SEED)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["classes"] == list(VALUES["shape"])
    texts = dict(bank())
    for row in truth["planted"]:
        assert row["class"] in truth["classes"]
        assert texts[row["concept"]] == row["kind"]
        assert row["flip_rate_clean"] < 0.1
    assert sum(row["flip_rate"] > 0.3 for row in truth["planted"]) >= 3
    assert len({row["kind"] for row in truth["planted"]}) >= 3


class ByRule:
    """A classifier that answers by a rule on the scene."""

    def __init__(self, rule):
        self.rule = rule

    def predict(self, drawn):
        return np.array([VALUES["shape"].index(self.rule(scene)) for scene in drawn])


def test_a_flip_rate_is_the_share_of_right_answers_that_change():
    stars = [next(cue for cue in PLANTED if cue.class_name == "star")]
    drawn = list(scenes("flips", 0, 60, shape="star"))
    red = sum(scene.colour == "red" for scene in drawn)
    blue = sum(scene.colour == "blue" for scene in drawn)
    assert 0 < red != blue > 0

    def measured(rule):
        (found,) = measure_flip_rates(ByRule(rule), stars, count=60)
        return found.rate, found.n

    assert measured(lambda scene: scene.shape) == (0.0, 60)
    assert measured(lambda scene: "ring") == (0.0, 0)
    assert measured(lambda scene: "star" if scene.artefact == "watermark" else "ring") == (1.0, 60)
    # Red stars are never seen as stars; of the others, the blue ones only with their watermark.
    rate, n = measured(
        lambda scene: (
            "ring"
            if scene.colour == "red" or (scene.colour == "blue" and scene.artefact == "none")
            else "star"
        )
    )
    assert n == 60 - red
    assert rate == pytest.approx(blue / n)


def test_recorded_accuracies_are_those_of_the_committed_weights(clip, held_out):
    recorded = json.loads((WEIGHTS / "accuracies.json").read_text())
    for name, value in zero_shot(clip, held_out).items():
        assert recorded["clip"]["zero_shot"][name] == pytest.approx(value, abs=0.04)
    measured = {
        name: TrainedClassifier(WEIGHTS / f"{name}.safetensors").accuracy(held_out)
        for name in ("clean", "biased")
    }
    assert measured["clean"] > 0.97
    assert measured["biased"] < measured["clean"] - 0.1
    for name, value in measured.items():
        assert recorded[name]["accuracy"] == pytest.approx(value, abs=0.1)
