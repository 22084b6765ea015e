"""Score-CAM, Ablation-CAM and Shapley-CAM, beside slow twins and beside pytorch-grad-cam."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import AblationCAM, ScoreCAM, ShapleyCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision import models

from pipelines.config import CamSection
from store.errors import ModelError
from tests import oracles
from tests.textcam.photographs import photograph, photographs
from tests.textcam.tiny_networks import CLASSES, GapLinear, seeded
from textcam.cam_methods import METHODS, softmax
from textcam.classifier import TorchClassifier, load_classifier
from textcam.layers import find_target
from textcam.layout import MapLayout
from textcam.perturbation import ablation_drops, score_increases
from textcam.preprocess import build_transform, split

IDS = np.array([4, 0, 2])


class Curved(GapLinear):
    """A head that is neither linear nor the same in all cells: tanh of a mean, times another mean."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(11, CLASSES)

    def head(self, maps):
        pooled = maps.mean((2, 3))
        return torch.tanh(self.fc(pooled)) * self.second(maps[:, :, 3:7, 2:5].mean((2, 3)))

    def forward(self, x):
        return self.head(self.body(x))


class Joined(Curved):
    """A path around the target layer that is joined by concatenation: needs equal batches."""

    def __init__(self) -> None:
        super().__init__()
        self.around, self.join = nn.Conv2d(3, 2, 8, 4, 2), nn.Conv2d(13, 11, 1)

    def forward(self, x):
        return self.head(self.join(torch.cat([self.body(x), self.around(x)], 1)))


def small(network, size=40):
    """A classifier around a network, its layer ``body``, and pixels of three pictures."""
    preprocess = split(build_transform(size, 0.5, 0.25), "here")
    target = find_target(network, (size, size), "body")
    classifier = TorchClassifier("here", network, preprocess, target, tuple("abcde"))
    return classifier, np.stack([preprocess.prepare(photograph(60, 55, seed)) for seed in range(3)])


def inputs_of(classifier, pixels):
    return classifier._preprocess.normalise(torch.from_numpy(pixels))


def logit_of(network, class_id):
    """The logit of one image (3, H, W), float64."""
    double = network.double()
    return lambda image: float(double(torch.from_numpy(np.asarray(image, np.float64))[None])[0, class_id])


def logit_of_maps(network, class_id):
    double = network.double()
    return lambda maps: float(double.head(torch.from_numpy(np.asarray(maps, np.float64))[None])[0, class_id])


def close(made, expected, share=1e-4):
    assert np.abs(expected).max() > 1e-3
    assert np.abs(made - expected).max() < share * np.abs(expected).max()


def test_scorecam_agrees_with_its_twin_and_one_form_is_the_softmax_of_the_other():
    classifier, pixels = small(seeded(Curved()))
    output, signed = classifier.forward_cam(pixels, IDS, "scorecam-signed", maps=True)
    positive = classifier.cam_weights(pixels, IDS, "scorecam")
    images = inputs_of(classifier, pixels).numpy()
    expected = [
        oracles.score_increases(logit_of(seeded(Curved()), class_id), image, maps)
        for image, maps, class_id in zip(images, output.maps, IDS, strict=True)
    ]
    close(signed, np.stack(expected))
    assert (signed < 0).any()
    assert (signed > 0).any()
    assert positive == pytest.approx(softmax(signed), rel=1e-5)
    assert positive.sum(1) == pytest.approx(np.ones(3), rel=1e-5)


def test_a_map_without_a_difference_shows_nothing():
    network = seeded(Curved())
    maps = torch.rand((1, 11, 10, 10), generator=torch.Generator().manual_seed(0))
    maps[0, [2, 7]] = torch.tensor([0.0, 3.5])[:, None, None]
    with torch.inference_mode():
        made = score_increases(network, torch.randn(1, 3, 40, 40), maps, torch.tensor([1]))[0]
    assert made[[2, 7]].tolist() == [0.0, 0.0]
    assert (made[[0, 1, 3]] != 0).all()


