"""Reading a module's output as maps: which axes are spatial, and where the class and register tokens are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

MAX_PREFIX_TOKENS = 16
# No rectifier in use goes lower (hardswish: -0.375): a layer with values below it takes both signs.
BELOW_RECTIFIERS = -0.5


def takes_both_signs(output: torch.Tensor) -> bool:
    """Whether a layer's output is that of no rectifier."""
    return bool(output.min() < BELOW_RECTIFIERS)


def sides(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What rises above zero, and what falls below it, both not negative (see ``two_sided``)."""
    return output.clamp(min=0), (-output).clamp(min=0)


@dataclass(frozen=True)
class MapLayout:
    """How a module's output is read as maps (B, K, h, w). ``axes`` is "NCHW", "NHWC" or "NLC" (tokens)."""

    axes: str
    channels: int
    height: int
    width: int
    prefix: int = 0

    def to_maps(self, output: torch.Tensor) -> torch.Tensor:
        """Maps (B, K, h, w), a view where possible; class and register tokens are dropped."""
        if self.axes == "NCHW":
            return output
        if self.axes == "NHWC":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :]
        return tokens.transpose(1, 2).reshape(len(output), self.channels, self.height, self.width)

    def pool(self, output: torch.Tensor) -> torch.Tensor:
        """Pooled activations (B, K): the spatial mean."""
        return self._over_cells(output, torch.mean)

    def total(self, output: torch.Tensor) -> torch.Tensor:
        """Sum over cells (B, K)."""
        return self._over_cells(output, torch.sum)

    def _over_cells(self, output: torch.Tensor, reduce: Callable[..., torch.Tensor]) -> torch.Tensor:
        if self.axes == "NCHW":
            return reduce(output, (2, 3))
        if self.axes == "NHWC":
            return reduce(output, (1, 2))
        return reduce(output[:, self.prefix :], 1)


def read_layout(network: nn.Module, output: torch.Tensor, size: tuple[int, int]) -> MapLayout | None:
    """The layout of an output as maps for inputs of ``size`` (H, W), or None when it has no two spatial axes.

    Channels first is taken where both readings fit, which needs as many channels as rows and columns.
    """
    shape = tuple(output.shape)
    if len(shape) == 4:
        _, a, b, c = shape
        if is_grid(b, c, size):
            return MapLayout("NCHW", a, b, c)
        if is_grid(a, b, size):
            return MapLayout("NHWC", c, a, b)
    if len(shape) == 3:
        known = int(getattr(network, "num_prefix_tokens", 0) or 0)
        for prefix in (known, *range(MAX_PREFIX_TOKENS + 1)):
            grid = _grid_of(shape[1] - prefix, size)
            if grid is not None:
                return MapLayout("NLC", shape[2], *grid, prefix=prefix)
    return None


def is_grid(height: int, width: int, size: tuple[int, int]) -> bool:
    """At least four cells, no finer than every second pixel, in the image's proportions to one cell."""
    if height * width < 4 or height > size[0] // 2 or width > size[1] // 2:
        return False
    return abs(height - width * size[0] / size[1]) < 1


def _grid_of(cells: int, size: tuple[int, int]) -> tuple[int, int] | None:
    for height in range(2, cells // 2 + 1):
        if cells % height == 0 and is_grid(height, cells // height, size):
            return height, cells // height
    return None
