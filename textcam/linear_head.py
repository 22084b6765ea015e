"""Is the head linear on pooled maps? Asked by experiment: swap the map and compare the logits.

When logits = W mean(map) + bias for arbitrary maps, channel contributions W_cj a_j add up to the logit minus
its bias. W and bias are taken from the module that holds them where one fits, so that they are exact;
otherwise (a batch norm between pooling and linear layer, two heads averaged) they come from the slopes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from store.errors import ModelError
from textcam.layout import MapLayout

TOLERANCE = 1e-4  # largest |error| of the logits over their largest deviation from the bias


@dataclass(frozen=True)
class HeadWeights:
    """``weights`` (C, K) and ``bias`` (C,) of logits = weights a + bias, float32 on the model's device."""

    weights: torch.Tensor
    bias: torch.Tensor


def logits_of(output: Any) -> torch.Tensor:
    """The logits (B, C) in what a model returns.

    A tensor, an object with ``logits``, or a tuple that starts with them.
    """
    if not isinstance(output, torch.Tensor):
        output = getattr(
            output, "logits", output[0] if isinstance(output, tuple | list) and output else output
        )
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"the model returns {shape}, not logits (B, C)",
            where="classifier.model",
            fix="use a classification model; wrap yours in a module that returns the logits",
        )
    return output


def find_linear_head(
    network: nn.Module, inputs: torch.Tensor, layer: str, layout: MapLayout, classes: int
) -> HeadWeights | None:
    """Weights and bias if the logits are linear in the pooled map of ``layer``, for arbitrary maps.

    Else None.
    """
    with torch.enable_grad():
        swapped, logits = _swapped(network, inputs, layer, seed=1, differentiable=True)
        slope = torch.autograd.grad(logits[:, 0].sum(), swapped, retain_graph=True, allow_unused=True)[0]
    if slope is None or not _same_everywhere(layout.to_maps(slope)):
        return None
    trials = [(layout.pool(swapped.detach()), logits.detach())]
    with torch.no_grad():
        for seed in (2, 3):
            other, other_logits = _swapped(network, inputs, layer, seed=seed, differentiable=False)
            trials.append((layout.pool(other), other_logits))
    for head in _linear_modules(network, classes, layout.channels):
        if _fits(head, trials):
            return head
    head = _from_slopes(swapped, logits, layout)
    return head if _fits(head, trials) else None


def measure_head(network: nn.Module, inputs: torch.Tensor, layer: str, layout: MapLayout) -> HeadWeights:
    """Weights and bias of a head that is known to be linear, from the slopes of its logits."""
    with torch.enable_grad():
        return _from_slopes(*_swapped(network, inputs, layer, seed=1, differentiable=True), layout)


def is_class_map(head: HeadWeights) -> bool:
    """Whether the channels are the classes themselves: the logits are a multiple of the pooled map."""
    classes, channels = head.weights.shape
    if classes != channels:
        return False
    scale = head.weights.diagonal().mean()
    identity = torch.eye(classes, device=head.weights.device) * scale
    return bool((head.weights - identity).abs().amax() <= 1e-3 * scale.abs())


def _swapped(
    network: nn.Module, inputs: torch.Tensor, layer: str, *, seed: int, differentiable: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass with the layer's output replaced by noise: the noise in the layer's own layout, and the logits
    (B, C).

    The noise has both signs, so that a ReLU after the layer shows, and another scale for each seed.
    """
    used: list[torch.Tensor] = []

    def swap(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        scale = seed * output.detach().square().mean().sqrt().clamp_min(1e-3)
        noise = scale * torch.randn(output.shape, generator=generator).to(output)
        # A clone, so that an in-place step after the layer is allowed on it and is part of what is read.
        used.append(noise.requires_grad_(differentiable).clone())
        return used[-1]

    handle = network.get_submodule(layer).register_forward_hook(swap)
    try:
        logits = logits_of(network(inputs))
    finally:
        handle.remove()
    return used[-1], logits


def _same_everywhere(slope: torch.Tensor) -> bool:
    """Whether a logit's slope (B, K, h, w) is the same in all cells and inputs, as for mean and linear layer.

    A cheap first sieve: most layers in the middle of a network fall through here.
    """
    scale = slope.abs().amax()
    spread = (slope - slope.mean((0, 2, 3), keepdim=True)).abs().amax()
    return bool(scale > 0) and bool(spread <= TOLERANCE * scale)


def _linear_modules(network: nn.Module, classes: int, channels: int) -> Iterator[HeadWeights]:
    """Weights and biases of all linear layers and 1x1 convolutions of the right size, last first."""
    for module in reversed(list(network.modules())):
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.Linear | nn.Conv2d) or weight is None:
            continue
        if weight.shape[0] == classes and weight[0].numel() == channels:
            bias = module.bias if module.bias is not None else weight.new_zeros(classes)
            yield HeadWeights(weight.detach().reshape(classes, channels), bias.detach())


def _fits(head: HeadWeights, trials: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    for pooled, logits in trials:
        deviation = (logits - head.bias).abs().amax()
        error = (pooled @ head.weights.T + head.bias - logits).abs().amax()
        if not bool(error <= TOLERANCE * deviation):
            return False
    return True


def _from_slopes(swapped: torch.Tensor, logits: torch.Tensor, layout: MapLayout) -> HeadWeights:
    """d logit / d pooled activation, one class at a time: the slopes of a channel's cells, summed."""
    rows = [
        layout.total(torch.autograd.grad(logits[0, index], swapped, retain_graph=True)[0][:1])[0]
        for index in range(logits.shape[1])
    ]
    weights = torch.stack(rows).detach()
    bias = (logits.detach() - layout.pool(swapped.detach()) @ weights.T).mean(0)
    return HeadWeights(weights, bias)
