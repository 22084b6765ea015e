"""The classifier as the rest of the project sees it: numpy arrays in and out, torch inside.

One forward pass gives logits and the target layer's activations. Channel weights of a linear head come
straight from the head; of any other head from the gradient of a logit with respect to the maps, for which
only the part of the network behind the target layer is differentiated. Inputs of a batch never influence each
other (evaluation mode).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from store.errors import ModelError
from textcam.arrays import Floats
from textcam.cam_methods import METHODS, CamMethod, head_rows
from textcam.class_names import class_names_of
from textcam.compiled import compiled
from textcam.device import choose_device, number_format
from textcam.frozen_norms import frozen_norms
from textcam.layers import TargetLayer, captured, find_target
from textcam.layout import sides
from textcam.linear_head import logits_of
from textcam.networks import build_network
from textcam.perturbation import ablation_drops, score_increases
from textcam.preprocess import Preprocess
from textcam.structure import Fingerprinted
from textcam.two_sided import two_sided
from textcam.weights import hash_state

_Pass = tuple[torch.Tensor, torch.Tensor]  # logits (B, C) and the target layer's output


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


class TorchClassifier(Fingerprinted):
    """A torch network with its target layer.

    ``channels`` is K, where the layer takes both signs that of both sides of its channels (``two_sided``, see
    the file of that name); ``map_size`` (h, w), ``input_size`` (H, W), ``view_share`` the part of an image's
    shorter side that it sees, ``class_names`` has length C. ``head`` is
    given where the logits are linear in the pooled activations. ``fingerprint`` ("2-" and a SHA-256, hex)
    covers weights, structure, layer and preprocessing; classifiers of the same ``preparation`` prepare images
    alike.
    ``number_format`` is that of all passes (see ``device.number_format``), and may be set.
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
        self.layer, self.two_sided = target.name, target.two_sided
        self.channels = target.layout.channels * (2 if target.two_sided else 1)
        self.map_size = (target.layout.height, target.layout.width)
        self.input_size = preprocess.size
        self.view_share = preprocess.view_share
        described = f"{hash_state(module)} {target.name} {target.layout} {preprocess.description}"
        described += " two-sided" if target.two_sided else ""
        self.set_fingerprint(described, module)
        self.head = None
        if target.head is not None:
            weights = target.head.weights.cpu().numpy().copy()
            self.head = LinearHead(
                two_sided(weights) if target.two_sided else weights, target.head.bias.cpu().numpy().copy()
            )
        self.device = torch.device(device)
        # Channels last: 1.2 to 2 times the speed of convolutional networks on a CPU.
        self._module = module.to(self.device).to(memory_format=torch.channels_last)
        self._preprocess, self._layout = preprocess, target.layout
        self.preparation = preprocess.description
        self.number_format = "float32"
        self._not_held: tuple[str, ...] = ()  # of the last gradients
        self._pass: Callable[[torch.Tensor], _Pass] = self._plain_pass

    def compile(self) -> None:
        """Let ``forward`` run as compiled kernels (see ``compiled``)."""
        kept: list[torch.Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            if torch.compiler.is_compiling():  # at other times others look at the layer, in their own way
                kept.append(output)

        def both(inputs: torch.Tensor) -> _Pass:
            kept.clear()
            logits = logits_of(self._module(inputs))
            return logits, kept.pop()

        self._module.get_submodule(self.layer).register_forward_hook(keep)
        self._pass = compiled(both)

    def let_network_go(self) -> None:
        """Give its memory back. ``prepare`` still works, and no pass."""
        self._module = nn.Identity()
        self._pass = self._plain_pass

    def _plain_pass(self, inputs: torch.Tensor) -> _Pass:
        with captured(self._module, self.layer) as outputs:
            logits = logits_of(self._module(inputs))
        return logits, outputs[-1]

    @property
    def blank(self) -> NDArray[Any]:
        """Pixels (3, H, W) as ``prepare`` gives them, of no image: all zeros."""
        return self._preprocess.blank

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Pixels (3, H, W) of a PIL image.

        Uint8, or float32 where the user's transform cannot be cut in two.
        """
        return self._preprocess.prepare(image)

    def forward(self, pixels: NDArray[Any], maps: bool = False) -> ClassifierOutput:
        """Pooled activations, logits and, if asked for, maps of pixels (B, 3, H, W) from ``prepare``."""
        with torch.inference_mode(), number_format(self.number_format, self.device):
            logits, output = self._pass(self._inputs(pixels))
            return self._seen(logits, output.to(torch.float32), maps)

    def _seen(self, logits: torch.Tensor, output: torch.Tensor, maps: bool) -> ClassifierOutput:
        """Logits, and the layer's output as pooled activations and, if asked for, maps."""
        parts = sides(output) if self.two_sided else (output,)
        pooled = torch.cat([self._layout.pool(part) for part in parts], 1)
        shaped = torch.cat([self._layout.to_maps(part) for part in parts], 1) if maps else None
        return ClassifierOutput(_array(pooled), _array(logits), None if shaped is None else _array(shaped))

    def maps(self, pixels: NDArray[Any]) -> Floats:
        """Activation maps (B, K, h, w) of pixels (B, 3, H, W)."""
        found = self.forward(pixels, maps=True).maps
        assert found is not None
        return found

    def cam_weights(self, pixels: NDArray[Any], class_ids: NDArray[Any], method: str = "gradcam") -> Floats:
        """Channel weights (B, K) of one class an image by one of ``cam_methods.METHODS``; ``class_ids`` (B,).

        In logits per unit of pooled activation, but for Grad-CAM++, Score-CAM and Ablation-CAM, which have
        scales of their own. With a linear head and a method that gives its rows, sum_j w_j a_j is the logit
        minus its bias, and no pass is needed. Raises ModelError for an unknown method, and for "cam" without
        a linear head.
        """
        class_ids = np.asarray(class_ids, dtype=np.int64).reshape(len(pixels))
        if self.head is not None and self.cam_method(method).of_head is head_rows:
            return self.head.weights[class_ids]
        return self.forward_cam(pixels, class_ids, method)[1]

    def forward_cam(
        self,
        pixels: NDArray[Any],
        class_ids: NDArray[Any] | None = None,
        method: str = "gradcam",
        maps: bool = False,
    ) -> tuple[ClassifierOutput, Floats]:
        """``forward`` and ``cam_weights`` in one go; without ``class_ids``, of the largest logit."""
        chosen = self.cam_method(method)
        if self.head is not None and chosen.of_head is not None:
            output = self.forward(pixels, maps)
            rows = self.head.weights[_largest_or(class_ids, output)]
            return output, chosen.of_head(rows, output.pooled)
        if chosen.source in ("gradient", "curvature"):
            assert chosen.formula is not None
            output, gradients = self.gradients(
                pixels,
                class_ids,
                frozen=chosen.frozen,
                curvature=chosen.source == "curvature",
            )
            assert output.maps is not None
            weights = chosen.formula(gradients, output.maps)
        else:
            output = self.forward(pixels, maps=True)
            changes = self._changes(pixels, _largest_or(class_ids, output), output, chosen)
            assert chosen.of_changes is not None
            weights = chosen.of_changes(changes)
        return output if maps else replace(output, maps=None), weights

    def gradients(
        self,
        pixels: NDArray[Any],
        class_ids: NDArray[Any] | None = None,
        frozen: bool = False,
        curvature: bool = False,
    ) -> tuple[ClassifierOutput, Floats]:
        """The output with maps, and gradients (B, K, h, w) of one logit an image with respect to its maps.

        Without ``class_ids`` (B,), of the largest logit. ``frozen``: through norms with their scale held.
        ``curvature``: less half the Hessian times the layer's output, as in Shapley-CAM.
        """
        leaves: list[torch.Tensor] = []

        def detach(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            # A fresh start of the graph: nothing in front of the layer is differentiated. The clone allows
            # in-place steps behind the layer.
            leaves.append(output.detach().requires_grad_().clone())
            return leaves[-1]

        norms: AbstractContextManager[list[str]] = frozen_norms(self._module) if frozen else nullcontext([])
        handle = self._module.get_submodule(self.layer).register_forward_hook(detach)
        try:
            with (
                torch.enable_grad(),
                number_format(self.number_format, self.device),
                norms as not_held,
                # The fast kernels of attention have no second derivative.
                sdpa_kernel(SDPBackend.MATH) if curvature else nullcontext(),
            ):
                logits = logits_of(self._module(self._inputs(pixels)))
                ids = (
                    logits.argmax(1) if class_ids is None else torch.as_tensor(class_ids, device=self.device)
                )
                wanted = logits.gather(1, ids[:, None]).sum()
                gradient = torch.autograd.grad(wanted, leaves[-1], create_graph=curvature)[0]
                if curvature:
                    gradient = gradient - 0.5 * _along(gradient, leaves[-1])
        finally:
            handle.remove()
        self._not_held = tuple(not_held)
        found = _array(self._layout.to_maps(gradient))
        result = self._seen(logits, leaves[-1].detach().to(torch.float32), maps=True)
        return result, two_sided(found) if self.two_sided else found

    def norms_not_held(self, method: str) -> tuple[str, ...]:
        """The norms behind the target layer whose scale a method wants held and that cannot be (see
        ``frozen_norms``), in the number format that is set: with one of them contributions do not add up.
        """
        chosen = self.cam_method(method)
        if not chosen.frozen or (self.head is not None and chosen.of_head is not None):
            return ()
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, *self.input_size), np.uint8)
        self.gradients(pixels, frozen=True)
        return self._not_held

    def cam_method(self, name: str) -> CamMethod:
        """The CAM method of this name. Raises ModelError for one that there is not, or not for this head."""
        if name not in METHODS:
            raise ModelError(
                f"unknown CAM method '{name}'", where="cam.method", fix=f"allowed: {', '.join(METHODS)}"
            )
        if METHODS[name].source == "head" and self.head is None:
            raise ModelError(
                "CAM needs a head that is linear in the pooled maps, and this model has another",
                where=f"cam.method, layer {self.layer} of {self.name}",
                fix="use gradcam-frozen or gradcam",
            )
        return METHODS[name]

    def _changes(
        self, pixels: NDArray[Any], class_ids: NDArray[Any], output: ClassifierOutput, method: CamMethod
    ) -> Floats:
        """How a logit changes with each channel (B, K), by passes through the network."""
        assert output.maps is not None
        with torch.inference_mode(), number_format(self.number_format, self.device):
            inputs, ids = self._inputs(pixels), torch.from_numpy(class_ids)
            if method.source == "masking":
                maps = torch.from_numpy(output.maps).to(self.device)
                return _array(score_increases(self._module, inputs, maps, ids))
            layout = self._layout
            return _array(ablation_drops(self._module, self.layer, layout, inputs, ids, self.two_sided))

    def _inputs(self, pixels: NDArray[Any]) -> torch.Tensor:
        return self._preprocess.inputs(pixels, self.device, self.name)