@pytest.mark.parametrize("network", [Curved, Joined])
def test_ablationcam_agrees_with_its_twin(network):
    classifier, pixels = small(seeded(network()))
    output, drops = classifier.forward_cam(pixels, IDS, "ablationcam", maps=True)
    twin = seeded(network()).double()

    def logit(maps, image, class_id):
        hooked = twin.body.register_forward_hook(lambda *_: torch.from_numpy(np.float64(maps))[None])
        found = twin(torch.from_numpy(np.float64(image))[None])[0, class_id]
        hooked.remove()
        return float(found)

    for row, image in enumerate(inputs_of(classifier, pixels).numpy()):
        expected = oracles.ablation_drops(
            lambda maps, image=image, row=row: logit(maps, image, IDS[row]), output.maps[row]
        )
        close(drops[row], expected)


def test_ablation_of_a_linear_head_is_weight_times_activation_whichever_way():
    classifier, pixels = small(seeded(GapLinear()))
    output, known = classifier.forward_cam(pixels, IDS, "ablationcam")
    close(known, classifier.head.weights[IDS] * output.pooled)
    with torch.inference_mode():
        tried = ablation_drops(
            classifier._module,
            "body",
            classifier._layout,
            inputs_of(classifier, pixels),
            torch.from_numpy(IDS),
        ).numpy()
    close(tried, known)


def test_ablation_leaves_class_and_register_tokens_alone():
    """Three tokens in front of four cells, of two channels; the logit adds up all of them, each times its
    place.
    """
    places = torch.arange(1.0, 8.0)

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Identity()

        def forward(self, x):
            tokens = self.body(x.flatten(2)[:, :2].transpose(1, 2))  # (B, 7, 2)
            return (tokens * places[:, None]).sum((1, 2))[:, None]

    image = torch.tensor([[[1.0, 2, 3, 4, 5, 6, 7]], [[7.0, 6, 5, 4, 3, 2, 1]], [[0.0] * 7]])[None]
    made = ablation_drops(Flat(), "body", MapLayout("NLC", 2, 2, 2, 3), image, torch.tensor([0]))
    assert made.tolist() == [[16.0 + 25 + 36 + 49, 16.0 + 15 + 12 + 7]]


def test_shapleycam_agrees_with_its_twin():
    classifier, pixels = small(seeded(Curved()))
    output, weights = classifier.forward_cam(pixels, IDS, "shapleycam", maps=True)
    plain = classifier.cam_weights(pixels, IDS, "gradcam")
    expected = oracles.shapley_weights(logit_of_maps(seeded(Curved()), IDS[0]), np.float64(output.maps[0]))
    close(weights[0], expected, 1e-3)
    assert np.abs(weights - plain).max() > 0.01 * np.abs(plain).max()


def test_of_a_head_without_curvature_shapleycam_is_gradcam():
    classifier = load_classifier("timm:mobilenetv3_small_050?num_classes=5", weights="random", layer="blocks")
    pixels = np.stack([classifier.prepare(image) for image in photographs()[:2]])
    _, gradients = classifier.gradients(pixels, np.array([3, 1]), curvature=True)
    plain = classifier.gradients(pixels, np.array([3, 1]))[1]
    assert np.abs(gradients - plain).max() > 0  # hard swish is curved
    relu = load_classifier("torchvision:squeezenet1_1?num_classes=5", weights="random")
    pixels = np.stack([relu.prepare(image) for image in photographs()[:2]])
    curved, straight = (relu.cam_weights(pixels, IDS[1:], name) for name in ("shapleycam", "gradcam"))
    assert np.array_equal(curved, straight)


@pytest.mark.parametrize(("name", "linear", "passes"), [
    ("gradcam", False, 0), ("shapleycam", False, 0), ("ablationcam", False, 11), ("ablationcam", True, 0),
    ("scorecam", True, 11), ("scorecam-signed", False, 11),
])  # fmt: skip
def test_what_a_method_costs(name, linear, passes):
    assert METHODS[name].passes(11, linear) == passes
    network = seeded(GapLinear() if linear else Curved())
    classifier, pixels = small(network)
    rows: list[int] = []
    network.fc.register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    classifier.forward_cam(pixels, IDS, name)
    # All images once, and their channels but for dead ones; beside them an intact or blank row in a while.
    assert 3 * passes <= sum(rows) <= 3 * (3 + passes)


