"""Opens images: files, and the originals of a store where its run found them. Loads no model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from store.errors import ImageError, QueryError, TextcamError
from store.storage import open_storage
from textcam.decode import decode

if TYPE_CHECKING:
    from PIL.Image import Image


_OF_FILES = ("folder", "csv")  # layouts in which each image is a file of its own


def root_of(uri: str) -> str:
    """The folder that paths of a source are relative to: the source itself, or that of a list or archive."""
    is_file = uri.lower().endswith((".csv", ".tar", ".parquet"))
    return (uri.rpartition("/")[0] if is_file else uri.rstrip("/")) or "/"


def namings(uris: Sequence[str]) -> list[str]:
    """What stands before a path of each source to make it the image's URI in the store.

    Nothing for the first source: its URIs are relative. A source whose root lies in that of an earlier one is
    named by its place there, so that a file has one URI however it is listed; any other one by its whole
    root.
    """
    made: dict[str, str] = {}  # by root, in order
    for root in map(root_of, uris):
        inside = [naming + below(root, above) for above, naming in made.items() if lies_in(root, above)]
        whole = inside[0] if inside else root if made else ""
        made.setdefault(root, f"{whole}/" if whole and not whole.endswith("/") else whole)
    return [made[root_of(uri)] for uri in uris]


def lies_in(root: str, above: str) -> bool:
    """Whether a folder is another one or lies in it."""
    return root == above or root.startswith(f"{above.rstrip('/')}/")


def below(root: str, above: str) -> str:
    """The way from a folder down to one that lies in it."""
    return root.removeprefix(above).strip("/")


def places(uri: str, names: Sequence[str]) -> list[tuple[int, str]]:
    """Where an image may lie: (number of the source, path in it), the most particular source first."""
    fitting = [at for at in range(len(names)) if uri.startswith(names[at])]
    return [(at, uri[len(names[at]) :]) for at in sorted(fitting, key=lambda at: -len(names[at]))]


def sections_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sections of a store's configuration that say where its images come from."""
    return [config["images"], *config.get("added", ())] if "images" in config else []


class SourceImages:
    """Callable: an image's URI as the store has it -> the image, upright, RGB.

    ``config`` is the store's configuration; folders and lists of files only. Raises ImageError where the
    image is gone or damaged, QueryError for other layouts.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._sections = [one for one in sections_of(config) if "uri" in one]
        self._namings = namings([one["uri"] for one in self._sections])

    def __call__(self, uri: str) -> "Image":
        """The original at this URI."""
        found = [(self._sections[at], path) for at, path in places(uri, self._namings)]
        files = [
            (root_of(one["uri"]), path) for one, path in found if one.get("format", "folder") in _OF_FILES
        ]
        if len(files) < len(found) or not found:  # it may be in an archive: a file of its own is looked for
            files = [(root, path) for root, path in files if _is_there(root, path)]
            if not files:
                raise QueryError(
                    "Images inside archives are not opened here.",
                    where=uri,
                    fix="Give the image's own file instead.",
                )
        root, path = next((one for one in files[:-1] if _is_there(*one)), files[-1])
        where = f"{root}/{path}"
        try:
            return decode(open_storage(root).read(path), where=where)
        except FileNotFoundError:
            raise ImageError("The image is no longer where the run found it.", where=where) from None
        except ImageError:
            raise
        except TextcamError as error:
            raise ImageError(f"The image cannot be read: {error.what}", where=where) from None


def _is_there(root: str, path: str) -> bool:
    try:
        return open_storage(root).exists(path)
    except TextcamError:  # a path that leads through a file, say
        return False


def open_image(image: "str | Path | Image") -> "Image":
    """A file as an image, upright, RGB; an image as it is. ImageError for a file that is missing or no
    image.
    """
    if not isinstance(image, str | Path):
        return image
    try:
        return decode(Path(image).read_bytes(), where=str(image))
    except OSError as error:
        raise ImageError(f"The file cannot be read: {error.strerror}.", where=image) from None


def view_of(pixels: NDArray[Any], image: "Image") -> NDArray[np.uint8]:
    """(H, W, 3) that shows what a classifier was given as ``pixels`` (3, H, W).

    Where a transform of the user's own gives numbers that cannot be shown, the whole image squeezed to that
    size.
    """
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return np.asarray(image.convert("RGB").resize(pixels.shape[:0:-1]))
