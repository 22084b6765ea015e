import numpy as np
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from timm.data import create_transform
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import v2

from store.errors import ModelError
from tests.textcam.photographs import photograph, photographs
from textcam.preprocess import build_transform, check_overrides, split


def timm_transform(name):
    config = timm.get_pretrained_cfg(name).to_dict()
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    return create_transform(**{key: config[key] for key in keys if config.get(key) is not None})


LIBRARIES = {
    "timm resnet18": lambda: timm_transform("resnet18"),
    "timm squash": lambda: create_transform((3, 96, 96), crop_pct=0.9, crop_mode="squash"),
    "timm border": lambda: create_transform((3, 96, 96), crop_pct=0.9, crop_mode="border"),
    "torchvision resnet50": models.ResNet50_Weights.DEFAULT.transforms,
    "torchvision vit_h_14": models.ViT_H_14_Weights.DEFAULT.transforms,
    "open_clip shortest": lambda: image_transform_v2(PreprocessCfg(size=112), is_train=False),
    "open_clip longest": lambda: image_transform_v2(
        PreprocessCfg(size=112, resize_mode="longest"), is_train=False
    ),
    "open_clip squash": lambda: image_transform_v2(
        PreprocessCfg(size=(96, 112), resize_mode="squash", interpolation="bilinear"), is_train=False
    ),
    "torchvision v2": lambda: v2.Compose(
        [
            v2.Resize(80),
            v2.CenterCrop(72),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
        ]
    ),
    "no normalisation": lambda: v1.Compose([v1.Resize((50, 60)), v1.ToTensor()]),
    "nested": lambda: v1.Compose(
        [v1.Compose([v1.Resize(70), v1.CenterCrop(64)]), v1.Compose([v1.ToTensor()])]
    ),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_two_halves_make_the_librarys_own_transform(name):
    transform = LIBRARIES[name]()
    preprocess = split(transform, name)
    for image in photographs():
        pixels = preprocess.prepare(image)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (3, *preprocess.size)
        normalised = preprocess.normalise(torch.from_numpy(pixels)[None])[0]
        assert (normalised - transform(image)).abs().max() < 1e-6


class Sepia:
    """A user's step on tensors, which cannot be moved in front of the byte border."""

    def __call__(self, tensor):
        return tensor.mean(0, keepdim=True) * torch.tensor([1.0, 0.8, 0.6])[:, None, None]


@pytest.mark.parametrize(
    "transform",
    [
        v1.Compose([v1.Resize((40, 40)), v1.ToTensor(), Sepia()]),
        v1.Compose([v1.ToTensor(), v1.Resize((40, 40), antialias=True), v1.Normalize(0.5, 0.5)]),
        lambda image: np.asarray(image.resize((40, 40)), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1,
        # v2's ToDtype without scaling: the same steps by name, other numbers
        v2.Compose([v2.Resize((40, 40)), v2.ToImage(), v2.ToDtype(torch.float32, scale=False)]),
    ],
    ids=["own step", "resize on tensors", "numpy", "unscaled"],
)
def test_a_transform_that_cannot_be_cut_stays_whole(transform):
    preprocess = split(transform, "mine")
    image = photograph(61, 47)
    pixels = preprocess.prepare(image)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, np.asarray(transform(image), dtype=np.float32))
    assert np.array_equal(preprocess.normalise(torch.from_numpy(pixels)[None])[0].numpy(), pixels)


def test_grey_and_transparent_images_become_rgb():
    preprocess = split(build_transform(32, 0.5, 0.5), "here")
    image = photograph(50, 40)
    assert np.array_equal(preprocess.prepare(image.convert("RGBA")), preprocess.prepare(image))
    grey = preprocess.prepare(image.convert("L"))
    assert np.array_equal(grey[0], grey[2])


def test_the_description_is_of_what_it_does_and_not_of_where_it_lies():
    def describe(*steps):
        return split(v1.Compose([*steps, v1.ToTensor(), v1.Normalize(0.5, 0.5)]), "x").description

    square = v1.Resize((40, 40))
    assert describe(square) == describe(v1.Resize((40, 40)))
    assert describe(square) != describe(v1.Resize((40, 40), interpolation=v1.InterpolationMode.NEAREST))
    assert describe(square, v1.Lambda(lambda i: i)) == describe(square, v1.Lambda(lambda i: i))
    assert describe(square, v1.Lambda(lambda i: i)) != describe(square, v1.Lambda(lambda i: i.rotate(90)))
    assert "0x" not in describe(square, v1.Lambda(lambda i: i))


def test_the_size_must_not_depend_on_the_image():
    with pytest.raises(ModelError, match="for two images") as error:
        split(v1.Compose([v1.Resize(40), v1.ToTensor()]), "python:mine:model")
    assert error.value.where == "python:mine:model"
    assert "centre crop" in error.value.fix


def test_a_transform_that_fails_says_so():
    with pytest.raises(ModelError, match="fails on an RGB image"):
        split(v1.Compose([v1.Normalize(0.5, 0.5)]), "x")


def test_overrides_are_checked():
    assert check_overrides({"mean": 0.5, "size": 96}) == {"mean": (0.5, 0.5, 0.5), "size": 96}
    with pytest.raises(ModelError, match="unknown preprocessing key 'sice'"):
        check_overrides({"sice": 96})
    with pytest.raises(ModelError, match="one number or three"):
        check_overrides({"std": [1, 2]})
    with pytest.raises(ModelError, match="unknown interpolation 'cubist'"):
        build_transform(32, 0.5, 0.5, interpolation="cubist")


def test_how_much_of_an_image_is_seen() -> None:
    assert split(build_transform(224, 0.5, 0.5, crop=0.875), "x").view_share == 224 / 256
    assert split(build_transform(224, 0.5, 0.5), "x").view_share == 1.0
    squash = v1.Compose([v1.Resize((32, 32)), v1.ToTensor()])
    assert split(squash, "x").view_share == 1.0


def test_the_share_of_the_image_that_is_seen():
    assert split(build_transform(64, 0.5, 0.5, crop=0.8), "x").view_share == 0.8
    assert split(build_transform(64, 0.5, 0.5), "x").view_share == 1.0
    assert split(LIBRARIES["open_clip squash"](), "x").view_share == 1.0
