"""Channels that take both signs: their sides add up to them, and each side gets the words of its own."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from pipelines.config_file import make_config
from pipelines.grow import add
from pipelines.run import precompute
from store.errors import ConfigError
from store.schema import stable_id
from tests import oracles
from tests.textcam.photographs import photograph
from tests.textcam.tiny_networks import seeded
from textcam.cam import saliency_map
from textcam.classifier import TorchClassifier, load_classifier
from textcam.layers import find_target
from textcam.preprocess import build_transform, split
from textcam.query import Query
from textcam.two_sided import one_sided, rising_and_falling, two_sided

CLASSES = ("red", "green", "blue")
IDS = np.array([1, 0, 4])


class Signed(nn.Module):
    """Seven channels of both signs in front of a head that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 7, 8, 4, 2)
        self.first, self.second = nn.Linear(7, 5), nn.Linear(7, 5)

    def head(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.first(maps.mean((2, 3)))) * self.second(maps[:, :, 3:7, 2:5].mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def both(network: nn.Module) -> tuple[TorchClassifier, TorchClassifier, np.ndarray]:
    """The network with its channels as they are, and with their sides; pixels of three pictures."""
    preprocess = split(build_transform(40, 0.5, 0.25), "here")
    target = find_target(network, (40, 40), "body")
    assert target.two_sided
    pixels = np.stack([preprocess.prepare(photograph(60, 55, seed)) for seed in range(3)])
    plain = TorchClassifier("here", network, preprocess, replace(target, two_sided=False), tuple("abcde"))
    return plain, TorchClassifier("here", network, preprocess, target, tuple("abcde")), pixels


def test_sides_add_up_to_their_channels() -> None:
    plain, sided, pixels = both(seeded(Signed()))
    one, two = plain.forward(pixels, maps=True), sided.forward(pixels, maps=True)
    assert (plain.channels, sided.channels) == (7, 14)
    assert plain.fingerprint != sided.fingerprint
    assert two.maps.min() == 0
    assert (np.minimum(two.maps[:, :7], two.maps[:, 7:]) == 0).all()
    np.testing.assert_array_equal(two.maps[:, :7] - two.maps[:, 7:], one.maps)
    np.testing.assert_allclose(one_sided(two.pooled), one.pooled, atol=1e-6)
    np.testing.assert_array_equal(two.logits, one.logits)


@pytest.mark.parametrize("method", ["gradcam", "gradcam-frozen", "shapleycam"])
def test_weights_of_sides_are_opposite_and_the_map_is_the_same(method: str) -> None:
    plain, sided, pixels = both(seeded(Signed()))
    one, of_one = plain.forward_cam(pixels, IDS, method, maps=True)
    two, of_two = sided.forward_cam(pixels, IDS, method, maps=True)
    np.testing.assert_allclose(of_two, two_sided(of_one), atol=1e-6)
    scale = np.abs(of_one).max() * np.abs(one.maps).max()
    np.testing.assert_allclose(
        saliency_map(two.maps, of_two), saliency_map(one.maps, of_one), atol=1e-5 * scale
    )
    np.testing.assert_allclose(
        (of_two * two.pooled).sum(1), (of_one * one.pooled).sum(1), rtol=1e-4, atol=1e-5
    )


def test_ablation_of_a_side_leaves_the_other_one() -> None:
    _, sided, pixels = both(seeded(Signed()))
    output, drops = sided.forward_cam(pixels, IDS, "ablationcam", maps=True)
    twin = seeded(Signed()).double()

    def logit(sides: np.ndarray, class_id: int) -> float:
        maps = torch.from_numpy(np.float64(sides[:7] - sides[7:]))[None]
        return float(twin.head(maps)[0, class_id].detach())

    for row, class_id in enumerate(IDS):
        expected = oracles.ablation_drops(lambda maps, at=class_id: logit(maps, at), output.maps[row])
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(drops[row], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("rectifier", [nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ReLU6])
def test_no_rectifier_is_taken_for_two_sides(rectifier: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 7, 8, 4, 2), rectifier(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.manual_seed(0)
    nn.init.normal_(network[0].weight, std=2.0)
    target = find_target(nn.Sequential(network, nn.Linear(7, 5)), (40, 40), "0.1")
    assert not target.two_sided


def test_both_can_be_asked_for() -> None:
    model = "timm:test_vit"
    assert load_classifier(model, weights="random").channels == 128
    assert load_classifier(model, weights="random", two_sided=False).channels == 64
    assert load_classifier("timm:test_resnet", weights="random", two_sided=True).channels == 192


# --- a whole run: what falls is named by what makes it fall -----------------------------------------------


class Colours(nn.Module):
    """Two channels, red less blue and green less red; a class is what they say, down as well as up."""

    def __init__(self) -> None:
        super().__init__()
        self.class_names = CLASSES
        self.features = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 2, 1, bias=False))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)
        with torch.no_grad():
            self.features[1].weight.copy_(torch.tensor([[4.0, 0, -4], [-4, 4, 0]])[:, :, None, None])
            self.head.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def _transform() -> transforms.Compose:
    steps = [transforms.Resize(16), transforms.CenterCrop(16), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize((0.5,) * 3, (0.25,) * 3)])


