"""Opens images: files, and the originals of a store where its run found them. Loads no model."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from store.errors import ImageError, QueryError, TextcamError
from store.storage import open_storage

if TYPE_CHECKING:
    from PIL.Image import Image


class SourceImages:
    """Callable: an image's URI as the store has it -> the image, upright, RGB.

    ``section`` is ``images`` of the store's configuration; folders and lists of files only. Raises
    ImageError where the image is gone or damaged, QueryError for other layouts.
    """

    def __init__(self, section: dict[str, Any]) -> None:
        self._section = section

    def __call__(self, uri: str) -> "Image":
        """The original at this URI."""
        section = self._section
        if section.get("format", "folder") not in ("folder", "csv") or "uri" not in section:
            raise QueryError(
                "Images inside archives are not opened here.",
                where=uri,
                fix="Give the image's own file instead.",
            )
        where = f"{section['uri']}/{uri}"
        try:
            return decode(open_storage(section["uri"]).read(uri), where)
        except FileNotFoundError:
            raise ImageError("The image is no longer where the run found it.", where=where) from None
        except ImageError:
            raise
        except TextcamError as error:
            raise ImageError(f"The image cannot be read: {error.what}", where=where) from None


def open_image(image: "str | Path | Image") -> "Image":
    """A file as an image, upright, RGB; an image as it is. ImageError for a file that is missing or no
    image.
    """
    if not isinstance(image, str | Path):
        return image
    try:
        return decode(Path(image).read_bytes(), str(image))
    except OSError as error:
        raise ImageError(f"The file cannot be read: {error.strerror}.", where=image) from None


def decode(data: bytes, where: str) -> "Image":
    """Encoded bytes as an image, upright (EXIF), RGB. ImageError if they are none."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow's plugins raise nearly every kind of exception on hostile bytes
        raise ImageError(f"The image cannot be decoded: {error}", where=where) from None


def view_of(pixels: NDArray[Any], image: "Image") -> NDArray[np.uint8]:
    """(H, W, 3) that shows what a classifier was given as ``pixels`` (3, H, W).

    Where a transform of the user's own gives numbers that cannot be shown, the whole image squeezed to that
    size.
    """
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return np.asarray(image.convert("RGB").resize(pixels.shape[:0:-1]))
