"""The losses against slow twins, and a few steps of each training."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from demo.measure import TrainedClassifier, TrainedClip, label_rows
from demo.pictures import picture_set
from demo.scenes import VALUES, scenes
from demo.train_classifier import train_classifier
from demo.train_clip import batches, captions_of, contrastive_loss, crowding, fitting, idle_words, train_clip
from demo.words import DISTRACTORS


@pytest.fixture(scope="module")
def pictures():
    return picture_set(scenes("training", 99, 128), 128)


def slow_contrastive_loss(logits, fits):
    """Mean over rows and columns of -log softmax, averaged over what fits, with loops."""

    def one_way(rows, right):
        total = 0.0
        for row, marks in zip(rows, right, strict=True):
            bottom = math.log(sum(math.exp(value) for value in row))
            losses = [bottom - value for value, mark in zip(row, marks, strict=True) if mark]
            total += sum(losses) / len(losses)
        return total / len(rows)

    a, b = logits.tolist(), fits.tolist()
    return (one_way(a, b) + one_way(zip_lists(a), zip_lists(b))) / 2


def zip_lists(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def test_contrastive_loss_agrees_with_its_slow_twin():
    torch.manual_seed(0)
    for size in (2, 5, 7):
        logits = torch.randn(size, size, dtype=torch.float64) * 3
        fits = (torch.rand(size, size) < 0.3) | torch.eye(size, dtype=torch.bool)
        assert contrastive_loss(logits, fits).item() == pytest.approx(slow_contrastive_loss(logits, fits))


def test_a_caption_fits_every_picture_that_has_all_it_tells():
    labels = torch.tensor([[0, 1, 2, 3, 0], [0, 1, 0, 0, 0], [4, 1, 2, 0, 0]])
    told = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0]], dtype=torch.bool)
    assert fitting(labels, told).tolist() == [[True, True, False], [True, True, False], [False, True, True]]
    captions = captions_of(labels, told, np.random.default_rng(0))
    assert "orange circle" in captions[0]
    assert "no artefact" not in captions[0]
    assert "watermark" in captions[1]
    assert "dotted" in captions[2]
    assert "sky" in captions[2]


def test_crowding_counts_what_is_nearer_than_it_should_be():
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert crowding(texts).item() == pytest.approx(2 * 0.7**2 / 3)


def test_idle_words_hold_every_distractor():
    words = idle_words(np.random.default_rng(1))
    assert {text for texts in DISTRACTORS.values() for text in texts} < set(words)


def test_batches_cover_each_epoch_once_and_need_enough_pictures():
    drawn = list(islice(batches(11, 3, seed=0), 6))
    for epoch in (drawn[:3], drawn[3:]):
        rows = np.concatenate(epoch)
        assert len(set(rows.tolist())) == 9
    with pytest.raises(ValueError, match="batch of 12"):
        next(batches(11, 12, seed=0))


def test_clip_training_writes_a_folder_that_loads_and_repeats_itself(tmp_path, pictures):
    for name in ("a", "b"):
        train_clip(pictures, tmp_path / name, steps=2, seed=0)
    for file in ("open_clip_model.safetensors", "open_clip_config.json", "bpe_merges.txt.gz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    clip = TrainedClip(tmp_path / "a")
    assert clip.embed_texts(["water"]).norm().item() == pytest.approx(1.0, abs=1e-5)


def test_a_classifier_learns_the_pictures_it_is_shown(tmp_path):
    small = picture_set(scenes("training", 98, 256), 256, 64)
    train_classifier(small, tmp_path / "tiny.safetensors", epochs=20, seed=0)
    classifier = TrainedClassifier(tmp_path / "tiny.safetensors")
    shown = list(scenes("training", 98, 256))
    right = (classifier.predict(shown) == label_rows(shown)["shape"]).mean()
    assert right > 3 / len(VALUES["shape"])