def colours() -> tuple[nn.Module, transforms.Compose]:
    return Colours(), _transform()


class Sees(nn.Module):
    """Images by their mean colour, texts by the colour that they name; a fourth number for the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((2, 3))
        return torch.cat([mean, torch.ones_like(mean[:, :1])], 1) @ self.weight

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.weight[tokens[:, 0]]


def encoder() -> tuple[nn.Module, transforms.Compose, object]:
    def tokens(texts: list[str]) -> torch.Tensor:
        named = [[at for at, name in enumerate(CLASSES) if name in text.split()] for text in texts]
        return torch.tensor([[found[0] if found else 3, 3] for found in named])

    return Sees(), _transform(), tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for number in range(60):
        pixels = rng.integers(0, 130, (20, 24, 3), np.uint8)
        pixels[..., number % 3] += np.uint8(rng.integers(60, 120))
        path = made / "images" / CLASSES[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (made / "texts.csv").write_text("text,kind\nred,colour\ngreen,colour\nblue,colour\n")
    return made


def run(folder: Path, store: str, **classifier: object) -> Query:
    raw = {
        "images": {"uri": "images"},
        "classifier": {"model": "python:tests.textcam.test_two_sided:colours", **classifier},
        "encoder": {"model": "python:tests.textcam.test_two_sided:encoder"},
        "texts": {"bank": "texts.csv"},
        "directions": {"examples": 8, "regions": False},
        "words": {"form": "whole"},
        "groups": {"count": 3},
        "proof": {"findings": 0},
        "run": {"executor": "inline", "shard_size": 32, "batch_size": 8, "device": "cpu"},
        "store": store,
    }
    precompute(make_config(raw, base=folder))
    return Query.open(folder / store, trust_code=True)


@pytest.fixture(scope="module")
def sided(folder: Path) -> Query:
    return run(folder, "sided")


def first_words(query: Query) -> dict[str, str]:
    return {name: query.describe_class(name).words[0].text for name in CLASSES}


def test_what_falls_is_named_by_what_makes_it_fall(folder: Path, sided: Query) -> None:
    assert first_words(sided) == {"red": "red", "green": "green", "blue": "blue"}
    plain = run(folder, "plain", two_sided=False)
    assert first_words(plain)["blue"] != "blue"  # weight and activation are negative: it gets what rises
    assert sided.describe_channel(2).words[0].text == "blue"
    assert (sided.two_sided, plain.two_sided) == (True, False)


def test_a_store_answers_weights_of_the_networks_own_channels(sided: Query) -> None:
    own, pooled = np.array([-1.0, 0.2], np.float32), np.array([-2.0, 0.5], np.float32)
    found = sided.explain_weights(own, pooled)
    same = sided.explain_weights(two_sided(own), rising_and_falling(pooled))
    assert found.words == same.words
    assert found.words[0].text == "blue"
    with pytest.raises(ConfigError):
        sided.explain_weights(np.ones(3, np.float32))


def test_new_images_are_explained_and_added_alike(folder: Path, sided: Query) -> None:
    path = folder / "new" / "blue" / "one.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((20, 24, 3), (20, 30, 220), np.uint8)).save(path)
    found = sided.explain_image(path)
    assert (found.class_name, found.words[0].text) == ("blue", "blue")
    np.testing.assert_allclose(found.group_maps.sum(0), found.saliency_map, atol=1e-4)
    assert found.saliency_map.mean() == pytest.approx(found.logit, rel=1e-3)
    config = make_config(
        {
            "images": {"uri": str(folder / "new")},
            "classifier": {"model": "timm:x"},
            "encoder": {"model": "x"},
            "store": "x",
            "run": {"executor": "inline", "device": "cpu"},
        }
    )
    assert add(str(folder / "sided"), config.images, config.run, trust_code=True).added == 1


def test_a_corrected_head_is_that_of_the_users_layer(folder: Path) -> None:
    query = run(folder, "suppressed")
    blue = SimpleNamespace(class_id=2, text_id=stable_id("blue"))  # all that is asked of a finding
    made = query.audit.suppress([blue], "project")  # type: ignore[list-item]
    assert made.weights.shape == (3, 2)
    assert made.accuracy_before == 1.0
