"""Opens the original images of a store again, from where its run took them. Loads no model."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from PIL import Image

from pipelines.config import ImagesSection
from pipelines.images import cut
from pipelines.reading import ImageReader, ImageRef
from pipelines.sources import list_source, named
from store.errors import ImageError
from store.schema import stable_id
from store.storage import Storage, open_storage
from textcam.decode import decode
from textcam.source_images import namings, places, root_of, sections_of

_MAX_BYTES, _MAX_PIXELS = 200_000_000, 100_000_000


class Originals:
    """Callable with ``manifest.config``: an image's URI as the store has it -> the image, upright, RGB.

    Raises ImageError or SourceError where the image, or the place it came from, is gone.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._sections = [ImagesSection.model_validate(one) for one in sections_of(config)]
        self._uris = [one.uri for one in self._sections]
        self._namings = namings(self._uris)
        self._listed: dict[int, dict[str, ImageRef]] = {}

    @cached_property
    def _sources(self) -> list[tuple[Storage, ImagesSection]]:
        return [(open_storage(root_of(one.uri)), one) for one in self._sections]

    @cached_property
    def _read(self) -> ImageReader:
        return ImageReader(self._sources, _MAX_BYTES)

    def __call__(self, uri: str) -> Image.Image:
        """Read and decode one image."""
        return decode(self._read(self._find(uri)), max_pixels=_MAX_PIXELS, where=uri)

    def _find(self, uri: str) -> ImageRef:
        found = places(uri, self._namings)
        for source, path in found:
            if self._sections[source].format in ("folder", "csv"):
                if len(found) == 1 or self._sources[source][0].exists(path):
                    return ImageRef(stable_id(uri), uri, None, path, None, None, None, source)
            elif uri in self._members(source):
                return self._members(source)[uri]
        raise ImageError("The image is no longer in its source.", where=f"{self._uris[0]}/{uri}")

    def _members(self, source: int) -> dict[str, ImageRef]:
        """Members of tars and rows of Parquet files by URI, found by listing them once."""
        if source not in self._listed:
            rows = named(list_source(self._sections[source], stamps=False), source, self._uris)
            shards = cut(rows, max(1, rows.num_rows), None).shards()
            self._listed[source] = {ref.uri: ref for shard in shards for ref in shard.refs()}
        return self._listed[source]
