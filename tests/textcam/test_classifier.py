import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, XGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from store.errors import ModelError, first_line
from tests.textcam.photographs import photograph, photographs
from textcam.classifier import METHODS, LinearHead, TorchClassifier, load_classifier
from textcam.layers import find_target
from textcam.networks import build_network
from textcam.preprocess import build_transform, split

SMALL = {"size": 64, "mean": 0.5, "std": 0.25}
RESNET = "timm:test_resnet"
VIT = "timm:test_vit?num_classes=7"
NO_LINEAR_HEAD = "timm:test_convnext?num_classes=7"


def load(model=RESNET, **arguments):
    return load_classifier(model, weights="random", **arguments)


def batch(classifier, count=4):
    return np.stack([classifier.prepare(image) for image in photographs()[:count]])


def test_the_logits_are_those_of_the_library_used_by_hand():
    classifier = load_classifier("torchvision:squeezenet1_1", weights="random", seed=3)
    torch.manual_seed(3)
    by_hand = models.squeezenet1_1(weights=None).eval()
    transform = models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        expected = by_hand(torch.stack([transform(image) for image in photographs()])).numpy()
    logits = classifier.forward(batch(classifier)).logits
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_contributions_add_up_to_the_logit_minus_its_bias():
    classifier = load()
    pixels = batch(classifier)
    output = classifier.forward(pixels, maps=True)
    class_ids = np.array([3, 1, 0, 2])
    weights = classifier.cam_weights(pixels, class_ids)
    total = (weights * output.pooled).sum(1)
    expected = output.logits[range(4), class_ids] - classifier.head.bias[class_ids]
    assert np.abs(total - expected).max() < 1e-4 * np.abs(expected).max()
    assert output.maps.shape == (4, classifier.channels, *classifier.map_size)
    assert np.allclose(output.maps.mean((2, 3)), output.pooled, atol=1e-6)


@pytest.mark.parametrize("method", ["cam", "gradcam", "xgradcam"])
def test_for_a_linear_head_these_methods_are_the_heads_rows(method):
    classifier = load()
    pixels, class_ids = batch(classifier), np.array([3, 3, 0, 9])
    weights = classifier.cam_weights(pixels, class_ids, method)
    assert np.array_equal(weights, classifier.head.weights[class_ids])
    if method != "cam":  # and the long way round says the same, where XGrad-CAM can divide by the map
        output, gradients = classifier.gradients(pixels, class_ids)
        slopes = METHODS[method].formula(gradients, output.maps)
        alive = np.abs(output.pooled) > 1e-3
        assert alive.mean() > 0.5
        assert np.abs(slopes - weights)[alive].max() < 1e-4 * np.abs(weights).max()


REFERENCES = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "xgradcam": XGradCAM}
ARCHITECTURES = {
    "resnet": lambda: models.resnet18(num_classes=7),
    "squeezenet": lambda: models.squeezenet1_1(num_classes=7),
    "mobilenet v3": lambda: models.mobilenet_v3_small(num_classes=7),
    "vit": lambda: timm.create_model("test_vit", num_classes=7, img_size=96),
}


def lively(network, inputs):
    """The network with its batch norms set on the inputs, so that no map dies out, and with huge logits.

    The reference adds 1e-6 to the denominator of Grad-CAM++, which must vanish beside squared gradients.
    """
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(inputs)
        last = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        last.weight.mul_(1e5)
    return network.eval()


