"""The classifier as the rest of the project sees it: numpy arrays in and out, torch inside.

One forward pass gives logits and the target layer's activations. Channel weights of a linear head come
straight from the head; of any other head from the gradient of a logit with respect to the maps, for which
only the part of the network behind the target layer is differentiated. Inputs of a batch never influence each
other (evaluation mode).
"""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from store.errors import ModelError
from textcam import cam
from textcam.arrays import Floats
from textcam.device import choose_device
from textcam.layers import TargetLayer, captured, find_target
from textcam.linear_head import logits_of
from textcam.networks import build_network
from textcam.preprocess import Preprocess
from textcam.weights import hash_state


@dataclass(frozen=True)
class LinearHead:
    """logits = weights a + bias for pooled activations a (K,): ``weights`` (C, K), ``bias`` (C,)."""

    weights: Floats
    bias: Floats


@dataclass(frozen=True)
class ClassifierOutput:
    """``pooled`` (B, K), ``logits`` (B, C) and, where asked for, ``maps`` (B, K, h, w); float32."""

    pooled: Floats
    logits: Floats
    maps: Floats | None = None


# CAM methods by name: gradients and maps (B, K, h, w) of one logit an image -> channel weights (B, K).
GRADIENT_METHODS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "gradcam": lambda gradients, maps: cam.gradcam(gradients),
    "gradcam++": cam.gradcam_plus_plus,
    "xgradcam": cam.xgradcam,
}
# For GAP + linear these weights are the head's own row, whatever the image.
HEAD_METHODS = ("cam", "gradcam", "xgradcam")


