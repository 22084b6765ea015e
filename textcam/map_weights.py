"""Channel weights of a map that another tool drew: which non-negative sum of the activations is it? (ours)

A class activation map is a sum of the layer's maps, so its weights can be had back by non-negative least
squares. With more channels than cells many weights give the same map; the solution then has at most as many
channels as cells, and is one of many. What no sum of these maps can give stays over, and is told as the
residual.
"""

import numpy as np
from scipy.optimize import nnls

from store.errors import ConfigError
from textcam.arrays import Doubles, Floats, as_floats, check_finite


def weights_of_map(saliency_map: Floats, maps: Floats) -> tuple[Floats, float]:
    """Weights (K,) >= 0 that minimise ||sum_j w_j A_j - map||, and that distance over ||map||, 0 to 1.

    ``maps`` (K, h, w). ``saliency_map`` is (h, w), or finer in both axes, as tools draw it: then it and the
    maps, enlarged bilinearly to its size, are compared by their averages over the h x w cells. Raises
    ConfigError for another shape and for a map that is zero everywhere, SchemaMismatch for NaN or infinity.
    """
    maps = as_floats("maps", maps, (None, None, None))
    channels, height, width = maps.shape
    target = as_floats("saliency_map", saliency_map, (None, None))
    if target.shape[0] < height or target.shape[1] < width:
        raise ConfigError(
            f"saliency_map has shape {target.shape}, and the layer's maps are {height} x {width}.",
            where="saliency_map",
            fix="Pass it as (h, w) of the layer, or finer in both axes, over what the classifier sees.",
        )
    check_finite("saliency_map", target)
    wanted, seen = target.astype(np.float64), maps.astype(np.float64)
    if target.shape != (height, width):
        down, right = target.shape
        rows, columns = _averaging(height, down), _averaging(width, right)
        wanted = rows @ wanted @ columns.T
        seen = (rows @ _bilinear(height, down)) @ seen @ (columns @ _bilinear(width, right)).T
    length = float(np.linalg.norm(wanted))
    if length == 0:
        raise ConfigError(
            "saliency_map is zero everywhere.", where="saliency_map", fix="Pass a map that shows something."
        )
    # Both to unit size: the solver's stopping rule is absolute.
    scale = float(np.abs(seen).max()) or 1.0
    columns_of = seen.reshape(channels, -1).T / scale  # (h*w, K)
    found, distance = nnls(columns_of, wanted.ravel() / length, maxiter=10 * channels)
    return (found * (length / scale)).astype(np.float32), min(float(distance), 1.0)


def _averaging(cells: int, pixels: int) -> Doubles:
    """Matrix (cells, pixels): each cell the mean of its stretch of pixels, which may be cut at its ends."""
    edges = np.arange(cells + 1) * (pixels / cells)
    position = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], position + 1) - np.maximum(edges[:-1, None], position)
    shares: Doubles = np.maximum(overlap, 0) * (cells / pixels)
    return shares


def _bilinear(cells: int, pixels: int) -> Doubles:
    """Matrix (pixels, cells) that enlarges between the centres of cells; beyond the outer ones it stays."""
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    weights: Doubles = np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0)
    return weights