@pytest.mark.parametrize(
    ("method", "architecture"),
    # Grad-CAM++ is for maps that are not negative; on a ViT's it divides by what may cancel.
    [(m, a) for m in REFERENCES for a in ARCHITECTURES if (m, a) != ("gradcam++", "vit")],
)
def test_weights_agree_with_pytorch_grad_cam(method, architecture):
    preprocess = split(build_transform(96, 0.5, 0.25), "here")
    pixels = np.stack([preprocess.prepare(photograph(120, 110, seed)) for seed in range(5)])
    inputs, class_ids = preprocess.normalise(torch.from_numpy(pixels)), np.array([6, 0, 2, 2, 5])
    torch.manual_seed(0)
    network = lively(ARCHITECTURES[architecture](), inputs)
    target = replace(find_target(network, (96, 96)), two_sided=False)  # as the reference has it
    classifier = TorchClassifier(architecture, network, preprocess, target, tuple("abcdefg"))

    layer = network.get_submodule(target.name)
    reference = REFERENCES[method](network, [layer], reshape_transform=target.layout.to_maps)
    reference(inputs, [ClassifierOutputTarget(int(class_id)) for class_id in class_ids])
    activations = reference.activations_and_grads.activations[0].numpy()
    gradients = reference.activations_and_grads.gradients[0].numpy()
    expected = reference.get_cam_weights(None, None, class_ids, activations, gradients)
    reference.activations_and_grads.release()

    output, slopes = classifier.gradients(pixels, class_ids)
    assert np.abs(output.maps - activations).max() < 1e-4 * np.abs(activations).max()
    weights = METHODS[method].formula(slopes, output.maps)
    # Grad-CAM and XGrad-CAM: ours are per unit of pooled activation, theirs per unit of one cell.
    expected = expected * (1 if method == "gradcam++" else np.prod(classifier.map_size))
    # XGrad-CAM divides by the sum of the map, which for maps of both signs may be nearly nothing.
    total, size = np.abs(activations.sum((2, 3))), np.abs(activations).sum((2, 3))
    solid = (total > 0.1 * size) & (total > 0.01)
    assert solid.mean() > 0.3
    assert np.abs(weights - expected)[solid].max() < 1e-4 * np.abs(expected)[solid].max()


def test_gradients_are_those_of_each_images_own_class():
    classifier = load(VIT)
    pixels, class_ids = batch(classifier), np.array([3, 1, 0, 6])
    _, together = classifier.gradients(pixels, class_ids)
    alone = [classifier.gradients(pixels[i : i + 1], class_ids[i : i + 1])[1][0] for i in range(4)]
    assert np.abs(together).max() > 0
    assert np.abs(together - np.stack(alone)).max() < 1e-5 * np.abs(together).max()


@pytest.mark.parametrize("model", [RESNET, VIT, NO_LINEAR_HEAD])
@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_one_pass_gives_what_two_give(model, method):
    classifier = load(model)
    pixels = batch(classifier)
    output = classifier.forward(pixels, maps=True)
    for class_ids in (None, np.array([3, 1, 0, 6])):
        once, weights = classifier.forward_cam(pixels, class_ids, method, maps=True)
        wanted = output.logits.argmax(1) if class_ids is None else class_ids
        expected = classifier.cam_weights(pixels, wanted, method)
        assert np.abs(weights - expected).max() <= 1e-5 * np.abs(expected).max()
        for name in ("pooled", "logits", "maps"):
            difference = np.abs(getattr(once, name) - getattr(output, name)).max()
            assert difference <= 1e-5 * np.abs(getattr(output, name)).max()
    assert classifier.forward_cam(pixels, method=method)[0].maps is None


@pytest.mark.parametrize(
    ("model", "norm", "head"),
    [
        (NO_LINEAR_HEAD, "head.norm", "head.fc"),
        ("timm:eva02_tiny_patch14_224?depth=1&num_classes=7", "fc_norm", "head"),
        ("timm:hiera_tiny_224?embed_dim=24&stages=(1,1,1,1)&num_classes=7", "head.norm", "head.fc"),
    ],
)
def test_with_norms_held_contributions_add_up_behind_a_norm(model, norm, head):
    classifier = load(model)
    network = build_network(model, weights="random").module
    pixels, class_ids = batch(classifier), np.array([3, 1, 0, 6])
    output, weights = classifier.forward_cam(pixels, class_ids, "gradcam-frozen")
    fc, bias = network.get_submodule(head), network.get_submodule(norm).bias
    constant = (fc.weight @ bias + fc.bias).numpy()[class_ids]
    total = (weights * output.pooled).sum(1)
    expected = output.logits[range(4), class_ids] - constant
    assert np.abs(total - expected).max() < 1e-4 * np.abs(expected).max()
    # and why: the plain gradient's contributions add up to next to nothing
    plain = (classifier.cam_weights(pixels, class_ids) * output.pooled).sum(1)
    assert np.abs(plain).max() < 0.05 * np.abs(expected).max()


