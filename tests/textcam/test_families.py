"""One network of each family: the layer that ``auto`` finds, its size, and whether contributions add up."""

import numpy as np
import pytest

from tests.textcam.photographs import photographs
from textcam.classifier import load_classifier

# model, layer, K, (h, w), linear head
FAMILIES = [
    ("timm:test_resnet", "layer4", 96, (5, 5), True),
    ("python:tests.textcam.tiny_networks:small_vgg", "features", 32, (4, 4), False),
    ("timm:densenet121?growth_rate=8&block_config=(2,2,2,2)", "features", 32, (7, 7), True),
    ("python:tests.textcam.tiny_networks:small_densenet", "features", 32, (2, 2), True),
    ("timm:test_efficientnet", "bn2", 256, (5, 5), True),
    ("timm:mobilenetv2_050", "bn2", 1280, (7, 7), True),
    ("timm:mobilenetv3_small_050", "blocks", 288, (7, 7), False),
    ("timm:test_convnext", "stages", 64, (5, 5), False),
    ("timm:regnetx_002", "s4", 368, (7, 7), True),
    ("timm:test_vit", "blocks.5.norm1", 64, (10, 10), False),
    ("timm:deit_tiny_distilled_patch16_224?depth=2", "blocks.1.norm1", 192, (14, 14), False),
    (
        "timm:swin_tiny_patch4_window7_224?embed_dim=12&depths=(1,1,1,1)&num_heads=(1,1,2,2)",
        "norm",
        96,
        (7, 7),
        True,
    ),
    ("timm:eva02_tiny_patch14_224?depth=2", "blocks.1", 192, (16, 16), False),
    ("timm:hiera_tiny_224?embed_dim=24&stages=(1,1,1,1)", "blocks.3", 192, (7, 7), False),
    ("torchvision:squeezenet1_1", "features", 512, (13, 13), False),
    ("timm:pvt_v2_b0?depths=(1,1,1,1)", "stages", 256, (7, 7), True),
    ("timm:test_nfnet", "final_act", 192, (5, 5), True),
    ("timm:test_byobnet", "stages", 256, (5, 5), True),
    ("timm:test_coatnet", "norm", 128, (5, 5), True),
    ("timm:test_maxvit", "norm", 128, (5, 5), True),
    ("timm:test_mambaout", "stages", 64, (5, 5), False),
]


# Their layers take both signs: each channel is two, what makes it rise and what makes it fall.
BOTH_SIGNS = ("convnext", "_vit", "deit", "swin", "eva02", "hiera", "pvt", "coatnet", "maxvit", "mambaout")


@pytest.mark.parametrize(("model", "layer", "channels", "map_size", "linear"), FAMILIES)
def test_auto_finds_the_layer_and_the_head(model, layer, channels, map_size, linear):
    classifier = load_classifier(model, weights="random")
    assert classifier.two_sided == any(name in model for name in BOTH_SIGNS)
    channels *= 2 if classifier.two_sided else 1
    assert (classifier.layer, classifier.channels, classifier.map_size) == (layer, channels, map_size)
    assert (classifier.head is not None) == linear
    pixels = np.stack([classifier.prepare(image) for image in photographs()[:2]])
    output = classifier.forward(pixels, maps=True)
    class_ids = output.logits.argmax(1)
    weights = classifier.cam_weights(pixels, class_ids)
    assert np.isfinite(weights).all()
    assert np.abs(weights).max() > 0
    if linear:
        total = (weights * output.pooled).sum(1)
        expected = output.logits[[0, 1], class_ids] - classifier.head.bias[class_ids]
        assert np.abs(total - expected).max() < 1e-4 * np.abs(expected).max()
