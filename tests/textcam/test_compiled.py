"""Compiled passes give what plain ones give, and a machine that cannot compile is named."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from store.errors import ConfigError
from textcam.classifier import load_classifier
from textcam.compiled import compiled
from textcam.encoder import load_encoder

PIXELS = np.random.default_rng(2).integers(0, 255, (5, 3, 16, 16), np.uint8)
CLASSIFIER = "python:tests.pipelines.models:linear_classifier"
CLIP = "python:tests.pipelines.models:clip"


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No kernels but those of this test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("number_format", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_compiled_models_give_what_plain_ones_give(number_format: str) -> None:
    plain, fast = load_classifier(CLASSIFIER), load_classifier(CLASSIFIER)
    fast.compile()
    tower, fast_tower = load_encoder(CLIP), load_encoder(CLIP)
    fast_tower.compile()
    for model in (plain, fast, tower, fast_tower):
        model.number_format = number_format
    tolerance = 1e-5 if number_format == "float32" else 2e-2
    one, other = plain.forward(PIXELS, maps=True), fast.forward(PIXELS, maps=True)
    for name in ("pooled", "logits", "maps"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=tolerance)
    np.testing.assert_allclose(fast_tower.encode_images(PIXELS), tower.encode_images(PIXELS), atol=tolerance)
    assert counters["stats"]["unique_graphs"] > 0


def test_passes_that_look_at_the_layer_themselves_go_on_as_before() -> None:
    plain, fast = load_classifier(CLASSIFIER), load_classifier(CLASSIFIER)
    fast.compile()
    for _ in range(2):
        fast.forward(PIXELS)
        one, other = plain.gradients(PIXELS), fast.gradients(PIXELS)
        np.testing.assert_array_equal(other[1], one[1])
    assert counters["stats"]["unique_graphs"] == 1


def test_a_machine_that_cannot_compile_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match="cannot be compiled here") as caught:
        compiled(lambda x: torch.relu(x) * 3 + 1)(torch.ones(7))
    assert caught.value.where == "run.compile"
