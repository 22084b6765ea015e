"""Opens the original images of a store again, from where its run took them. Loads no model."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from pipelines.config import ImagesSection
from pipelines.images import ImageRef, cut, read_image
from pipelines.sources import list_source, named, open_source
from store.errors import ImageError
from store.schema import stable_id
from store.storage import Storage
from textcam.decode import decode
from textcam.source_images import namings, places, sections_of

_MAX_BYTES, _MAX_PIXELS = 200_000_000, 100_000_000


class Originals:
    """Callable with ``manifest.config``: an image's URI as the store has it -> the image, upright, RGB.

    Raises ImageError or SourceError where the image, or the place it came from, is gone.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._sections = [ImagesSection.model_validate(one) for one in sections_of(config)]
        self._uris = [one.uri for one in self._sections]
        self._namings = namings(self._uris)
        self._storages: dict[int, Storage] = {}
        self._listed: dict[int, dict[str, ImageRef]] = {}

    def __call__(self, uri: str) -> Image.Image:
        """Read and decode one image."""
        ref = self._find(uri)
        section = self._sections[ref.source]
        if ref.source not in self._storages:
            self._storages[ref.source] = open_source(section)[0]
        data = read_image(
            self._storages[ref.source], ref, bytes_column=section.bytes_column, max_bytes=_MAX_BYTES
        )
        return decode(data, max_pixels=_MAX_PIXELS, where=uri)

    def _find(self, uri: str) -> ImageRef:
        for source, path in places(uri, self._namings):
            if self._sections[source].format in ("folder", "csv"):
                return ImageRef(stable_id(uri), uri, None, path, None, None, None, source)
            if uri in self._members(source):
                return self._members(source)[uri]
        raise ImageError("The image is no longer in its source.", where=f"{self._uris[0]}/{uri}")

    def _members(self, source: int) -> dict[str, ImageRef]:
        """Members of tars and rows of Parquet files by URI, found by listing them once."""
        if source not in self._listed:
            rows = named(list_source(self._sections[source]), source, self._uris)
            shards = cut(rows, max(1, rows.num_rows), None).shards()
            self._listed[source] = {ref.uri: ref for shard in shards for ref in shard.refs()}
        return self._listed[source]