# One of each way to have a norm behind the layer whose input is bfloat16 in bfloat16.
NORMED = [
    NO_LINEAR_HEAD,
    "timm:convnextv2_atto?depths=(1,1,1,1)&dims=(16,16,16,32)",
    "timm:tiny_vit_5m_224?depths=(1,1,1,1)",
    "timm:davit_tiny?depths=(1,1,1,1)&embed_dims=(16,16,32,32)&num_heads=(1,1,2,2)",
    "timm:hiera_tiny_224?embed_dim=24&stages=(1,1,1,1)",
    "timm:eva02_tiny_patch14_224?depth=1",
]


@pytest.mark.parametrize("model", NORMED)
def test_with_norms_held_contributions_add_up_in_bfloat16_as_in_float32(model):
    classifier = load(model)
    pixels = batch(classifier)
    output, weights = classifier.forward_cam(pixels, method="gradcam-frozen")
    class_ids = output.logits.argmax(1)
    sums = (weights * output.pooled).sum(1)
    classifier.number_format = "bfloat16"
    fast, coarse = classifier.forward_cam(pixels, class_ids, "gradcam-frozen")
    assert np.abs((coarse * fast.pooled).sum(1) - sums).max() < 0.02 * np.abs(sums).max()
    assert np.abs(sums).max() > 0.1 * np.abs(output.logits.max(1)).max()  # no sums of nothing
    assert classifier.norms_not_held("gradcam-frozen") == ()


@pytest.mark.parametrize("number_format", ["float32", "bfloat16"])
def test_holding_norms_leaves_what_comes_out_bit_for_bit(number_format):
    classifier = load(NORMED[1])
    pixels = batch(classifier)
    classifier.number_format = number_format
    plain, frozen = (classifier.gradients(pixels, frozen=frozen)[0] for frozen in (False, True))
    assert np.array_equal(plain.logits, frozen.logits)


class Norms(nn.Module):
    """Maps, then a norm that can be held, one of another kind, and one whose class does something else."""

    def __init__(self, third):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU())
        self.first, self.second, self.third = nn.LayerNorm(8), nn.GroupNorm(2, 8), third
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(self.maps(x).mean((2, 3))))))


class Doubling(nn.LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x) + x


@pytest.mark.parametrize(
    ("third", "others"), [(nn.Identity(), ("second",)), (Doubling(8), ("second", "third"))]
)
def test_norms_that_cannot_be_held_are_named(third, others):
    torch.manual_seed(0)
    module = Norms(third).eval().requires_grad_(False)
    target = find_target(module, (64, 64), "maps")
    names = tuple("abcde")
    classifier = TorchClassifier("norms", module, split(build_transform(**SMALL), "norms"), target, names)
    assert classifier.norms_not_held("gradcam-frozen") == others
    assert classifier.norms_not_held("gradcam") == ()  # which holds none
    assert load().norms_not_held("gradcam-frozen") == ()  # a linear head: nothing is differentiated


@pytest.mark.parametrize("model", [RESNET, VIT, NO_LINEAR_HEAD])
def test_an_image_does_not_see_its_batch(model):
    classifier = load(model)
    pixels = batch(classifier)
    order = np.array([2, 0, 3, 1])
    first, second = classifier.forward(pixels), classifier.forward(pixels[order])
    assert np.array_equal(first.pooled[order], second.pooled)
    assert np.array_equal(first.logits[order], second.logits)


