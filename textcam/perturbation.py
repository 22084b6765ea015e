"""CAM weights by trying: what a class's logit does when a channel masks the image, or is set to zero.

Both need the network K times an image, K channels: hundreds of times the cost of a gradient. Score-CAM pays
for the whole network each time; Ablation-CAM for the part behind the target layer, as the part in front of it
sees one image for a whole chunk of channels. No gradient is taken.
"""

import torch
from torch import nn

from textcam.layout import MapLayout
from textcam.linear_head import logits_of

CHUNK = 64  # channels that are tried in one pass


def score_increases(
    network: nn.Module, inputs: torch.Tensor, maps: torch.Tensor, class_ids: torch.Tensor
) -> torch.Tensor:
    """By how much a logit rises when a grey image shows only what a channel sees (B, K), in logits, signed.

    The channel-wise increase of confidence of Score-CAM (Wang et al. 2020): ``maps`` (B, K, h, w) are
    brought to the size of ``inputs`` (B, 3, H, W) and to 0..1, and multiply them; the baseline is the
    input of zeros, mean grey. A channel whose map is the same everywhere shows nothing and costs nothing.
    """
    blank = logits_of(network(torch.zeros_like(inputs[:1])))[0]
    rows = []
    for image, channels, class_id in zip(inputs, maps, class_ids.tolist(), strict=True):
        increase = torch.zeros(len(channels), device=inputs.device)
        alive = (channels.amax((1, 2)) > channels.amin((1, 2))).nonzero()[:, 0]
        for chunk in alive.split(CHUNK):
            masked = image * _masks(channels[chunk], (image.shape[1], image.shape[2]))
            masked = masked.contiguous(memory_format=torch.channels_last)
            increase[chunk] = logits_of(network(masked))[:, class_id].float() - blank[class_id].float()
        rows.append(increase)
    return torch.stack(rows)


def _masks(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps (K, h, w) as masks (K, 1, H, W) from 0 to 1."""
    large = nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=True)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    return (large - low) / (high - low + 1e-8)


def ablation_drops(
    network: nn.Module,
    layer: str,
    layout: MapLayout,
    inputs: torch.Tensor,
    class_ids: torch.Tensor,
    two_sided: bool = False,
) -> torch.Tensor:
    """By how much a logit falls when a channel's map is set to zero (B, K), in logits, signed.

    The numerator of Ablation-CAM (Desai and Ramaswamy 2020). Class and register tokens are left as they are.
    ``two_sided``: only what is above zero of the first half of channels, and what is below of the second.
    """
    rows = []
    for image, class_id in zip(inputs, class_ids.tolist(), strict=True):
        expected = logits_of(network(image[None]))[0, class_id]
        drops = [
            _drops(network, layer, layout, image[None], channels, class_id, expected, side)
            for side in (("above", "below") if two_sided else ("both",))
            for channels in torch.arange(layout.channels, device=inputs.device).split(CHUNK)
        ]
        rows.append(torch.cat(drops))
    return torch.stack(rows)


def _drops(
    network: nn.Module,
    layer: str,
    layout: MapLayout,
    image: torch.Tensor,
    channels: torch.Tensor,
    class_id: int,
    expected: torch.Tensor,
    side: str,
) -> torch.Tensor:
    """The drops (n,) of some channels of one image (1, 3, H, W).

    One image goes in and the layer gives n + 1: one for each channel and an intact one. Where a
    network cannot go on with that (a path around the layer that is joined to it other than by adding), n + 1
    equal images go in.
    """
    for copies in (1, len(channels) + 1):
        try:
            logits = _ablated(network, layer, layout, image.expand(copies, -1, -1, -1), channels, side)
        except RuntimeError:
            if copies > 1:
                raise
            continue
        if len(logits) != len(channels) + 1:
            continue
        found = logits[:, class_id].float()
        if copies > 1 or bool((found[-1] - expected).abs() <= 1e-3 * logits[-1].abs().amax()):
            break
    return found[-1] - found[:-1]


def _ablated(
    network: nn.Module, layer: str, layout: MapLayout, inputs: torch.Tensor, channels: torch.Tensor, side: str
) -> torch.Tensor:
    """Logits (n + 1, C): row i with channel i of ``channels`` (n,) zeroed, or what of it is above or below
    zero; the last row with all as it is.
    """
    count = len(channels)
    zeroed = {"both": torch.zeros_like, "above": lambda x: x.clamp(max=0), "below": lambda x: x.clamp(min=0)}[
        side
    ]

    def ablate(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        many = output.expand(count + 1, *output.shape[1:]).clone()
        rows = torch.arange(count, device=output.device)
        if layout.axes == "NCHW":
            many[rows, channels] = zeroed(many[rows, channels])
        elif layout.axes == "NHWC":
            many[rows, :, :, channels] = zeroed(many[rows, :, :, channels])
        else:
            many[rows, layout.prefix :, channels] = zeroed(many[rows, layout.prefix :, channels])
        return many

    handle = network.get_submodule(layer).register_forward_hook(ablate)
    try:
        return logits_of(network(inputs))
    finally:
        handle.remove()
