"""Gradients through a norm as if its scale were a constant (the use of this rule here is ours).

A layer norm divides by the size of its own input, so scaling the input changes nothing, and gradient times
activation adds up to zero: the contributions of a ConvNeXt, with its norm between pooling and linear layer,
would tell directions and hide amounts. With the scale held at its value for this image, norm and linear layer
are one linear map, and contributions add up to the logit minus what the biases of norm and layer give.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

RMS_NAMES = ("RMSNorm", "RmsNorm", "RmsNorm2d", "LayerNormRms")


@contextmanager
def frozen_norms(network: nn.Module) -> Iterator[None]:
    """Within it, layer and RMS norms keep their outputs and pass gradients with their scale held.

    A norm whose output this file cannot reproduce keeps its own gradient.
    """
    handles = [
        module.register_forward_hook(_hold_scale)
        for module in network.modules()
        if isinstance(module, nn.LayerNorm) or type(module).__name__ in RMS_NAMES
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hold_scale(module: Any, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
    x = inputs[0]
    if not isinstance(x, Tensor) or not x.requires_grad:
        return None  # in front of the target layer, where nothing is differentiated
    channels_first = type(module).__name__.endswith("2d") and x.ndim == 4
    over = (1,) if channels_first else tuple(range(-len(module.normalized_shape), 0))
    centred = x - x.mean(over, keepdim=True) if isinstance(module, nn.LayerNorm) else x
    eps = module.eps if module.eps is not None else torch.finfo(x.dtype).eps
    scale = (centred.detach().square().mean(over, keepdim=True) + eps).rsqrt()
    held = centred * scale
    shape = (1, -1, 1, 1) if channels_first else module.normalized_shape
    if module.weight is not None:
        held = held * module.weight.view(shape)
    if getattr(module, "bias", None) is not None:
        held = held + module.bias.view(shape)
    faithful = (held - output).detach().abs().amax() <= 1e-4 * output.detach().abs().amax()
    return held if bool(faithful) else None