def test_the_fingerprint_is_of_weights_layer_and_preprocessing():
    first = load()
    assert re.fullmatch("2-[0-9a-f]{64}", first.fingerprint)
    assert load().fingerprint == first.fingerprint
    others = [
        load(seed=1),
        load(layer="layer3"),
        load(preprocess={"mean": 0.4}),
        load(preprocess={"size": 96}),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_weights_from_a_file_replace_the_random_ones(tmp_path):
    source = build_network(RESNET, weights="random", seed=5)
    path = tmp_path / "mine.safetensors"
    save_file(source.module.half().state_dict(), path)
    loaded = load_classifier(RESNET, weights=str(path))
    expected = source.module.float().get_submodule("fc").weight.numpy()
    assert np.array_equal(loaded.head.weights, expected)
    with pytest.raises(ModelError, match=r"do not fit the model: 2 of another shape: fc\.weight") as error:
        load_classifier(RESNET + "?num_classes=3", weights=str(path))
    assert error.value.where == str(path)


def test_options_may_stand_behind_the_name_or_beside_it():
    assert load(RESNET + "?num_classes=3").forward(np.zeros((1, 3, 160, 160), np.uint8)).logits.shape == (
        1,
        3,
    )
    assert len(load(RESNET, options={"num_classes": 4}).class_names) == 4
    with pytest.raises(ModelError, match="does not take these options"):
        load(RESNET + "?num_clases=3")
    with pytest.raises(ModelError, match="'num_classes' is not an option"):
        load(RESNET + "?num_classes")


def test_class_names_come_from_the_model_a_file_or_a_number(tmp_path):
    assert load("torchvision:squeezenet1_1").class_names[:2] == ("tench", "goldfish")
    assert load("timm:resnet10t").class_names[0].startswith("tench")
    # ImageNet says crane twice, and has a Cardigan and a cardigan.
    assert len({name.casefold() for name in load("torchvision:squeezenet1_1").class_names}) == 1000
    three = RESNET + "?num_classes=3"
    assert load(three).class_names == ("class 0", "class 1", "class 2")
    assert load(three, class_names=["a", "b", "a"]).class_names == ("a", "b", "a (2)")
    assert load(three, class_names=["Crane", "crane", "crane (2)"]).class_names == (
        "Crane",
        "crane (2)",
        "crane (2) (2)",
    )
    (tmp_path / "names.txt").write_text("ant\nbee\n\ncat\n")
    (tmp_path / "names.csv").write_text("class_id,name\n2,cat\n0,ant\n1,bee\n")
    for name in ("names.txt", "names.csv"):
        assert load(three, class_names=str(tmp_path / name)).class_names == ("ant", "bee", "cat")
    with pytest.raises(ModelError, match="2 class names are given, and the model has 3 classes"):
        load(three, class_names=["a", "b"])
    with pytest.raises(ModelError, match="cannot be read"):
        load(three, class_names=str(tmp_path / "none.txt"))
    (tmp_path / "bad.csv").write_text("id,title\n0,ant\n")
    with pytest.raises(ModelError, match="no column 'name'"):
        load(three, class_names=str(tmp_path / "bad.csv"))


def test_a_users_module_with_a_wrong_layer_then_the_right_one(tmp_path, monkeypatch):
    (tmp_path / "my_birds.py").write_text(
        "from torch import nn\n"
        "from torchvision import transforms as t\n"
        "def classifier(width=5):\n"
        "    net = nn.Sequential()\n"
        "    net.add_module('trunk', nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU()))\n"
        "    net.add_module('pool', nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))\n"
        "    net.add_module('out', nn.Linear(width, 2))\n"
        "    net.class_names = ['jay', 'wren']\n"
        "    return net, t.Compose([t.Resize((30, 30)), t.ToTensor(), t.Normalize(0.5, 0.5)])\n"
        "def bare():\n"
        "    return classifier()[0]\n"
    )
    monkeypatch.chdir(tmp_path)
    model = "python:my_birds:classifier"
    with pytest.raises(ModelError, match="no layer 'trunc'; did you mean trunk") as error:
        load_classifier(model, layer="trunc")
    assert "trunk (5 x 14 x 14)" in error.value.fix
    classifier = load_classifier(model, layer="trunk", options={"width": 6})
    assert (classifier.layer, classifier.channels, classifier.map_size) == ("trunk", 6, (14, 14))
    assert (classifier.class_names, classifier.input_size) == (("jay", "wren"), (30, 30))
    assert isinstance(classifier.head, LinearHead)
    with pytest.raises(ModelError, match="preprocessing is not known: size, mean, std not given"):
        load_classifier("python:my_birds:bare")
    assert load_classifier("python:my_birds:bare", preprocess=SMALL).input_size == (64, 64)


def test_the_names_of_torchvisions_weights_choose_weights_and_preprocessing(monkeypatch):
    asked = []

    def no_network(url, *arguments, **keywords):
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    for weights in (None, "IMAGENET1K_V1"):
        with pytest.raises(ModelError, match="cannot be built: OSError: no network"):
            load_classifier("torchvision:regnet_x_400mf", weights=weights)
    assert asked == [
        models.RegNet_X_400MF_Weights.IMAGENET1K_V2.url,
        models.RegNet_X_400MF_Weights.IMAGENET1K_V1.url,
    ]


def asked_of_torchvision(monkeypatch, model, weights, **arguments):
    """The addresses that torchvision asks for when it loads a model; the state it gets is random."""
    asked = []

    def answer(url, *_arguments, **_keywords):
        asked.append(url)
        return models.get_model(model.partition(":")[2], weights=None).state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", answer)
    load_classifier(model, weights=weights, **arguments)
    return asked


def test_a_name_that_torchvision_has_no_weights_for_is_refused_and_the_names_are_told(tmp_path, monkeypatch):
    model = "torchvision:squeezenet1_1"
    for wrong in ("IMAGENET1K_V2", "IMAGENET1K_V9", "default", "V1"):
        with pytest.raises(ModelError, match=f"'{wrong}' is neither a tag of {model} nor a file") as error:
            load_classifier(model, weights=wrong)
        assert "tags: IMAGENET1K_V1, DEFAULT;" in error.value.fix
    only = models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    for right in ("IMAGENET1K_V1", "DEFAULT", None):
        assert asked_of_torchvision(monkeypatch, model, right) == [only]
    # A file is loaded, however it is called.
    source = build_network(model, weights="random", seed=5).module
    monkeypatch.chdir(tmp_path)
    save_file(source.state_dict(), "IMAGENET1K_V1.safetensors")
    loaded = load_classifier(model, weights="IMAGENET1K_V1.safetensors")
    assert loaded.fingerprint == load_classifier(model, weights="random", seed=5).fingerprint


def test_the_weights_that_the_page_shows_exist():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    shown = re.findall(r'"torchvision:(\w+)", weights: (\w+)}', page)
    assert shown
    for name, weights in shown:
        assert weights in models.get_model_weights(name).__members__
    tagged = re.findall(r'"timm:([\w.]+)"}', page)
    assert tagged
    assert set(tagged) <= set(timm.list_models(pretrained=True))


def test_a_tag_that_timm_does_not_have_is_refused_and_the_tags_are_told():
    with pytest.raises(ModelError, match="'a9_in1k' is neither a tag of timm:resnet50 nor a file") as error:
        load_classifier("timm:resnet50.a9_in1k")
    assert "resnet50.a1_in1k, " in error.value.fix
    with pytest.raises(ModelError, match="'IMAGENET1K_V2' is neither a tag of timm:resnet50") as error:
        load_classifier("timm:resnet50", weights="IMAGENET1K_V2")
    assert "resnet50.a1_in1k, " in error.value.fix


def test_a_head_that_the_librarys_weights_do_not_fill_is_refused(monkeypatch):
    model = "test_vit"
    state = timm.create_model(model).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_a, **_k: dict(state))
    assert load_classifier(f"timm:{model}").channels == 128
    with pytest.raises(ModelError, match="have 1000 classes and the model 7: its head would be random"):
        load_classifier(f"timm:{model}?num_classes=7")


