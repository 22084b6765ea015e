"""Gradients through a norm as if its scale were a constant (the use of this rule here is ours).

A layer norm divides by the size of its own input, so scaling the input changes nothing, and gradient times
activation adds up to zero: the contributions of a ConvNeXt, with its norm between pooling and linear layer,
would tell directions and hide amounts. With the scale held at its value for this image, norm and linear layer
are one linear map, and contributions add up to the logit minus what the biases of norm and layer give.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

RMS_NAMES = ("RMSNorm", "RmsNorm", "RmsNorm2d", "LayerNormRms")


@contextmanager
def frozen_norms(network: nn.Module) -> Iterator[list[str]]:
    """Within it, layer and RMS norms keep their outputs and pass gradients with their scale held.

    Gives the names, filled as the network runs, of norms through which a gradient went as it does by itself:
    those of other kinds (group norms, say), and those whose output this file cannot reproduce.
    """
    others: list[str] = []
    handles = [
        module.register_forward_hook(partial(_hold_or_name, others, name))
        for name, module in network.named_modules()
        if _divides_by_its_input(module)
    ]
    try:
        yield others
    finally:
        for handle in handles:
            handle.remove()


def _divides_by_its_input(module: nn.Module) -> bool:
    """Whether a module is a norm, by its kind or its name; batch norms divide by what they learnt."""
    if isinstance(module, nn.LayerNorm | nn.GroupNorm):
        return True
    leaf = next(module.children(), None) is None
    return leaf and "norm" in type(module).__name__.lower() and not isinstance(module, _BatchNorm)


def _hold_or_name(
    others: list[str], name: str, module: Any, inputs: tuple[Any, ...], output: Any
) -> Tensor | None:
    given = inputs[0] if inputs else None
    if not isinstance(given, Tensor) or not given.requires_grad:
        return None  # in front of the target layer, where nothing is differentiated
    known = isinstance(module, nn.LayerNorm) or type(module).__name__ in RMS_NAMES
    held = _held(module, given, output) if known and isinstance(output, Tensor) else None
    if held is None and name not in others:
        others.append(name)
    return held


def _held(module: Any, given: Tensor, output: Tensor) -> Tensor | None:
    """The same output with another gradient; None where the copy is not like the output.

    The copy is computed in float32, whatever the number format, and may differ from the output by what the
    coarser format of input and output rounds.
    """
    channels_first = type(module).__name__.endswith("2d") and given.ndim == 4
    over = (1,) if channels_first else tuple(range(-len(module.normalized_shape), 0))
    shape = (1, -1, 1, 1) if channels_first else module.normalized_shape
    eps = module.eps if module.eps is not None else torch.finfo(given.dtype).eps
    with torch.autocast(given.device.type, enabled=False):
        x = given.float()
        centred = x - x.mean(over, keepdim=True) if isinstance(module, nn.LayerNorm) else x
        held = centred * (centred.detach().square().mean(over, keepdim=True) + eps).rsqrt()
        if module.weight is not None:
            held = held * module.weight.float().view(shape)
        if getattr(module, "bias", None) is not None:
            held = held + module.bias.float().view(shape)
    tolerance = max(1e-4, 2 * torch.finfo(given.dtype).eps, 2 * torch.finfo(output.dtype).eps)
    difference = (held - output.float()).detach().abs().amax()
    if not bool(difference <= tolerance * output.detach().abs().amax()):
        return None
    return output.detach() + (held - held.detach()).to(output.dtype)