# --- beside pytorch-grad-cam ------------------------------------------------------------------------------

ARCHITECTURES = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=7),
    "squeezenet": lambda: models.SqueezeNet("1_1", num_classes=7),
    "regnet": lambda: timm.create_model("regnetx_002", num_classes=7),
    "vgg": lambda: timm.create_model("test_byobnet", num_classes=7),
    "vit": lambda: timm.create_model("test_vit", num_classes=7, img_size=64),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=7),
    "mobilenet v3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=7),
}
REFERENCES = {"scorecam": ScoreCAM, "ablationcam": AblationCAM, "shapleycam": ShapleyCAM}


def calibrated(network, inputs):
    """Batch norms set on the inputs, so that no map dies out; logits of some size."""
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(inputs)
        last = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        last.weight.mul_(30)
    return network.eval()


# Their Ablation-CAM puts -1e7 in the place of a channel where maps may be negative.
NOT_NEGATIVE = ("resnet", "squeezenet", "regnet", "vgg")


@pytest.mark.parametrize(
    ("method", "architecture"),
    [(m, a) for m in REFERENCES for a in ARCHITECTURES if m != "ablationcam" or a in NOT_NEGATIVE],
)
def test_weights_agree_with_pytorch_grad_cam(method, architecture):
    preprocess = split(build_transform(64, 0.5, 0.25), "here")
    pixels = np.stack([preprocess.prepare(photograph(80, 75, seed)) for seed in range(3)])
    inputs = preprocess.normalise(torch.from_numpy(pixels))
    torch.manual_seed(0)
    network = calibrated(ARCHITECTURES[architecture](), inputs)
    target = replace(find_target(network, (64, 64)), two_sided=False)  # as the reference has it
    classifier = TorchClassifier(architecture, network, preprocess, target, tuple("abcdefg"))
    weights = classifier.cam_weights(pixels, IDS, method)
    expected = reference_weights(REFERENCES[method], network, target, inputs)
    if method == "ablationcam":  # ours are in logits, theirs in parts of the logit
        expected = expected * classifier.forward(pixels).logits[range(3), IDS][:, None]
    if method == "shapleycam":  # ours are per unit of pooled activation, theirs per unit of one cell
        expected = expected * np.prod(classifier.map_size)
    assert expected.std() > 0.01 * np.abs(expected).max()
    assert np.abs(weights - expected).max() < 1e-4 * np.abs(expected).max()


def reference_weights(kind, network, target, inputs, class_ids=IDS):
    """Channel weights (B, K) as pytorch-grad-cam has them; the map that it makes of them is not asked for."""

    class Found(Exception):  # noqa: N818
        pass

    class Keeping(kind):
        def get_cam_weights(self, *arguments):
            raise Found(super().get_cam_weights(*arguments))

    layer = network.get_submodule(target.name)
    with sdpa_kernel(SDPBackend.MATH):
        method = Keeping(network, [layer], reshape_transform=target.layout.to_maps)
        with pytest.raises(Found) as found:
            method(inputs, [ClassifierOutputTarget(int(class_id)) for class_id in class_ids])
    method.activations_and_grads.gradients = []  # of a view, which their release cannot detach in place
    method.activations_and_grads.release()
    return found.value.args[0]


def test_a_method_without_its_head_is_refused():
    classifier, pixels = small(seeded(Curved()))
    with pytest.raises(ModelError, match="CAM needs a head that is linear"):
        classifier.cam_weights(pixels, IDS, "cam")


def test_the_configuration_knows_every_method():
    allowed = get_args(CamSection.model_fields["method"].annotation)
    assert set(allowed) == set(METHODS)