class TorchClassifier:
    """A torch network with its target layer.

    ``channels`` is K, ``map_size`` (h, w), ``input_size`` (H, W), ``class_names`` has length C. ``head`` is
    given where the logits are linear in the pooled activations. ``fingerprint`` (SHA-256, hex) covers
    weights, layer and preprocessing.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        preprocess: Preprocess,
        target: TargetLayer,
        class_names: tuple[str, ...],
        device: str = "cpu",
    ) -> None:
        self.name, self.class_names = name, class_names
        self.layer, self.channels = target.name, target.layout.channels
        self.map_size = (target.layout.height, target.layout.width)
        self.input_size = preprocess.size
        described = f"{hash_state(module)} {target.name} {target.layout} {preprocess.description}"
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()
        self.head = None
        if target.head is not None:
            self.head = LinearHead(
                target.head.weights.cpu().numpy().copy(), target.head.bias.cpu().numpy().copy()
            )
        self.device = torch.device(device)
        # Channels last: 1.2 to 2 times the speed of convolutional networks on a CPU.
        self._module = module.to(self.device).to(memory_format=torch.channels_last)
        self._preprocess, self._layout = preprocess, target.layout

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Pixels (3, H, W) of a PIL image.

        Uint8, or float32 where the user's transform cannot be cut in two.
        """
        return self._preprocess.prepare(image)

    def forward(self, pixels: NDArray[Any], maps: bool = False) -> ClassifierOutput:
        """Pooled activations, logits and, if asked for, maps of pixels (B, 3, H, W) from ``prepare``."""
        with torch.inference_mode(), captured(self._module, self.layer) as outputs:
            logits = logits_of(self._module(self._inputs(pixels)))
            output = outputs[-1].to(torch.float32)
            pooled = self._layout.pool(output)
            shaped = _array(self._layout.to_maps(output)) if maps else None
        return ClassifierOutput(_array(pooled), _array(logits), shaped)

    def maps(self, pixels: NDArray[Any]) -> Floats:
        """Activation maps (B, K, h, w) of pixels (B, 3, H, W)."""
        found = self.forward(pixels, maps=True).maps
        assert found is not None
        return found

    def cam_weights(self, pixels: NDArray[Any], class_ids: NDArray[Any], method: str = "gradcam") -> Floats:
        """Channel weights (B, K) for one class an image, in logits per unit of pooled activation.

        ``class_ids`` (B,). With a linear head, "cam", "gradcam" and "xgradcam" are the head's row of the
        class, so sum_j w_j a_j is the logit minus its bias. Raises ModelError for an unknown method, and for
        "cam" without a linear head.
        """
        class_ids = np.asarray(class_ids, dtype=np.int64).reshape(len(pixels))
        if self.head is not None and method in HEAD_METHODS:
            return self.head.weights[class_ids]
        if method == "cam":
            raise ModelError(
                "CAM needs a head that is linear in the pooled maps, and this model has another",
                where=f"cam.method, layer {self.layer} of {self.name}",
                fix="use gradcam",
            )
        if method not in GRADIENT_METHODS:
            known = ", ".join(dict.fromkeys((*HEAD_METHODS, *GRADIENT_METHODS)))
            raise ModelError(f"unknown CAM method '{method}'", where="cam.method", fix=f"allowed: {known}")
        gradients, maps = self.gradients(pixels, class_ids)
        return GRADIENT_METHODS[method](gradients, maps)

    def gradients(self, pixels: NDArray[Any], class_ids: NDArray[Any]) -> tuple[Floats, Floats]:
        """Gradients of each image's own class logit with respect to its maps, and the maps.

        Both (B, K, h, w).
        """
        leaves: list[torch.Tensor] = []

        def detach(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            # A fresh start of the graph: nothing in front of the layer is differentiated. The clone allows
            # in-place steps behind the layer.
            leaves.append(output.detach().requires_grad_().clone())
            return leaves[-1]

        handle = self._module.get_submodule(self.layer).register_forward_hook(detach)
        try:
            with torch.enable_grad():
                logits = logits_of(self._module(self._inputs(pixels)))
                chosen = logits.gather(1, torch.as_tensor(class_ids, device=self.device)[:, None])
                gradient = torch.autograd.grad(chosen.sum(), leaves[-1])[0]
        finally:
            handle.remove()
        return _array(self._layout.to_maps(gradient)), _array(self._layout.to_maps(leaves[-1].detach()))

    def _inputs(self, pixels: NDArray[Any]) -> torch.Tensor:
        pixels = np.asarray(pixels)
        if pixels.ndim != 4 or pixels.shape[1:] != (3, *self.input_size):
            raise ModelError(
                f"pixels have shape {pixels.shape}, expected {('B', 3, *self.input_size)}",
                where=self.name,
                fix="pass what `prepare` returns, stacked",
            )
        return self._preprocess.normalise(torch.from_numpy(pixels).to(self.device))


def load_classifier(
    model: str,
    *,
    weights: str | None = None,
    layer: str = "auto",
    class_names: str | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> TorchClassifier:
    """Load a classifier from a model string and find its target layer.

    ``model``: ``timm:NAME``, ``torchvision:NAME`` or ``python:package.module:function`` (see ``networks``).
    ``weights``: None (the library's pretrained), a file (.safetensors; .pt, .pth or .bin read without running
    code), or "random" from ``seed``. ``layer``: "auto" or a module's name. ``class_names``: a list, a text
    file with one name a line, or a .csv with a column ``name``. ``device``: "cpu", "cuda", "cuda:1" ... or
    "auto". Raises ModelError with what, where and how to fix it.
    """
    network = build_network(model, weights=weights, options=options, preprocess=preprocess, seed=seed)
    target = find_target(network.module, network.preprocess.size, layer)
    names = _class_names(class_names, network.class_names, target.classes)
    return TorchClassifier(model, network.module, network.preprocess, target, names, choose_device(device))


def _class_names(
    given: str | Sequence[str] | None, known: tuple[str, ...] | None, classes: int
) -> tuple[str, ...]:
    """C distinct names: the given ones, else those that the model knows, else "class 0" and so on."""
    if given is None:
        names = (
            known if known and len(known) == classes else tuple(f"class {index}" for index in range(classes))
        )
    else:
        names = _read_names(Path(given)) if isinstance(given, str) else tuple(str(name) for name in given)
        if len(names) != classes:
            raise ModelError(
                f"{len(names)} class names are given, and the model has {classes} classes",
                where="classifier.class_names",
                fix="give one name a class, in the order of the logits",
            )
    return _distinct(names)


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the class names cannot be read: {error}", where=path, fix="give a text file, one name a line"
        ) from error
    if path.suffix != ".csv":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "name" not in rows[0]:
        raise ModelError("the table has no column 'name'", where=path, fix="add a header line with `name`")
    if "class_id" in rows[0]:
        rows.sort(key=lambda row: int(row["class_id"]))
    return tuple(row["name"].strip() for row in rows)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names, with a number behind those that occur before.

    ImageNet has two cranes and two maillots.
    """
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(result)


def _array(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).cpu().numpy())
