"""A library's image transform, split where pixels are still bytes.

Decoded images cross process borders as uint8: a quarter of the bytes of float32. So a transform is cut into a
part that runs on the PIL image (resize, crop) and the rest (scale to [0, 1], normalise), which runs in
batches on the model's device. The cut is checked on two images when it is made; a transform that cannot be
cut stays whole, and its pixels are float32.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from store.errors import ModelError

OVERRIDES = ("size", "mean", "std", "interpolation", "crop")
TO_TENSOR = (v1.ToTensor, v1.PILToTensor, v2.ToTensor, v2.PILToTensor, v2.ToImage)
# Steps after the border that only change the container or the scale; `split` proves that by comparing
# results.
RESCALE = (v1.ConvertImageDtype, v2.ConvertImageDtype, v2.ToDtype, v2.ToPureTensor)
NORMALISE = (v1.Normalize, v2.Normalize)
LIBRARIES = ("torchvision", "timm", "open_clip")

Transform = Callable[[Image.Image], Any]


@dataclass(frozen=True)
class Preprocess:
    """``prepare`` on one PIL image, then ``normalise`` on a batch: together the library's own transform.

    ``steps`` run on the PIL image. With ``whole`` the transform could not be cut: ``prepare`` gives its
    float32 result and ``normalise`` changes nothing. ``description`` is what enters a model's fingerprint.
    """

    steps: tuple[Transform, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    description: str
    whole: Transform | None = None

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Pixels (3, H, W): uint8, or float32 where the transform could not be cut."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        if self.whole is not None:
            return _as_float(self.whole(image))
        for step in self.steps:
            image = step(image)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    @property
    def blank(self) -> NDArray[Any]:
        """Zeros, as ``prepare`` shapes and types them: they stand in for an image that it refuses."""
        return np.zeros((3, *self.size), np.uint8 if self.whole is None else np.float32)

    @property
    def view_share(self) -> float:
        """The part of an image's shorter side that is kept; 1 where that cannot be told."""
        resized = next(filter(None, map(_shorter_side, self.steps)), min(self.size))
        return min(1.0, min(self.size) / resized)

    def inputs(self, pixels: NDArray[Any], device: torch.device, model: str) -> torch.Tensor:
        """Model input (B, 3, H, W) float32 on ``device`` from stacked pixels as ``prepare`` gives them.

        Raises ModelError, naming the model, on another shape.
        """
        pixels = np.asarray(pixels)
        if pixels.ndim != 4 or pixels.shape[1:] != (3, *self.size):
            raise ModelError(
                f"pixels have shape {pixels.shape}, expected {('B', 3, *self.size)}",
                where=model,
                fix="pass what `prepare` returns, stacked",
            )
        return self.normalise(torch.from_numpy(pixels).to(device))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Model input (B, 3, H, W) float32 from pixels as ``prepare`` gives them, on the pixels' device."""
        if pixels.dtype != torch.uint8:
            return pixels.to(torch.float32)
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


def _shorter_side(step: Transform) -> int | None:
    """What a resize makes of the shorter side, in pixels; None for another step, or a size of both sides."""
    if not isinstance(step, v1.Resize | v2.Resize):
        return None
    sides = step.size if isinstance(step.size, Sequence) else [step.size]
    return int(sides[0]) if len(sides) == 1 else None


def split(transform: Transform, where: str) -> Preprocess:
    """Cut ``transform`` (PIL image -> float tensor (3, H, W)) where the pixels are still uint8.

    Raises ModelError, naming ``where``, when the result's size depends on the image or is not (3, H, W).
    """
    size = _fixed_size(transform, where)
    steps = _flatten(transform)
    border = next((i for i, step in enumerate(steps) if isinstance(step, TO_TENSOR)), None)
    if border is not None:
        rest = steps[border + 1 :]
        norms = [step for step in rest if isinstance(step, NORMALISE)]
        known = all(isinstance(step, RESCALE + NORMALISE) for step in rest)
        if known and len(norms) <= 1:
            mean = _three(norms[0].mean if norms else 0.0)
            std = _three(norms[0].std if norms else 1.0)
            described = " | ".join(_describe(step) for step in steps[:border])
            cut = Preprocess(
                tuple(steps[:border]), mean, std, size, f"{described} | mean {mean} std {std} | {size}"
            )
            if _agrees(cut, transform):
                return cut
    return Preprocess(
        (),
        (0.0,) * 3,
        (1.0,) * 3,
        size,
        f"{_describe(transform)} {_behaviour(transform)} {size}",
        whole=transform,
    )


