"""Opens the original images of a store again, from where its run took them. Loads no model."""

from typing import Any

from PIL import Image

from pipelines.config import ImagesSection
from pipelines.images import ImageRef, decode, plan_shards, read_image
from pipelines.sources import open_source
from store.errors import ImageError
from store.schema import stable_id
from store.storage import Storage

_MAX_BYTES, _MAX_PIXELS = 200_000_000, 100_000_000


class Originals:
    """Callable with ``manifest.config``: an image's URI as the store has it -> the image, upright, RGB.

    Raises ImageError or SourceError where the image, or the place it came from, is gone.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._section = ImagesSection.model_validate(config["images"])
        self._storage: Storage | None = None
        self._planned: dict[str, ImageRef] | None = None

    def __call__(self, uri: str) -> Image.Image:
        """Read and decode one image."""
        if self._storage is None:
            self._storage = open_source(self._section)[0]
        data = read_image(
            self._storage, self._find(uri), bytes_column=self._section.bytes_column, max_bytes=_MAX_BYTES
        )
        return decode(data, max_pixels=_MAX_PIXELS, where=uri)

    def _find(self, uri: str) -> ImageRef:
        if self._section.format in ("folder", "csv"):
            return ImageRef(stable_id(uri), uri, None, uri, None, None, None)
        if self._planned is None:  # members of tars and rows of Parquet files are found by listing them once
            plan = plan_shards(self._section, shard_size=1 << 20)
            self._planned = {ref.uri: ref for shard in plan.shards() for ref in shard.refs()}
        if uri not in self._planned:
            raise ImageError("The image is no longer in its source.", where=f"{self._section.uri}/{uri}")
        return self._planned[uri]
