"""How fast channel weights and maps of a batch are, beside pytorch-grad-cam's on the same cores.

    python -m benchmarks.cam_speed [--rounds 5] [--batch 32] [--quick]

Both sides get the same pixels in memory and explain the largest logit. Ours starts from uint8 as `prepare`
gives it and ends with logits, pooled activations, weights and the signed maps as numpy arrays; theirs
starts from the normalised tensor and ends with its maps (enlarged, clipped and scaled; it has no other
end). Rounds of both alternate, so that a busy machine slows both, and ratios are taken within a round.
Score-CAM and Ablation-CAM, which run the network K times an image, get a batch of 1. *forward* is the bound:
a method that cost nothing would still need this one pass.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, ScoreCAM, ShapleyCAM
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measure import Measure, interval, machine, publish
from textcam.cam import saliency_map
from textcam.classifier import TorchClassifier, load_classifier
from textcam.networks import build_network

GOAL = 3.0
MODELS = {
    "ResNet-18": "timm:resnet18",
    "MobileNetV2": "timm:mobilenetv2_100",
    "ConvNeXt atto": "timm:convnext_atto",
    "ViT tiny": "timm:vit_tiny_patch16_224",
}
FORWARD = "forward"  # no method at all, beside their Grad-CAM
PEERS = {
    FORWARD: GradCAM,
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "shapleycam": ShapleyCAM,
    "scorecam": ScoreCAM,
    "ablationcam": AblationCAM,
}
SLOW = ("scorecam", "ablationcam")
# ShapleyCAM refuses a head without curvature, a ViT's tokens too; methods that try each channel would
# take too long on the others.
LEFT_OUT = {
    ("shapleycam", "ResNet-18"),
    ("shapleycam", "MobileNetV2"),
    ("shapleycam", "ViT tiny"),
    *((method, label) for method in SLOW for label in ("MobileNetV2", "ConvNeXt atto", "ViT tiny")),
}


@dataclass(frozen=True)
class Sides:
    """Both ways from pixels to maps, ready to be timed."""

    ours: Callable[[], object]
    theirs: Callable[[], object]


def sides(model: str, method: str, classifier: TorchClassifier, batch: int) -> Sides:
    """Ours and theirs for one model string and method, on ``batch`` random images."""
    pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(
        0, 256, (batch, 3, *classifier.input_size), np.uint8
    )
    network = build_network(model, weights="random")
    inputs = network.preprocess.normalise(torch.from_numpy(pixels))
    module = network.module.requires_grad_(True)  # as a network comes from its library
    layer = module.get_submodule(classifier.layer)
    peer = PEERS[method](module, [layer], reshape_transform=classifier._layout.to_maps)

    def ours() -> object:
        if method == FORWARD:
            return classifier.forward(pixels)
        output, weights = classifier.forward_cam(pixels, method=method, maps=True)
        assert output.maps is not None
        return saliency_map(output.maps, weights)

    return Sides(ours, lambda: peer(inputs, None))


def seconds(work: Callable[[], object]) -> float:
    """Seconds on the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(pair: Sides, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of ours and of theirs, one of each a round; the first round warms up."""
    taken = [(seconds(pair.ours), seconds(pair.theirs)) for _ in range(rounds + 1)][1:]
    return [one for one, _ in taken], [two for _, two in taken]


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="one model, two rounds, nothing written")
    chosen = parser.parse_args()
    rounds = 2 if chosen.quick else chosen.rounds
    measures = []
    for label, model in list(MODELS.items())[: 1 if chosen.quick else None]:
        assert timm.is_model(model.removeprefix("timm:"))
        classifier = load_classifier(model, weights="random", two_sided=False)  # as theirs
        for method in PEERS:
            if (method, label) in LEFT_OUT or (chosen.quick and method in SLOW):
                continue
            slow = method in SLOW
            batch = 1 if slow else chosen.batch
            # The fused attention of cores has no second derivative.
            kernels = sdpa_kernel(SDPBackend.MATH) if method == "shapleycam" else nullcontext()
            with kernels:
                ours, theirs = compare(sides(model, method, classifier, batch), 2 if slow else rounds)
            ratio, low, high = interval([b / a for a, b in zip(ours, theirs, strict=True)], np.median)
            name = f"{label}, {method}, batch {batch}: times pytorch-grad-cam's images/s"
            goal = None if method == FORWARD else GOAL
            measures.append(Measure(name, ratio, low, high, goal, "higher"))
            speed = f"{label}, {method}, batch {batch}: images/s"
            measures.append(
                Measure(
                    speed,
                    batch / float(np.median(ours)),
                    better="higher",
                    baseline=batch / float(np.median(theirs)),
                )
            )
            print(f"{name} {ratio:.2f}", flush=True)
    publish("cam_speed", measures, {**machine(), "threads": torch.get_num_threads()}, not chosen.quick)


if __name__ == "__main__":
    main()
