"""n in = n ok + n errors, by name: damaged files between good ones of every kind, and what each becomes."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.run import precompute
from store.errors import ImageError
from store.reader import Snapshot
from tests.pipelines import worlds
from textcam.decode import decode

BAD = ("short jpeg", "short png", "short webp", "text", "empty", "zeros", "bomb", "not its type", "scans")
GOOD = (
    "jpeg",
    "grey jpeg",
    "progressive",
    "turned",
    "cmyk",
    "png",
    "palette",
    "16 bit",
    "alpha",
    "webp",
)


def picture(seed: int, side: int = 40) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((side, side - 9))
    return Image.fromarray(np.asarray(coarse) // 2 + rng.integers(0, 100, (side - 9, side, 3), np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def good(kind: str, seed: int) -> bytes:
    image = picture(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "jpeg": lambda: saved(image, "JPEG", quality=90),
        "grey jpeg": lambda: saved(image.convert("L"), "JPEG"),
        "progressive": lambda: saved(image, "JPEG", progressive=True),
        "turned": lambda: saved(image, "JPEG", exif=exif),
        "cmyk": lambda: saved(image.convert("CMYK"), "JPEG"),
        "png": lambda: saved(image, "PNG"),
        "palette": lambda: saved(image.quantize(16), "PNG"),
        "16 bit": lambda: saved(Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257), "PNG"),
        "alpha": lambda: saved(image.convert("RGBA"), "PNG"),
        "webp": lambda: saved(image, "WEBP"),
    }
    return made[kind]()


PIXELESS = 22  # bytes at the end of a file in which no pixel lies: a PNG's last checksums and its end


def cut(data: bytes, rng: random.Random) -> bytes:
    """Cut at a random byte, so that pixels are lost."""
    return data[: rng.randrange(1, len(data) - PIXELESS)]


def bomb() -> bytes:
    """A PNG of some dozen bytes that says it has 10,000 megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def bad(kind: str, seed: int) -> bytes:
    rng, image = random.Random(seed), picture(seed)
    scans = saved(image, "JPEG", progressive=True)
    start = scans.rindex(b"\xff\xda")
    made = {
        "short jpeg": lambda: cut(saved(image, "JPEG", quality=95), rng),
        "short png": lambda: cut(saved(image, "PNG"), rng),
        "short webp": lambda: cut(saved(image, "WEBP", quality=95), rng),
        "text": lambda: f"This is text number {seed}.".encode(),
        "empty": lambda: b"",
        "zeros": lambda: bytes(rng.randrange(1, 5000)),
        "bomb": bomb,
        "not its type": lambda: b"PK\x03\x04" + rng.randbytes(300),
        "scans": lambda: scans[:start] + scans[start:-2] * 1000 + scans[-2:],
    }
    return made[kind]()


def write_both(folder: Path, count: int, seed: int) -> tuple[set[str], set[str]]:
    """As many bad files as good ones, mixed; their names say what they are."""
    folder.mkdir()
    names: tuple[set[str], set[str]] = set(), set()
    for number in range(count):
        for which, (make, kinds) in enumerate(((good, GOOD), (bad, BAD))):
            kind = kinds[number % len(kinds)]
            name = f"{random.Random(seed + number * 2 + which).randrange(10**6):06d} {kind} {number}.jpg"
            (folder / name).write_bytes(make(kind, seed + number))
            names[which].add(name)
    return names


def check(folder: Path, count: int, seed: int) -> None:
    well, ill = write_both(folder / "images", count, seed)
    summary = precompute(
        worlds.config(
            folder,
            run={"max_error_rate": 0.6, "shard_size": 37, "feed_threads": 3},
            directions={"regions": False},
        )
    )
    assert (summary.images, summary.errors) == (len(well), len(ill)) == (count, count)
    snapshot = Snapshot.open(folder / "store")
    assert set(snapshot.table("images")["uri"].to_pylist()) == well
    rows = snapshot.table("errors").to_pylist()
    assert {row["uri"] for row in rows} == ill
    for row in rows:
        assert row["stage"] == "decode"
        said = {"empty": "empty", "bomb": "too large", "scans": "scans", "text": "not an image"}
        kind = next((one for one in said if f" {one} " in row["uri"]), None)
        assert said.get(kind or "", "cannot be decoded") in row["reason"], row
    sizes = zip(
        *(snapshot.table("images")[name].to_pylist() for name in ("uri", "width", "height")), strict=True
    )
    for uri, width, height in sizes:
        assert (width, height) == decode((folder / "images" / uri).read_bytes(), fast=False).size


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "webp"])
def test_a_cut_at_any_byte_is_seen_if_it_costs_a_pixel(kind: str) -> None:
    data = good(kind, seed=3)
    whole = np.asarray(decode(data))
    for length in (*range(1, len(data) - PIXELESS, 7), *range(len(data) - PIXELESS, len(data))):
        try:
            image = decode(data[:length])
        except ImageError:
            continue
        else:
            assert length >= len(data) - PIXELESS
            assert np.array_equal(np.asarray(image), whole)


def test_every_good_image_is_in_and_every_bad_one_is_named(tmp_path: Path) -> None:
    check(tmp_path, 90, seed=0)


@pytest.mark.slow
def test_a_thousand_bad_images_between_a_thousand_good_ones(tmp_path: Path) -> None:
    check(tmp_path, 1000, seed=10_000)