def load_classifier(
    model: str,
    *,
    weights: str | None = None,
    layer: str = "auto",
    class_names: str | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    two_sided: bool | Literal["auto"] = "auto",
    device: str = "cpu",
    seed: int = 0,
) -> TorchClassifier:
    """Load a classifier from a model string and find its target layer.

    ``model``: ``timm:NAME``, ``torchvision:NAME`` or ``python:package.module:function`` (see ``networks``).
    ``weights``: None (the library's pretrained), a file (.safetensors; .pt, .pth or .bin read without running
    code), or "random" from ``seed``. ``layer``: "auto" or a module's name. ``class_names``: a list, a text
    file with one name a line, or a .csv with a column ``name``. ``two_sided``: whether each channel is
    two, rising and falling; "auto" where the layer takes both signs. ``device``: "cpu", "cuda", "cuda:1" ...
    or "auto". Raises ModelError with what, where and how to fix it.
    """
    device = choose_device(device)
    network = build_network(model, weights=weights, options=options, preprocess=preprocess, seed=seed)
    target = find_target(network.module, network.preprocess.size, layer)
    if two_sided != "auto":
        target = replace(target, two_sided=two_sided)
    names = class_names_of(class_names, network.class_names, target.classes)
    return TorchClassifier(model, network.module, network.preprocess, target, names, device)


def _largest_or(class_ids: NDArray[Any] | None, output: ClassifierOutput) -> NDArray[np.int64]:
    """The classes asked for (B,), or those of the largest logits."""
    if class_ids is None:
        return output.logits.argmax(1)
    return np.asarray(class_ids, dtype=np.int64).reshape(len(output.logits))


def _along(gradient: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """The Hessian times the layer's own output, in its layout; zeros where the logit is linear in it."""
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    found = torch.autograd.grad(gradient, leaf, leaf.detach(), allow_unused=True)[0]
    return torch.zeros_like(gradient) if found is None else found


def _array(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).cpu().numpy())
