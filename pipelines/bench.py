"""The bench: what one worker holds, and the keys of the work done on it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from pipelines.config import Config, ImagesSection, ModelName
from pipelines.execute import Decoders
from pipelines.reading import ImageReader
from store.schema import Dims, Table, tables
from store.storage import Storage, open_storage
from textcam.classifier import TorchClassifier, load_classifier
from textcam.decode import DECODER
from textcam.device import use_threads, with_room
from textcam.encoder import ClipEncoder, load_encoder
from textcam.source_images import root_of

T = TypeVar("T")

# Raised by a change that gives other numbers from the same inputs: old work is then done anew.
METHOD = 1


class Bench:
    """What one worker holds: the models and the storages, each opened on first use."""

    def __init__(
        self, config: Config, labels: dict[str, int] | None = None, decoders: Decoders | None = None
    ) -> None:
        self.config = config
        self.labels = labels or {}
        self.decoders = decoders
        self.cam_doubts: tuple[str, ...] = ()  # what a run has to say of its CAMs
        self._room = config.run.batch_size

    @cached_property
    def classifier(self) -> TorchClassifier:
        """The classifier to explain."""
        section = self.config.classifier
        self._use_threads()
        loaded = load_classifier(
            section.model,
            weights=section.weights,
            layer=section.layer,
            class_names=section.class_names,
            two_sided=section.two_sided,
            options=dict(section.options),
            preprocess=section.preprocess,
            device=self.config.run.device,
        )
        self._set_up(loaded, "classifier")
        return loaded

    @cached_property
    def encoder(self) -> ClipEncoder:
        """The CLIP model that gives images and texts one space."""
        section = self.config.encoder
        self._use_threads()
        loaded = load_encoder(
            section.model,
            weights=section.weights,
            options=dict(section.options),
            preprocess=section.preprocess,
            device=self.config.run.device,
        )
        self._set_up(loaded, "encoder")
        return loaded

    def _set_up(self, model: TorchClassifier | ClipEncoder, name: ModelName) -> None:
        """In the run's number format (float32 until one is decided), compiled where the run wants it."""
        wanted = self.config.run.format_of(name)
        model.number_format = "float32" if wanted == "auto" else wanted
        if self.config.run.compile:
            model.compile()

    def use_formats(self, formats: Mapping[ModelName, str]) -> None:
        """Go on with the number formats that were decided."""
        self.config = self.config.model_copy(update={"run": self.config.run.with_formats(formats)})
        for name in formats:
            if name in vars(self):  # it is loaded
                getattr(self, name).number_format = formats[name]

    def use_sides(self) -> None:
        """Say in the configuration what was found of the layer's signs: the store remembers it."""
        section = self.config.classifier.model_copy(update={"two_sided": self.classifier.two_sided})
        self.config = self.config.model_copy(update={"classifier": section})

    @cached_property
    def sources(self) -> list[tuple[Storage, ImagesSection]]:
        """Where the images lie, by number of the source. One that is gone shows when an image is read."""
        sections = (self.config.images, *self.config.added)
        return [(open_storage(root_of(one.uri)), one) for one in sections]

    @cached_property
    def reader(self) -> ImageReader:
        """Reads images from their sources."""
        return ImageReader(self.sources, self.config.run.max_bytes)

    @cached_property
    def store(self) -> Storage:
        """Where the store is written."""
        return open_storage(self.config.store)

    @cached_property
    def dims(self) -> Dims:
        """The sizes that the two models fix."""
        height, width = self.classifier.map_size
        return Dims(self.classifier.channels, self.encoder.dim, height * width)

    def _use_threads(self) -> None:
        """As many as a worker has cores, whoever runs it: the last bits of some sums depend on it."""
        use_threads(max(1, int(self.config.run.cpus_per_worker)))

    def with_room(self, work: Callable[[int], T]) -> T:
        """``work(images at a time)``, with half as many where memory runs out.

        What there was room for is remembered.
        """
        made, self._room = with_room(self._room, work)
        return made

    @property
    def halved(self) -> int | None:
        """Images at a time, if fewer than ``run.batch_size`` fit into memory."""
        return self._room if self._room < self.config.run.batch_size else None

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The store's tables at these sizes."""
        return tables(self.dims)

    def model_key(self, name: ModelName) -> list[Any]:
        """What a model's numbers depend on, as plain JSON: its fingerprint, and the options it was made with,
        which may shape what has no weights and is no module."""
        model = self.classifier if name == "classifier" else self.encoder
        section = self.config.classifier if name == "classifier" else self.config.encoder
        return [model.fingerprint, section.model_dump(mode="json")["options"]]

    def key(self, *inputs: object) -> str:
        """A key for work that depends on both models and on ``inputs`` (plain JSON values)."""
        return digest(self.model_key("classifier"), self.model_key("encoder"), DECODER, *inputs)


def digest(*inputs: object) -> str:
    """SHA-256 of plain JSON values, and of how this version turns them into results."""
    return hashlib.sha256(json.dumps([METHOD, *inputs], sort_keys=True).encode()).hexdigest()
