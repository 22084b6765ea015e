"""Finding the target layer of a network by looking at what flows, not at names.

A tiny forward pass records the output of every module. An output is a *map* when it has two spatial axes: (B,
K, h, w), (B, h, w, K) or tokens (B, prefix + h*w, K). The target is the last map that the logits depend on
and that is not itself a map of classes. Its layout is known from the shapes; the order of tokens is checked
by changing one quarter of the image and seeing where the map moves. The head is linear when swapping the map
for arbitrary numbers gives logits = W mean(map) + bias: that is tested, never assumed from the architecture
(ours).
"""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import nn

from store.errors import ModelError
from textcam.layout import MapLayout, read_layout, takes_both_signs
from textcam.linear_head import HeadWeights, find_linear_head, is_class_map, logits_of, measure_head

ATTENTION = re.compile("attention|attn", re.IGNORECASE)
ORDER_MARGIN = 0.1  # in logarithms of a product of four movements


@dataclass(frozen=True)
class TargetLayer:
    """The layer whose maps are explained; ``head`` where logits (B, ``classes``) = head(pooled), tested.

    ``two_sided``: its channels take both signs.
    """

    name: str
    layout: MapLayout
    head: HeadWeights | None
    classes: int
    two_sided: bool = False


@dataclass(frozen=True)
class Record:
    """One module's output in the probing pass; ``version`` counts in-place changes up to that moment."""

    name: str
    module: nn.Module
    tensor: torch.Tensor
    version: int


def find_target(network: nn.Module, size: tuple[int, int], layer: str = "auto") -> TargetLayer:
    """The target layer of ``network`` for inputs (B, 3, H, W) with ``size`` = (H, W), and its head.

    ``layer`` is "auto" or a module's name as in ``named_modules``. Raises ModelError that lists candidates
    when the name is wrong, when its output is not a map, or when no layer qualifies.
    """
    device = next(network.parameters()).device
    inputs = _probe_inputs(size).to(device)
    with _nothing_zero(network) as filled:
        records, logits = _record(network, inputs)
        candidates = _candidates(network, records, size)
        gradients = _gradients(logits, [record.tensor for record, _ in candidates])
        if layer != "auto":
            target = _named_target(network, inputs, layer, records, candidates, logits)
        else:
            target = _last_target(network, inputs, candidates, gradients, logits)
    if target.head is not None and filled:
        head = find_linear_head(network, inputs, target.name, target.layout, target.classes)
        target = replace(target, head=head or measure_head(network, inputs, target.name, target.layout))
    with torch.no_grad(), captured(network, target.name) as outputs:
        network(inputs)
    return replace(target, two_sided=takes_both_signs(target.layout.to_maps(outputs[-1])))


def _named_target(
    network: nn.Module,
    inputs: torch.Tensor,
    layer: str,
    records: list[Record],
    candidates: list[tuple[Record, MapLayout]],
    logits: torch.Tensor,
) -> TargetLayer:
    modules = dict(network.named_modules())
    if layer not in modules:
        close = difflib.get_close_matches(layer, [name for name in modules if name], n=3)
        raise ModelError(
            f"the model has no layer '{layer}'" + (f"; did you mean {' or '.join(close)}?" if close else ""),
            where="classifier.layer",
            fix=_listing(candidates),
        )
    outputs = [record for record in records if record.name == layer]
    if not outputs:
        raise ModelError(
            f"layer '{layer}' gives no tensor in a forward pass",
            where="classifier.layer",
            fix=_listing(candidates),
        )
    layout = read_layout(network, outputs[-1].tensor, (inputs.shape[-2], inputs.shape[-1]))
    if layout is None:
        raise ModelError(
            f"the output of layer '{layer}' has shape {tuple(outputs[-1].tensor.shape)}, which is not a map",
            where="classifier.layer",
            fix=_listing(candidates),
        )
    classes = logits.shape[1]
    return TargetLayer(layer, layout, find_linear_head(network, inputs, layer, layout, classes), classes)


def _last_target(
    network: nn.Module,
    inputs: torch.Tensor,
    candidates: list[tuple[Record, MapLayout]],
    gradients: list[torch.Tensor | None],
    logits: torch.Tensor,
) -> TargetLayer:
    classes = logits.shape[1]
    class_maps = False
    inner = _inside_attention(network)
    for (record, layout), gradient in zip(reversed(candidates), reversed(gradients), strict=True):
        if gradient is None or (class_maps and layout.channels == classes):
            continue
        if record.name in inner or not bool(layout.to_maps(gradient).abs().amax() > 0):
            continue
        head = find_linear_head(network, inputs, record.name, layout, classes)
        if head is not None and is_class_map(head):
            class_maps = True
            continue
        if head is None and _is_step(record.module, layout):
            continue
        if layout.axes == "NLC" and not _in_order(network, inputs, record.name, layout):
            continue
        return TargetLayer(record.name, layout, head, classes)
    raise ModelError(
        "no layer of this model gives spatial maps that its logits depend on",
        where="classifier.layer: auto",
        fix=_listing(candidates),
    )


