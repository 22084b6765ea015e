"""What has no weights is seen all the same, and says the same in every process."""

import functools
import subprocess
import sys

import torch
from torch import nn

from textcam.classifier import load_classifier
from textcam.structure import hash_structure


class Own(nn.Module):
    """A module of nobody's library."""

    def __init__(self, **attributes):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        vars(self).update(attributes)

    def forward(self, x):
        return torch.relu(self.linear(x))


class Other(Own):
    def forward(self, x):
        # another function
        return torch.tanh(self.linear(x))


class Same(Own):
    def forward(self, x):
        """With a comment and another layout."""
        return torch.relu(  # as in Own
            self.linear(x)
        )


def times(factor):
    return lambda x: x * factor


def test_settings_without_weights_are_seen():
    pairs = [
        (nn.LeakyReLU(0.01), nn.LeakyReLU(0.5)),
        (nn.BatchNorm2d(3, eps=1e-5), nn.BatchNorm2d(3, eps=1e-1)),
        (nn.Sequential(nn.AvgPool2d(2)), nn.Sequential(nn.AvgPool2d(3))),
        (Own(slope=0.1), Own(slope=0.2)),
        (Own(act=torch.relu), Own(act=torch.tanh)),
        (Own(act=lambda x: x + 1), Own(act=lambda x: x + 2)),
        (Own(act=times(2)), Own(act=times(3))),
        (Own(act=functools.partial(torch.clamp, min=0)), Own(act=functools.partial(torch.clamp, min=1))),
        (Own(steps={"a": [1, 2]}), Own(steps={"a": [1, 3]})),
        (Own(), Other()),
    ]
    for one, other in pairs:
        assert hash_structure(one) != hash_structure(other), (one, other)


def test_what_changes_no_answer_is_not_seen():
    assert hash_structure(Own()) == hash_structure(Same())
    plain = hash_structure(Own())
    for attributes in ({"device": "cuda:1"}, {"folder": "/home/me/weights"}, {"_cache": 3}, {"x": object()}):
        assert hash_structure(Own(**attributes)) == plain, attributes
    assert hash_structure(Own().train()) == plain
    assert hash_structure(nn.Sequential(nn.ReLU()).to("meta")) == hash_structure(nn.Sequential(nn.ReLU()))


def test_it_is_the_same_in_every_process():
    code = (
        "from tests.textcam.test_structure import Own, times, hash_structure as h\n"
        "import timm, torch\n"
        "print(h(Own(act=times(2), names={'a', 'b', 'c'}, f=torch.relu)), h(timm.create_model('test_vit')))"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1


def test_an_option_of_a_library_changes_the_fingerprint():
    model = "timm:test_efficientnet"
    plain = load_classifier(model, weights="random")
    changed = load_classifier(model, weights="random", options={"bn_eps": 0.1})
    assert plain.fingerprint != changed.fingerprint
    assert plain.older_fingerprint == changed.older_fingerprint  # which is why there is a newer one


def test_a_store_of_before_is_held_against_the_rule_of_before():
    one, other = (load_classifier("timm:test_resnet", weights="random", seed=seed) for seed in (0, 1))
    assert one.made(one.fingerprint)
    assert one.made(one.older_fingerprint)
    assert not one.made(other.fingerprint)
    assert not one.made(other.older_fingerprint)
    assert not one.made("")
