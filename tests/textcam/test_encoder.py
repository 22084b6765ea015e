import copy
import gzip
import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from store.errors import ModelError
from tests.textcam.photographs import photographs
from tests.textcam.tiny_clips import TOWERS, D, write_clip
from textcam.clip_models import build_clip
from textcam.encoder import load_encoder
from textcam.weights import hash_state

TEXTS = ["red", "a cat", "a red cat, twice", "", "zebra"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clip")


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(write_clip(folder))


def pixels_of(encoder, count=3):
    return np.stack([encoder.prepare(image) for image in photographs()[:count]])


def test_embeddings_are_those_of_open_clip_used_by_hand(folder, encoder):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.SimpleTokenizer(bpe_path=str(folder / "bpe_merges.txt.gz"), context_length=9)
    with torch.inference_mode():
        images = model.eval().encode_image(
            torch.stack([transform(p) for p in photographs()[:3]]), normalize=True
        )
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    assert np.abs(encoder.encode_images(pixels_of(encoder)) - images.numpy()).max() < 1e-5
    assert np.abs(encoder.encode_texts(TEXTS) - texts.numpy()).max() < 1e-5


def test_every_row_has_length_one(encoder):
    assert encoder.dim == D
    for rows in (encoder.encode_images(pixels_of(encoder)), encoder.encode_texts(TEXTS)):
        assert rows.dtype == np.float32
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert encoder.encode_texts([]).shape == (0, D)


def test_a_text_does_not_see_its_batch(encoder):
    many = TEXTS * 120  # more than two batches of texts
    together = encoder.encode_texts(many)
    assert np.abs(together - np.tile(encoder.encode_texts(TEXTS), (120, 1))).max() < 1e-6


def test_tokens_are_counted_before_the_cut(encoder):
    # "red" and "cat" are one token each by the merges, "ab" is two letters; each text has a start and an end
    assert [encoder.token_count(text) for text in ("red", "red cat", "ab", "")] == [3, 4, 4, 2]
    assert encoder.context_length == 9
    long = "red " * 20
    assert encoder.token_count(long) == 22
    assert np.array_equal(encoder.encode_texts([long]), encoder.encode_texts(["red " * 7]))


def test_the_fingerprint_is_of_weights_preprocessing_and_tokenizer(folder, encoder, tmp_path):
    assert load_encoder(f"local-dir:{folder}").fingerprint == encoder.fingerprint
    others = [
        load_encoder(f"local-dir:{folder}", weights="random", seed=7),
        load_encoder(f"local-dir:{folder}", preprocess={"mean": 0.5}),
    ]
    # The same weights behind another tokenizer: a folder like the first, without one merge
    model = write_clip(tmp_path / "other", weights=False)
    state = load_file(folder / "open_clip_model.safetensors")
    save_file(state, tmp_path / "other" / "open_clip_model.safetensors")
    merges = ["#version: 0.2", "r e", "re d</w>", "c a", "o n</w>"]
    (tmp_path / "other" / "bpe_merges.txt.gz").write_bytes(gzip.compress("\n".join(merges).encode()))
    others.append(load_encoder(model))
    assert len({encoder.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_half_precision_weights_by_path(folder, encoder, tmp_path):
    state = load_file(folder / "open_clip_model.safetensors")
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "half.safetensors")
    half = load_encoder(f"local-dir:{folder}", weights=str(tmp_path / "half.safetensors"))
    pixels = pixels_of(encoder)
    close = (half.encode_images(pixels) * encoder.encode_images(pixels)).sum(1)
    assert (close > 0.9999).all()
    assert half.fingerprint != encoder.fingerprint


def test_damaged_and_foreign_weights_are_refused(folder, tmp_path):
    model = f"local-dir:{folder}"
    whole = folder / "open_clip_model.safetensors"
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read") as error:
        load_encoder(model, weights=str(tmp_path / "cut.safetensors"))
    assert error.value.where == str(tmp_path / "cut.safetensors")
    state = load_file(whole)
    state["visual.extra"] = state.pop("visual.conv1.weight")
    save_file(state, tmp_path / "keys.safetensors")
    with pytest.raises(ModelError, match=r"1 missing: visual\.conv1\.weight; 1 unexpected: visual\.extra"):
        load_encoder(model, weights=str(tmp_path / "keys.safetensors"))


def test_folders_that_are_no_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match="there is no such folder"):
        load_encoder(f"local-dir:{tmp_path}/none")
    with pytest.raises(ModelError, match=r"there is no open_clip_config\.json"):
        load_encoder(f"local-dir:{tmp_path}")
    model = write_clip(tmp_path / "empty", weights=False)
    with pytest.raises(ModelError, match="holds no weights file"):
        load_encoder(model)
    (tmp_path / "empty" / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 3}}))
    with pytest.raises(ModelError, match="open_clip cannot build the model"):
        load_encoder(model)


def test_names_without_weights_are_answered_with_the_tags():
    with pytest.raises(ModelError, match="weights of the encoder are not given") as error:
        load_encoder("ViT-B-32")
    assert "laion2b_s34b_b79k" in error.value.fix
    with pytest.raises(ModelError, match="'laion3b' is neither a tag of ViT-B-32 nor a file") as error:
        load_encoder("ViT-B-32", weights="laion3b")
    assert "openai" in error.value.fix
    with pytest.raises(ModelError, match="open_clip has no model 'ViT-B-33'"):
        load_encoder("ViT-B-33", weights="openai")