@torch.no_grad()
def _in_order(network: nn.Module, inputs: torch.Tensor, name: str, layout: MapLayout) -> bool:
    """Whether tokens can lie in raster order: change each quarter of the image, see which of the map move.

    Attention moves everything a little, some cells more than others, some changes more than others. So
    what counts is the one-to-one match between changed and moved quarters, by the product of the
    movements, in which such factors cancel. Another match that is clearly better than the identity
    refutes the order; where untrained attention spreads everything evenly, nothing does.
    """
    height, width = inputs.shape[-2:]
    changed = inputs[:1].repeat(4, 1, 1, 1)
    for image, (rows, columns) in zip(changed, _quarters(height, width), strict=True):
        area = image[:, rows, columns]
        area.copy_(area.flip(-1) + 0.5)
    with captured(network, name) as outputs:
        network(torch.cat([inputs[:1], changed]))
    maps = layout.to_maps(outputs[-1])
    moved = (maps[1:] - maps[:1]).square().sum(1)  # (4, h, w)
    quarters = [
        moved[:, rows, columns].sum((1, 2)) for rows, columns in _quarters(layout.height, layout.width)
    ]
    log = torch.stack(quarters, dim=1).clamp_min(1e-30).log()
    matches = {match: float(sum(log[i, j] for i, j in enumerate(match))) for match in permutations(range(4))}
    return max(matches.values()) - matches[0, 1, 2, 3] < ORDER_MARGIN


def _quarters(height: int, width: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the four corners, which leave out the middle of odd sizes."""
    rows = (slice(0, height // 2), slice(height - height // 2, height))
    columns = (slice(0, width // 2), slice(width - width // 2, width))
    return [(row, column) for row in rows for column in columns]


@contextmanager
def captured(network: nn.Module, name: str) -> Iterator[list[torch.Tensor]]:
    """Collects the outputs of one layer.

    Read them after the forward pass: in-place steps may still change them.
    """
    outputs: list[torch.Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(lambda _m, _i, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def _record(network: nn.Module, inputs: torch.Tensor) -> tuple[list[Record], torch.Tensor]:
    """All modules' outputs in the order in which they were finished, and the logits (B, C), with graph.

    Outputs that do not depend on the input (position embeddings) are left out.
    """
    records: list[Record] = []

    def hook(name: str) -> Any:
        def record(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.requires_grad and len(output) == len(inputs):
                records.append(Record(name, module, output, output._version))

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in network.named_modules() if name]
    try:
        with torch.enable_grad():
            logits = logits_of(network(inputs.clone().requires_grad_()))
    finally:
        for handle in handles:
            handle.remove()
    return records, logits


def _candidates(
    network: nn.Module, records: list[Record], size: tuple[int, int]
) -> list[tuple[Record, MapLayout]]:
    """Distinct maps in the order of the forward pass, each under one name.

    Nested modules hand on one tensor, and in-place steps change it. Of the records of a tensor only those
    after its last change are true of it; among these the outermost module around the one that made it gives
    the name.
    """
    by_tensor: dict[int, list[Record]] = {}
    for record in records:
        by_tensor.setdefault(id(record.tensor), []).append(record)
    found = {}
    for group in by_tensor.values():
        latest = max(record.version for record in group)
        current = [record for record in group if record.version == latest]
        maker = current[0].name
        around = [record for record in current if maker == record.name or maker.startswith(record.name + ".")]
        layout = read_layout(network, around[-1].tensor, size)
        if layout is not None:
            found[id(around[-1])] = (around[-1], layout)
    # An in-place step late in the pass may have remade an early tensor: the order is that of the last change.
    return [found[id(record)] for record in records if id(record) in found]


def _gradients(logits: torch.Tensor, tensors: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """Gradients of a random projection of the logits with respect to each tensor.

    None where there is no path.
    """
    if not tensors:
        return []
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(logits.shape, generator=generator).to(logits.device)
    return list(torch.autograd.grad((logits * projection).sum(), tensors, allow_unused=True))


def _is_step(module: nn.Module, layout: MapLayout) -> bool:
    """Parts of a larger step, poorer targets than their surroundings.

    A projection of tokens, a fixed pooling.
    """
    return isinstance(module, nn.AdaptiveAvgPool2d) or (
        layout.axes == "NLC" and isinstance(module, nn.Linear)
    )


def _inside_attention(network: nn.Module) -> set[str]:
    """Names below an attention module: its queries, keys and weights look like maps and are none."""
    tops = [
        name for name, module in network.named_modules() if name and ATTENTION.search(type(module).__name__)
    ]
    names = [name for name, _ in network.named_modules()]
    return {name for name in names for top in tops if name == top or name.startswith(top + ".")}


def _probe_inputs(size: tuple[int, int]) -> torch.Tensor:
    """Two unlike inputs (2, 3, H, W): smooth blobs, and blobs under noise.

    Normalised pixels are of this size.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((2, 3, 5, 7), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    smooth[1] = 0.5 * smooth[1] + torch.randn((3, *size), generator=generator)
    return smooth


@contextmanager
def _nothing_zero(network: nn.Module) -> Iterator[bool]:
    """Parameters that are all zero (fresh heads, fresh residual scales) hide paths; fill them while probing.

    Gives whether any were filled.
    """
    generator = torch.Generator().manual_seed(0)
    zeros = [p for p in network.parameters() if p.ndim > 0 and p.numel() > 0 and not bool(p.any())]
    with torch.no_grad():
        for parameter in zeros:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    try:
        yield bool(zeros)
    finally:
        with torch.no_grad():
            for parameter in zeros:
                parameter.zero_()


def _listing(candidates: list[tuple[Record, MapLayout]], count: int = 12) -> str:
    if not candidates:
        return "none of its layers gives a spatial map for this input size; choose another model"
    lines = [f"{r.name} ({m.channels} x {m.height} x {m.width})" for r, m in candidates[-count:]]
    return "set `layer` to one of its maps, last first: " + ", ".join(reversed(lines))
