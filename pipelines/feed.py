"""The feed: images are read, decoded and prepared by threads while the models work on those before them.

Each image is decoded once, for all models; several classifiers may share it. Up to two batches are made
ahead, so memory does not grow with the set; they leave in the order of the plan, whoever was ready first.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial as bind
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.bench import Bench
from pipelines.execute import FATAL
from pipelines.images import Shard
from pipelines.reading import ImageRef
from pipelines.working import DECODING, READING, WAITING, Clock
from store.errors import ImageError, StorageUnavailable, TextcamError
from store.storage import CONCURRENT
from textcam.decode import decode
from textcam.device import is_out_of_memory

T = TypeVar("T")

AHEAD = 2  # batches
PIECE = 8  # images that another process is asked for at a time
WAITS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds between attempts at storage that is away
PROBES = 3  # other images that are tried, to tell a storage that is away from a file that is broken
LONGEST_REASON = 500  # characters


@dataclass(frozen=True)
class Loaded:
    """One image, ready for each classifier and the encoder. ``refused``: for which classifiers it could not
    be prepared, by number, and why; they get a blank one."""

    ref: ImageRef
    size: tuple[int, int]
    sha256: str
    for_classifiers: tuple[NDArray[Any], ...]
    for_encoder: NDArray[Any]
    refused: Mapping[int, str]


@dataclass(frozen=True)
class Unusable:
    """One image that cannot be used: at which stage, and why. ``away``: its storage did not answer."""

    ref: ImageRef
    stage: str
    reason: str
    away: bool = False


@dataclass(frozen=True)
class Request:
    """Images that others are to decode, and how each classifier has them prepared (its ``preparation``).

    ``read``: the bytes of those that the worker has read itself, or why it could not; None for the others.
    """

    preparations: tuple[str, ...]
    refs: tuple[ImageRef, ...]
    read: tuple[bytes | Unusable | None, ...]


@dataclass
class Batch:
    """Images that go through the models together, and those that could not be had.

    ``refused``: rows that a classifier cannot have, by its number, each with its row and the reason.
    """

    refs: list[ImageRef] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    for_classifiers: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    for_encoder: list[NDArray[Any]] = field(default_factory=list)
    refused: dict[int, dict[int, str]] = field(default_factory=dict)
    errors: list[tuple[str, str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.refs)

    def add(self, image: Loaded | Unusable) -> None:
        """Take in an image, or note why it is missing."""
        if isinstance(image, Unusable):
            self.errors.append((image.ref.uri, image.stage, image.reason))
            return
        for number, reason in image.refused.items():
            self.refused.setdefault(number, {})[len(self)] = reason
        self.refs.append(image.ref)
        self.sizes.append(image.size)
        self.hashes.append(image.sha256)
        self.for_classifiers.append(image.for_classifiers)
        self.for_encoder.append(image.for_encoder)

    def for_classifier(self, first: int = 0, size: int | None = None, number: int = 0) -> list[NDArray[Any]]:
        """The pixels of ``size`` images (default: all) for one classifier."""
        return [one[number] for one in self.for_classifiers[first : None if size is None else first + size]]


# --- one image --------------------------------------------------------------------------------------------


def load_image(
    benches: Sequence[Bench],
    ref: ImageRef,
    clock: Clock | None = None,
    data: bytes | Unusable | None = None,
) -> Loaded | Unusable:
    """Read, decode and prepare one image, or say why that was not possible. ``data``, if it is read already.

    The benches differ in their classifiers only. What one classifier's preparation refuses, it alone misses.
    Whatever goes wrong with an image is that image's trouble only, whoever wrote the code that fails; but for
    memory that is short, and what no image could escape (``execute.FATAL``).
    """
    clock = clock or Clock()
    data = read_bytes(benches[0], ref, clock) if data is None else data
    if isinstance(data, Unusable):
        return data
    with clock.on(DECODING):
        image = _decoded(benches[0], ref, data)
        if isinstance(image, Unusable):
            return image
        try:
            prepared, refused = _prepare(benches, ref, image)
            encoder = benches[0].encoder
            pixels = _checked(encoder.prepare(image), encoder.input_size)
        except Exception as error:
            return Unusable(ref, "prepare", _reason(error, ref))
    return Loaded(ref, image.size, hashlib.sha256(data).hexdigest(), prepared, pixels, refused)


def read_bytes(bench: Bench, ref: ImageRef, clock: Clock) -> bytes | Unusable:
    """The encoded bytes of one image, or why they could not be had."""
    try:
        with clock.on(READING):
            return bench.reader(ref)
    except Exception as error:
        reason = _reason(error, ref)
        if isinstance(error, StorageUnavailable):
            return Unusable(ref, "read", f"The file cannot be read: {reason}", away=True)
        return Unusable(ref, "read", reason)


def _decoded(bench: Bench, ref: ImageRef, data: bytes) -> Image.Image | Unusable:
    try:
        return decode(data, max_pixels=bench.config.run.max_pixels, where=ref.uri)
    except Exception as error:
        return Unusable(ref, "decode", _reason(error, ref))


def _prepare(
    benches: Sequence[Bench], ref: ImageRef, image: Image.Image
) -> tuple[tuple[NDArray[Any], ...], Mapping[int, str]]:
    """The image for each classifier, once for all that prepare alike, and whom it could not be prepared for.

    Raises what the only classifier's own preparation raises.
    """
    made: dict[str, NDArray[Any]] = {}
    refused: dict[int, str] = {}
    for number, bench in enumerate(benches):
        way = bench.classifier.preparation
        if way in made:
            continue
        try:
            made[way] = _checked(bench.classifier.prepare(image), bench.classifier.input_size)
        except Exception as error:
            if len(benches) == 1:
                raise
            refused[number] = _reason(error, ref)
    pixels = [made.get(bench.classifier.preparation, bench.classifier.blank) for bench in benches]
    return tuple(pixels), refused


def _checked(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Pixels, if they have the size that all others have: else they would fit into no batch."""
    if pixels.shape != (3, *size):
        raise ImageError(f"The transform gives {pixels.shape} for this image, not {(3, *size)}.")
    return pixels