def build_transform(
    size: int | Sequence[int],
    mean: float | Sequence[float],
    std: float | Sequence[float],
    interpolation: str = "bilinear",
    crop: float = 1.0,
) -> Transform:
    """Shorter side to floor(size / crop), centre crop to size, scale to [0, 1], normalise."""
    height, width = (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))
    resized = math.floor(min(height, width) / crop)
    return v1.Compose(
        [
            v1.Resize(resized, interpolation=_interpolation(interpolation)),
            v1.CenterCrop((height, width)),
            v1.ToTensor(),
            v1.Normalize(mean=list(_three(mean)), std=list(_three(std))),
        ]
    )


def check_overrides(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's overrides as a plain dict; raises ModelError for a key outside OVERRIDES."""
    given = dict(overrides or {})
    unknown = sorted(set(given) - set(OVERRIDES))
    if unknown:
        raise ModelError(
            f"unknown preprocessing key '{unknown[0]}'",
            where="preprocess",
            fix=f"allowed: {', '.join(OVERRIDES)}",
        )
    for key in ("mean", "std"):
        if key in given:
            given[key] = _three(given[key])
    return given


def _flatten(transform: Any) -> list[Any]:
    if isinstance(transform, v1.Compose | v2.Compose):
        return [step for inner in transform.transforms for step in _flatten(inner)]
    if isinstance(transform, torch.nn.Sequential):
        return [step for inner in transform for step in _flatten(inner)]
    if isinstance(transform, ImageClassification):
        return [
            v1.Resize(
                transform.resize_size, interpolation=transform.interpolation, antialias=transform.antialias
            ),
            v1.CenterCrop(transform.crop_size),
            v1.ToTensor(),
            v1.Normalize(mean=transform.mean, std=transform.std),
        ]
    return [transform]


def _interpolation(name: str) -> v1.InterpolationMode:
    try:
        return v1.InterpolationMode(name.lower())
    except ValueError:
        allowed = ", ".join(mode.value for mode in v1.InterpolationMode)
        raise ModelError(
            f"unknown interpolation '{name}'", where="preprocess.interpolation", fix=f"allowed: {allowed}"
        ) from None


def _probe_images() -> list[Image.Image]:
    """Two images of different shape with structure at every scale, the same in every process."""
    generator = np.random.default_rng(0)
    shapes = ((211, 307), (389, 263))
    images = []
    for height, width in shapes:
        coarse = Image.fromarray(generator.integers(0, 256, (13, 17, 3), dtype=np.uint8)).resize(
            (width, height)
        )
        noise = generator.integers(-40, 41, (height, width, 3))
        images.append(Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)))
    return images


def _fixed_size(transform: Transform, where: str) -> tuple[int, int]:
    try:
        shapes = [_as_float(transform(image)).shape for image in _probe_images()]
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"the image transform fails on an RGB image: {error}",
            where=where,
            fix="it takes a PIL image and returns a float tensor (3, H, W)",
        ) from error
    if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[0][0] != 3:
        raise ModelError(
            f"the image transform gives {shapes[0]} and {shapes[1]} for two images",
            where=where,
            fix="it must give (3, H, W) with one H and W for all images: add a resize and a centre crop",
        )
    return int(shapes[0][1]), int(shapes[0][2])


def _as_float(result: Any) -> NDArray[np.float32]:
    array = result.detach().cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)
    return np.ascontiguousarray(array, dtype=np.float32)


def _agrees(cut: Preprocess, transform: Transform) -> bool:
    for image in _probe_images():
        try:
            pixels = torch.from_numpy(cut.prepare(image))[None]
        except (TypeError, ValueError, AttributeError):
            return False
        if not np.allclose(cut.normalise(pixels)[0].numpy(), _as_float(transform(image)), rtol=0, atol=1e-5):
            return False
    return True


def _describe(step: Any) -> str:
    """A step as text that is the same in every process.

    The libraries' own steps say all about themselves; others are known by what they do.
    """
    text = re.sub(r" at 0x[0-9a-f]+", "", re.sub(r"\s+", " ", repr(step)))
    library = type(step).__module__.partition(".")[0] in LIBRARIES
    return text if library and not isinstance(step, v1.Lambda | v2.Lambda) else f"{text} {_behaviour(step)}"


def _behaviour(step: Transform) -> str:
    """Hash of what a step does to the probe images, to 1/256: the last bits of a float play no part."""
    digest = hashlib.sha256()
    for image in _probe_images():
        result = step(image)
        array = np.asarray(result) if isinstance(result, Image.Image) else np.round(_as_float(result) * 256)
        digest.update(repr(array.shape).encode() + array.astype(np.int32).tobytes())
    return digest.hexdigest()[:16]


def _three(value: Any) -> tuple[float, ...]:
    numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    if numbers.size not in (1, 3) or not np.isfinite(numbers).all():
        raise ModelError(
            f"mean and std take one number or three, not {value!r}",
            where="preprocess",
            fix="for instance 0.5",
        )
    return tuple(float(number) for number in np.broadcast_to(numbers, 3))
