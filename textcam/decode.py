"""How an image is decoded, by runs and by queries alike.

Pillow reads every header, so limits hold before a pixel is decoded. Plain JPEGs, grey or colour, then go
through simplejpeg where it is installed: both rest on libjpeg-turbo and give the same pixels, and simplejpeg
is 1.1 to 3 times as fast. What it refuses, and every other format, goes through Pillow, the reference: so
which files count as images does not depend on the faster decoder.
"""

import io
import re
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from store.errors import ImageError

try:  # a light install, without the extra `precompute`, has Pillow alone
    import simplejpeg
except ImportError:
    simplejpeg = None

# What sources list by suffix, as Pillow calls it ("JPEG" opens MPO as well). Any other plugin stays shut,
# whatever the bytes say: some hand them to a program of the system (EPS to Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000
# A progressive JPEG repeats the whole picture in each scan; encoders write about ten. Thousands in a small
# file keep a decoder busy for minutes.
MAX_SCANS = 200
_MARKER = re.compile(
    rb"\xff[\x01-\xcf\xd8-\xfe]"
)  # of a segment; stuffed bytes and restarts belong to a scan
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_PLAIN = ("RGB", "L")  # JPEG modes that simplejpeg gives as Pillow does; CMYK is left to Pillow
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decoder_name(fast: bool = True) -> str:
    """Names and versions of what decodes here; part of the fingerprint of what was extracted."""
    pillow = f"pillow {version('pillow')}"
    return f"simplejpeg {version('simplejpeg')}, {pillow}" if fast and simplejpeg is not None else pillow


DECODER = decoder_name()


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, where: str = "", fast: bool = True) -> Image.Image:
    """One image, upright (EXIF), as 8-bit RGB. ``fast=False``: by the reference, Pillow, alone.

    16-bit greys are scaled to 8 bits; palettes, CMYK and grey become RGB; transparency is dropped, as the
    training pipelines of the field do. Raises ImageError if the bytes are no image, are cut short, or have
    too many pixels (or scans); limits are checked before anything is decoded.
    """
    if not data:
        raise ImageError("The image cannot be decoded: the file is empty.", where=where)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_limits(opened, data, max_pixels, where)
            pixels = _fast_pixels(opened, data) if fast else None
            if pixels is None:
                return _as_rgb(opened)
            turn = _UPRIGHT.get(opened.getexif().get(_ORIENTATION, 1))
            image = Image.fromarray(pixels)
            return image if turn is None else image.transpose(turn)
    except (ImageError, MemoryError):  # memory that is short is no fault of the image
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image is too large: {error}", where=where) from None
    except Exception as error:  # Pillow's plugins raise nearly every kind of exception on hostile bytes
        reason = (
            "not an image of a known format (JPEG, PNG, WebP, BMP, GIF, TIFF)"
            if isinstance(error, Image.UnidentifiedImageError)
            else str(error)
        )
        raise ImageError(f"The image cannot be decoded: {reason}", where=where) from None


def _check_limits(opened: Image.Image, data: bytes, max_pixels: int, where: str) -> None:
    width, height = opened.size
    if width * height > max_pixels:
        raise ImageError(
            f"The image has {width} x {height} pixels, more than the limit of {max_pixels}.", where=where
        )
    if opened.format in ("JPEG", "MPO") and data.count(_SCAN) > MAX_SCANS and _scans(data) > MAX_SCANS:
        raise ImageError(f"The image has more than {MAX_SCANS} scans, the limit.", where=where)


def _scans(data: bytes) -> int:
    """Scans of a JPEG's first picture, no more than one above the limit; thumbnails and trailers left out."""
    found, at = 0, 2
    while found <= MAX_SCANS and (marker := _MARKER.search(data, at)) and marker.group() != _END:
        found += marker.group() == _SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])  # over the segment
    return found


def _fast_pixels(opened: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """(h, w, 3) of a plain JPEG, not yet upright; None for what is left to Pillow."""
    if simplejpeg is None or opened.format != "JPEG" or opened.mode not in _PLAIN:
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
    except (ValueError, MemoryError):  # a fault of any kind: what becomes of it is for Pillow to say
        return None
    return pixels if pixels.shape[:2] == opened.size[::-1] else None


def _as_rgb(opened: Image.Image) -> Image.Image:
    opened.load()
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else 1.0
        image = Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8))
    return image.convert("RGB")