def _reason(error: Exception, ref: ImageRef) -> str:
    """Why an image cannot be used, in one line. Raises ``error`` where it is not about this image."""
    if isinstance(error, FATAL):
        raise error
    if is_out_of_memory(error):
        raise MemoryError(f"There was no room to open {ref.uri}.") from error
    text = error.what if isinstance(error, TextcamError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).removesuffix(":")[:LONGEST_REASON]


def add_image(bench: Bench, ref: ImageRef, batch: Batch, others: Sequence[ImageRef]) -> None:
    """``load_image`` into a batch. ``others`` tell a storage that is away from a file that is broken.

    Raises StorageUnavailable as ``read_batches`` does.
    """
    batch.add(_patiently(lambda one: load_image([bench], one), ref, others))


def open_image(bench: Bench, ref: ImageRef, others: Sequence[ImageRef]) -> Image.Image | Unusable:
    """One image as it is, upright, RGB. ``others`` as for ``add_image``."""

    def opened(one: ImageRef) -> Image.Image | Unusable:
        data = read_bytes(bench, one, Clock())
        return data if isinstance(data, Unusable) else _decoded(bench, one, data)

    return _patiently(opened, ref, others)


# --- many images ------------------------------------------------------------------------------------------


def thread_count(bench: Bench) -> int:
    """Threads that read and decode for one worker: one a core, and more where storage makes them wait."""
    run = bench.config.run
    if run.feed_threads is not None:
        return run.feed_threads
    remote = any("://" in storage.uri for storage, _ in bench.sources)
    return max(1, int(run.cpus_per_worker)) + (CONCURRENT if remote else 0)


