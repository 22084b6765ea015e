"""How an image is decoded, by runs and by queries alike. Pillow is the reference decoder."""

import io

import numpy as np
from PIL import Image, ImageOps

from store.errors import ImageError

DECODER = "pillow"  # part of the fingerprint of what was extracted
MAX_PIXELS = 100_000_000


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, where: str = "") -> Image.Image:
    """One image, upright (EXIF), as 8-bit RGB.

    16-bit greys are scaled to 8 bits; palettes, CMYK and grey become RGB; transparency is dropped, as the
    training pipelines of the field do. Raises ImageError if the bytes are no image, are cut short, or have
    too many pixels.
    """
    if not data:
        raise ImageError("The image cannot be decoded: the file is empty.", where=where)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ImageError(
                    f"The image has {width} x {height} pixels, more than the limit of {max_pixels}.",
                    where=where,
                )
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":
                grey = np.asarray(image, dtype=np.float64)
                top = 65535.0 if image.mode.startswith("I") else 1.0
                image = Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8))
            return image.convert("RGB")
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image is too large: {error}", where=where) from None
    except Exception as error:  # Pillow's plugins raise nearly every kind of exception on hostile bytes
        reason = (
            "not an image that Pillow knows"
            if isinstance(error, Image.UnidentifiedImageError)
            else str(error)
        )
        raise ImageError(f"The image cannot be decoded: {reason}", where=where) from None