def test_bfloat16_has_weights_of_its_own_and_leaves_texts_and_float32_as_they_are(tmp_path):
    encoder = load_encoder(write_clip(tmp_path))
    pixels = pixels_of(encoder)
    plain, texts = encoder.encode_images(pixels), encoder.encode_texts(TEXTS)
    encoder.number_format = "bfloat16"
    narrow = encoder.encode_images(pixels)
    by_hand = copy.deepcopy(encoder._model).bfloat16()
    with torch.inference_mode():
        expected = by_hand.encode_image(encoder._inputs(pixels).bfloat16()).float().numpy()
    assert np.abs(narrow - expected / np.linalg.norm(expected, axis=1, keepdims=True)).max() < 1e-6
    assert not np.array_equal(narrow, plain)
    assert np.einsum("nd,nd->n", narrow, plain).min() > 0.999
    assert np.array_equal(encoder.encode_texts(TEXTS), texts)
    encoder.number_format = "float32"
    assert np.array_equal(encoder.encode_images(pixels), plain)


def test_a_tower_with_float32_of_its_own_runs_in_bfloat16_by_casts(monkeypatch, tmp_path):
    (tmp_path / "fixed_clip.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from torchvision import transforms as t\n"
        "class Clip(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.image, self.text = nn.Linear(3 * 64, 7), nn.Embedding(128, 7)\n"
        "    def encode_image(self, x): return self.image(x.flatten(1).float() * torch.linspace(0, 1, 192))\n"
        "    def encode_text(self, ids): return self.text(ids).sum(1)\n"
        "def tokens(texts): return torch.tensor([[ord(text[0])] for text in texts])\n"
        "def build(): return Clip(), t.Compose([t.Resize((8, 8)), t.ToTensor()]), tokens\n"
    )
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("python:fixed_clip:build")
    pixels = pixels_of(encoder)
    plain = encoder.encode_images(pixels)
    encoder.number_format = "bfloat16"
    assert np.einsum("nd,nd->n", encoder.encode_images(pixels), plain).min() > 0.999
    assert not np.array_equal(encoder.encode_images(pixels), plain)


def test_a_users_own_encoder(tmp_path, monkeypatch):
    (tmp_path / "my_clip.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from torchvision import transforms as t\n"
        "class Clip(nn.Module):\n"
        "    def __init__(self, d):\n"
        "        super().__init__()\n"
        "        self.image, self.text = nn.Linear(3 * 64, 7), nn.Embedding(128, d)\n"
        "    def encode_image(self, x): return self.image(x.flatten(1))\n"
        "    def encode_text(self, ids): return self.text(ids).sum(1)\n"
        "def tokens(texts):\n"
        "    return torch.tensor([[ord(c) % 128 for c in text[:5].ljust(5, '~')] for text in texts])\n"
        "def build(d=7): return Clip(d), t.Compose([t.Resize((8, 8)), t.ToTensor()]), tokens\n"
        "def pair(): return Clip(7), None\n"
        "def bare(): return nn.Linear(2, 2), None, tokens\n"
    )
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("python:my_clip:build")
    assert (encoder.dim, encoder.context_length, encoder.has_dense, encoder.input_size) == (
        7,
        5,
        False,
        (8, 8),
    )
    assert encoder.encode_texts(["ab"]).shape == (1, 7)
    assert encoder.token_count("ab") == 2
    with pytest.raises(ModelError, match="no dense features"):
        encoder.dense(np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(ModelError, match="embedded in 7 dimensions and texts in 5"):
        load_encoder("python:my_clip:build", options={"d": 5})
    with pytest.raises(ModelError, match="the function returns tuple") as error:
        load_encoder("python:my_clip:pair")
    assert "(model, transform, tokenizer)" in error.value.fix
    with pytest.raises(ModelError, match="no encode_image and no encode_text"):
        load_encoder("python:my_clip:bare")


def test_the_default_tokenizer_is_taken_where_the_folder_has_none(tmp_path):
    encoder = load_encoder(write_clip(tmp_path / "plain", merges=False))
    assert encoder.token_count("a photo of a cat") == 7


@pytest.mark.parametrize("tower", TOWERS)
def test_dense_features_have_length_one_and_differ_over_the_image(tmp_path, tower):
    encoder = load_encoder(write_clip(tmp_path / "clip", tower, weights=False), weights="random")
    assert encoder.has_dense
    dense = encoder.dense(pixels_of(encoder, 2))
    assert dense.shape[:2] == (2, D)
    assert np.abs(np.linalg.norm(dense, axis=1) - 1).max() < 1e-5
    assert dense.std((2, 3)).max() > 1e-4


def hub_folder(folder, *, weights):
    """What a download from the hub leaves in ``folder``: someone/clip, with or without its weights."""
    commit = "0" * 40
    cached = folder / "models--someone--clip"
    snapshot = cached / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    write_clip(snapshot)
    if not weights:
        for path in snapshot.glob("*.safetensors"):
            path.unlink()
    return {"cache_dir": str(folder)}


def test_a_model_of_the_hub_is_never_without_its_weights(folder, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    other = build_clip(f"local-dir:{folder}", weights="random", seed=3)
    model, whole = "hf-hub:someone/clip", hub_folder(tmp_path / "whole", weights=True)
    empty = hub_folder(tmp_path / "empty", weights=False)
    monkeypatch.setattr(
        "textcam.clip_models._tokenizer", lambda *_: open_clip.SimpleTokenizer(context_length=9)
    )
    assert build_clip(model, options=whole).model is not None
    with pytest.raises(ModelError, match="open_clip cannot build the model") as error:
        build_clip(model, options=empty)
    assert "weights" in error.value.what
    # and a file that is given is the one that is loaded
    save_file(dict(other.model.state_dict()), tmp_path / "mine.safetensors")
    mine = build_clip(model, weights=str(tmp_path / "mine.safetensors"), options=empty)
    assert hash_state(mine.model) == hash_state(other.model)
