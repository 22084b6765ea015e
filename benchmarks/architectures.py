"""What ``layer: auto`` finds in timm's architectures, with random weights: the table of docs/models.md.

    python -m benchmarks.architectures            # writes the table (minutes; nothing is downloaded)
    python -m benchmarks.architectures resnet18   # prints the rows of some

Layer, channels and map size do not depend on weights, and whether the head is linear is found by experiment.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textcam.classifier import TorchClassifier, load_classifier

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
HEADER = "| family | timm name | input | layer | K | map | head |\n|---|---|---|---|---|---|---|\n"

FAMILIES: dict[str, tuple[str, ...]] = {
    "ResNet": ("resnet18", "resnet50", "resnetv2_50", "resnext50_32x4d", "seresnet50"),
    "Res2Net": ("res2net50_26w_4s",),
    "VGG": ("vgg11_bn",),
    "DenseNet": ("densenet121",),
    "Inception": ("inception_v3", "xception41"),
    "EfficientNet": ("efficientnet_b0", "tf_efficientnetv2_b0", "efficientnet_lite0"),
    "MobileNet": (
        "mobilenetv1_100",
        "mobilenetv2_100",
        "mobilenetv3_small_100",
        "mobilenetv3_large_100",
        "mobilenetv4_conv_small",
    ),
    "MnasNet": ("mnasnet_100",),
    "GhostNet": ("ghostnet_100",),
    "LCNet": ("lcnet_050",),
    "RegNet": ("regnetx_002", "regnety_002"),
    "ConvNeXt": ("convnext_atto", "convnextv2_atto"),
    "NFNet": ("eca_nfnet_l0",),
    "RepVGG": ("repvgg_a0", "mobileone_s0"),
    "CSPNet": ("cspresnet50",),
    "DLA": ("dla34",),
    "HRNet": ("hrnet_w18_small",),
    "ViT": ("vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256", "vit_base_patch32_224"),
    "DeiT": ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"),
    "EVA": ("eva02_tiny_patch14_224",),
    "Swin": ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
    "Hiera": ("hiera_tiny_224",),
    "PVT": ("pvt_v2_b0",),
    "Twins": ("twins_svt_small",),
    "XCiT": ("xcit_nano_12_p16_224",),
    "CaiT": ("cait_xxs24_224",),
    "LeViT": ("levit_128s",),
    "CoAtNet and MaxViT": ("coatnet_nano_rw_224", "maxvit_rmlp_pico_rw_256"),
    "MetaFormer": ("poolformer_s12", "caformer_s18"),
    "MobileViT": ("mobilevit_xxs", "mobilevitv2_050"),
    "EdgeNeXt": ("edgenext_xx_small",),
    "EfficientFormer": ("efficientformer_l1",),
    "EfficientViT": ("efficientvit_b0",),
    "FastViT": ("fastvit_t8",),
    "TinyViT": ("tiny_vit_5m_224",),
    "RepViT": ("repvit_m0_9",),
    "MambaOut": ("mambaout_femto",),
    "FocalNet": ("focalnet_tiny_srf",),
    "Mixer": ("mixer_s32_224",),
}


@dataclass(frozen=True)
class Row:
    """What was found in one architecture: input (H, W), layer, K channels, maps (h, w), what the head is.

    ``two_sided``: the K channels are both sides of half as many.
    """

    family: str
    name: str
    size: tuple[int, int]
    layer: str
    channels: int
    map_size: tuple[int, int]
    linear: bool
    two_sided: bool

    def __str__(self) -> str:
        height, width = self.map_size
        head = "linear" if self.linear else "other"
        channels = f"2 x {self.channels // 2}" if self.two_sided else str(self.channels)
        return (
            f"| {self.family} | {self.name} | {self.size[0]} x {self.size[1]} | `{self.layer}` | "
            f"{channels} | {height} x {width} | {head} |"
        )


def family_of(name: str) -> str:
    """The family that an architecture stands under."""
    return next(family for family, names in FAMILIES.items() if name in names)


def names() -> list[str]:
    """All architectures of the table, in its order."""
    return [name for group in FAMILIES.values() for name in group]


def row_of(name: str, classifier: TorchClassifier | None = None) -> Row:
    """The row of one architecture, with random weights. Raises ModelError where no layer is found."""
    found = classifier or load_classifier(f"timm:{name}", weights="random")
    size = (int(found.input_size[0]), int(found.input_size[1]))
    linear = found.head is not None
    return Row(
        family_of(name), name, size, found.layer, found.channels, found.map_size, linear, found.two_sided
    )


def additivity_error(classifier: TorchClassifier, images: int = 2) -> float:
    """Largest |contributions - (logit - bias)| over the largest of the latter; for a linear head."""
    assert classifier.head is not None
    height, width = classifier.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, height, width), np.uint8)
    output, weights = classifier.forward_cam(pixels)
    class_ids = output.logits.argmax(1)
    expected = output.logits.max(1) - classifier.head.bias[class_ids]
    error = np.abs((weights * output.pooled).sum(1) - expected).max() / np.abs(expected).max()
    return float(error)


def table_in(page: str) -> str:
    """The table's rows as they stand in the page."""
    return page.split(BEGIN)[1].split(END)[0].removeprefix(HEADER)


def main(wanted: list[str]) -> None:
    """Print rows; write the page if none were named."""
    rows = []
    for name in wanted or names():
        began = time.perf_counter()
        rows.append(row_of(name))
        print(rows[-1], f"{time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    if not wanted:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        lines = "".join(f"{row}\n" for row in rows)
        PAGE.write_text(f"{before}{BEGIN}{HEADER}{lines}{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