def test_an_error_without_a_message_is_named_by_its_kind(monkeypatch):
    def fails(*_arguments, **_options):
        raise RuntimeError(" \n")

    monkeypatch.setattr("timm.create_model", fails)
    with pytest.raises(ModelError, match="cannot be built: RuntimeError: RuntimeError"):
        load()
    assert first_line(OSError()) == "OSError"
    assert first_line(ValueError("\n  said\nmore")) == "said"


def test_requests_that_cannot_be_met_are_refused():
    with pytest.raises(ModelError, match="timm has no model 'resnet_18'") as error:
        load("timm:resnet_18")
    assert "resnet18" in error.value.fix
    with pytest.raises(ModelError, match="torchvision has no model 'resnet_18'"):
        load("torchvision:resnet_18")
    with pytest.raises(ModelError, match="'resnet18' is not a model string"):
        load("resnet18")
    classifier = load(NO_LINEAR_HEAD)
    pixels = batch(classifier)
    with pytest.raises(ModelError, match="unknown CAM method 'eigencam'") as error:
        classifier.cam_weights(pixels, np.zeros(4), "eigencam")
    assert "gradcam, " in error.value.fix
    with pytest.raises(ModelError, match="CAM needs a head that is linear"):
        classifier.cam_weights(pixels, np.zeros(4), "cam")
    with pytest.raises(ModelError, match=r"expected \('B', 3, 160, 160\)"):
        classifier.forward(pixels[:, :, :99])
    with pytest.raises(ModelError, match="device 'qpu' cannot be used"):
        load(device="qpu")


def test_pretrained_weights_without_a_network_are_a_clear_refusal(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="cannot be built") as error:
        load_classifier("timm:test_vit2")
    assert "give a local file" in error.value.fix
