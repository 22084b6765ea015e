"""What one image and one shard cost, in bytes and in seconds of a core: the numbers behind docs/scale.md.

    python -m benchmarks.scale_costs [--folder PHOTOGRAPHS]

Sizes are those of ResNet-50 (K = 2048) and ViT-B/32 (D = 512) with 100 examples a side. Activations and
embeddings are synthetic. Seconds are of a core, not of the clock: other work on the machine moves them
little.
"""

import argparse
import csv
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measure, in_own_process, machine, peak_bytes, publish
from pipelines.config import ImagesSection
from pipelines.images import plan_shards
from pipelines.ledger import Ledger
from pipelines.partial import Partial, read_partial, write_partial
from store.manifest import PartRecord
from store.schema import Dims, tables
from store.storage import Storage, open_storage
from store.writer import write_part
from tests.textcam.photographs import photograph
from textcam.classifier import load_classifier
from textcam.decode import decode
from textcam.encoder import load_encoder
from textcam.records import embedding_rows, pooled_rows

CHANNELS, DIM, EXAMPLES, SHARD = 2048, 512, 100, 4096
PHOTOS, LISTED, SHARDS = 96, 500_000, 2000


def core_seconds(act: Callable[[], Any], times: int = 1) -> float:
    """Seconds of all cores for one ``act()``: the least of ``times``."""
    found = []
    for _ in range(times):
        started = time.process_time()
        act()
        found.append(time.process_time() - started)
    return min(found)


def feeding(source: Path | None) -> list[Measure]:
    """Decoding an image and preparing it for both models, on one core."""
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")) if source else []
    photos = [one.read_bytes() for one in found[:: max(1, len(found) // PHOTOS)][:PHOTOS]] or drawn()
    classifier = load_classifier("timm:resnet50", weights="random", device="cpu")
    encoder = load_encoder("ViT-B-32", weights="random", device="cpu")

    def feed() -> None:
        for data in photos:
            image = decode(data)
            classifier.prepare(image)
            encoder.prepare(image)

    def decode_all() -> None:
        for data in photos:
            decode(data)

    feed()
    return [
        Measure("bytes of a photograph", sum(map(len, photos)) / len(photos)),
        Measure("decoding, core ms an image", 1000 * core_seconds(decode_all, 3) / len(photos)),
        Measure(
            "decoding and preparing for both models, core ms an image",
            1000 * core_seconds(feed, 3) / len(photos),
        ),
    ]


def drawn() -> list[bytes]:
    """JPEGs for where there are no photographs."""
    made = []
    for seed in range(PHOTOS):
        sink = io.BytesIO()
        photograph(500, 375, seed).save(sink, "JPEG", quality=90)
        made.append(sink.getvalue())
    return made


def activations(count: int, seed: int) -> np.ndarray:
    """Pooled activations (count, K) of a ReLU layer: a third is zero, the rest as a gamma distribution."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.6, 0.7, (count, CHANNELS))
    return np.where(rng.random((count, CHANNELS)) < 1 / 3, 0, values).astype(np.float16)


def unit_vectors(count: int) -> np.ndarray:
    """Embeddings (count, D) of unit length."""
    made = np.random.default_rng(1).normal(size=(count, DIM))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def writing(storage: Storage) -> list[Measure]:
    """Bytes of the two large tables for one image, and seconds of a core to write them."""
    schema = tables(Dims(CHANNELS, DIM, 49))
    ids, pooled, embeddings = np.arange(SHARD), activations(SHARD, 0), unit_vectors(SHARD)
    made: list[PartRecord] = []

    def write() -> None:
        rows = pooled_rows(schema["activations"], ids, pooled)
        made.append(write_part(storage, schema["activations"], rows, f"a{len(made)}"))
        rows = embedding_rows(schema["embeddings"], ids, embeddings)
        made.append(write_part(storage, schema["embeddings"], rows, f"e{len(made)}"))

    seconds = core_seconds(write, 2)
    return [
        Measure("activations, bytes an image", made[0].bytes / SHARD),
        Measure("embeddings, bytes an image", made[1].bytes / SHARD),
        Measure("writing both, core ms an image", 1000 * seconds / SHARD),
    ]


def merging(storage: Storage) -> list[Measure]:
    """A shard's partial: its bytes, and what it costs to make and to merge it."""
    partials = []
    for shard in range(2):
        partial = Partial.empty(CHANNELS, DIM, EXAMPLES)
        pooled = activations(512, shard)
        ids = np.arange(shard * 512, shard * 512 + 512)
        partial.update(ids, pooled.astype(np.float32), pooled, unit_vectors(512))
        partials.append(partial)
    file = write_partial(storage, "work/partial.safetensors", partials[1])
    seconds = core_seconds(lambda: partials[0].merge(read_partial(storage, file)), 3)
    return [
        Measure("partial, bytes a shard", file.bytes),
        Measure("reading and merging a partial, core ms", 1000 * seconds),
    ]


def planning(folder: Path) -> list[Measure]:
    """The plan of a list of images: memory and time in the driver."""
    with (folder / "list.csv").open("w", newline="") as sink:
        write = csv.writer(sink)
        write.writerow(["uri", "label"])
        for at in range(LISTED):
            write.writerow([f"s3://bucket/photographs/{at % 1000:03d}/{at:012d}.jpg", f"class {at % 1000}"])
    section = ImagesSection(uri=str(folder), format="csv")
    kept = []
    seconds = core_seconds(lambda: kept.append(plan_shards(section, SHARD)))
    peak, _ = in_own_process(peak_of_plan, section)
    return [
        Measure("plan, bytes an image in the driver", kept[0].rows.nbytes / LISTED),
        Measure("planning, most memory, bytes an image", peak / LISTED),
        Measure("planning, core microseconds an image", 1e6 * seconds / LISTED),
    ]


def peak_of_plan(section: ImagesSection) -> int:
    """Most memory that planning takes, beside what was there before."""
    before = peak_bytes()
    plan_shards(section, SHARD)
    return peak_bytes() - before


def resuming(storage: Storage) -> list[Measure]:
    """Looking up the records of finished shards."""
    ledger, keys = Ledger(storage), [f"{at:064x}" for at in range(SHARDS)]
    for key in keys:
        ledger.put("extract", key, {"images": SHARD}, [])
    seconds = core_seconds(lambda: ledger.get_all("extract", keys), 2)
    return [Measure("looking up a finished shard, core ms", 1000 * seconds / SHARDS)]


def main() -> None:
    """All of it, about a minute."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(str(Path(folder) / "store"))
        (Path(folder) / "lists").mkdir()
        measures = [
            *feeding(options.folder),
            *writing(storage),
            *merging(storage),
            *planning(Path(folder) / "lists"),
            *resuming(storage),
        ]
    publish("scale_costs", measures, machine(), write=True)


if __name__ == "__main__":
    main()