def read_batches(benches: Sequence[Bench], shard: Shard, clock: Clock) -> Iterator[Batch]:
    """The shard's images in order, in batches of ``run.batch_size``, made ahead by threads."""
    size = benches[0].config.run.batch_size
    for bench in benches:
        _ = bench.classifier  # opened here, once, not by every thread
    _ = benches[0].encoder, benches[0].reader
    loading, refs = _Loading(benches, clock), shard.refs()
    pieces = iter(lambda: tuple(islice(refs, loading.at_a_time)), ())
    ahead: deque[Future[list[Loaded | Unusable]]] = deque()
    batch = Batch()
    pool = ThreadPoolExecutor(thread_count(benches[0]) + loading.lanes, "feed")
    try:
        most = -(-AHEAD * size // loading.at_a_time)
        ahead.extend(pool.submit(loading, piece) for piece in islice(pieces, most))
        while ahead:
            with clock.on(WAITING):
                images = ahead.popleft().result()
            ahead.extend(pool.submit(loading, piece) for piece in islice(pieces, 1))
            for image in images:
                if isinstance(image, Unusable) and image.away:
                    others = [other.ref for one in ahead if one.done() for other in one.result()]
                    with clock.on(WAITING):
                        image = _patiently(bind(load_image, benches, clock=clock), image.ref, others, image)
                batch.add(image)
                if len(batch) == size:
                    yield batch
                    batch = Batch()
        if len(batch) or batch.errors:
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Loading:
    """Some images at a time: by others where there are any and one has time, else here.

    Only uint8 pixels cross from process to process: what a transform of a user's own makes of floats is made
    here, as its last bits may depend on the processor.
    """

    def __init__(self, benches: Sequence[Bench], clock: Clock) -> None:
        self._benches, self._clock = benches, clock
        first = benches[0]
        pixels = [first.encoder.blank, *(bench.classifier.blank for bench in benches)]
        plain = all(one.dtype == np.uint8 for one in pixels)
        self._decoders = first.decoders if plain else None
        self.lanes = self._decoders.lanes if self._decoders else 0
        self.at_a_time = PIECE if self._decoders else 1
        self._free = threading.Semaphore(self.lanes)

    def __call__(self, refs: tuple[ImageRef, ...]) -> list[Loaded | Unusable]:
        """The images of ``refs``, in their order."""
        if self._decoders is not None and self._free.acquire(blocking=False):
            ways = tuple(bench.classifier.preparation for bench in self._benches)
            try:
                # Rows of Parquet files are read here: each decoder would read their whole row group anew.
                read = [None if ref.row is None else self._read(ref) for ref in refs]
                made = self._decoders.load(Request(ways, refs, tuple(read)))
            finally:
                self._free.release()
            if made is not None:
                images: list[Loaded | Unusable] = made[0]
                self._clock.add(made[1])
                return images
        return [load_image(self._benches, ref, self._clock) for ref in refs]

    def _read(self, ref: ImageRef) -> bytes | Unusable:
        return read_bytes(self._benches[0], ref, self._clock)


def _patiently(
    load: Callable[[ImageRef], T | Unusable],
    ref: ImageRef,
    others: Sequence[ImageRef],
    first: T | Unusable | None = None,
) -> T | Unusable:
    """What ``load`` gives, once the image's storage answers again; the image is at fault if it alone cannot
    be read. ``first``: what it gave before, if it was asked.

    Raises StorageUnavailable if the storage stays away for the sum of ``WAITS``: then nothing of the shard
    is written down, and it is tried again as a whole.
    """
    image = load(ref) if first is None else first
    answered = 0
    for wait in WAITS:
        if not _is_away(image):
            return image
        time.sleep(wait)
        image = load(ref)
        probes = islice((one for one in others if one != ref), PROBES)
        answered += _is_away(image) and any(not isinstance(load(one), Unusable) for one in probes)
        if answered == 2:
            return image
    if isinstance(image, Unusable) and image.away:
        raise StorageUnavailable("The images' storage does not answer.", where=ref.uri, fix=image.reason)
    return image


def _is_away(image: object) -> bool:
    return isinstance(image, Unusable) and image.away


def stack(pixels: list[NDArray[Any]], size: int) -> NDArray[Any]:
    """(B, 3, S, S) from single images, padded with zeros to ``size`` images."""
    first = pixels[0]
    stacked = np.zeros((max(size, len(pixels)), *first.shape), first.dtype)
    for row, one in enumerate(pixels):
        stacked[row] = one
    return stacked
