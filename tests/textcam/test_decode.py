"""The fast decoder gives what the reference gives; limits hold before a pixel is decoded."""

import contextlib
import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.models import CLIP_FOLDER
from store.errors import ImageError
from tests.textcam.photographs import photograph
from textcam import decode as decoding
from textcam.decode import MAX_SCANS, decode, decoder_name
from textcam.encoder import load_encoder

pytest.importorskip("simplejpeg")
SHARED = Path(__file__).parents[3] / "shared" / "real"
REAL = Path(os.environ.get("TEXTCAM_REAL", SHARED)) / "photographs"


def as_jpeg(image: Image.Image, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", **options)
    return sink.getvalue()


def pictures() -> list[bytes]:
    """JPEGs of every kind that the fast decoder takes: subsampled or not, progressive, grey, odd sizes."""
    made = []
    for seed, (width, height) in enumerate([(317, 211), (97, 401), (640, 480), (33, 17)]):
        image = photograph(width, height, seed)
        made += [
            as_jpeg(image, quality=90, subsampling=0),
            as_jpeg(image, quality=75, subsampling=2),
            as_jpeg(image, quality=60, progressive=True),
            as_jpeg(image.convert("L"), quality=80),
        ]
    return made


def test_the_fast_decoder_is_used_and_gives_the_reference_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    plain = decoding.simplejpeg.decode_jpeg
    monkeypatch.setattr(
        decoding.simplejpeg, "decode_jpeg", lambda data, space: taken.append(len(data)) or plain(data, space)
    )
    every = pictures()
    for data in every:
        fast, reference = (np.asarray(decode(data, fast=one), np.int16) for one in (True, False))
        assert np.abs(fast - reference).max() <= 2
    assert taken == [len(data) for data in every]


def cosines(data: list[bytes]) -> np.ndarray:
    encoder = load_encoder(f"local-dir:{CLIP_FOLDER}")
    fast, reference = (
        encoder.encode_images(np.stack([encoder.prepare(decode(one, fast=way)) for one in data]))
        for way in (True, False)
    )
    return (fast * reference).sum(1)


def test_embeddings_do_not_drift() -> None:
    assert cosines(pictures()).min() >= 0.999


@pytest.mark.skipif(not REAL.exists(), reason="no photographs on this machine")
def test_embeddings_of_photographs_do_not_drift() -> None:
    paths = sorted(path for path in REAL.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = random.Random(0).sample(paths, 60)
    assert cosines([path.read_bytes() for path in chosen]).min() >= 0.999


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_the_reference_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = as_jpeg(photograph(61, 43, 3), exif=exif)
    fast, reference = decode(data), decode(data, fast=False)
    assert fast.size == reference.size == ((61, 43) if orientation < 5 else (43, 61))
    assert np.abs(np.asarray(fast, np.int16) - np.asarray(reference, np.int16)).max() <= 2


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "RGBA", "I;16", "1"])
def test_what_is_no_plain_jpeg_goes_through_the_reference(mode: str) -> None:
    image = photograph(40, 30, 5).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image, np.uint16) * 257)
    sink = io.BytesIO()
    image.save(sink, "JPEG" if mode == "CMYK" else "PNG")
    data = sink.getvalue()
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(data, fast=False)))


def test_what_the_fast_decoder_refuses_is_for_the_reference_to_judge() -> None:
    whole = as_jpeg(photograph(90, 70, 7))
    junk_between = whole[:20] + b"\0\0\0" + whole[20:]  # libjpeg warns and goes on
    with pytest.raises(ValueError, match=r"."):
        decoding.simplejpeg.decode_jpeg(junk_between, "RGB")
    assert np.array_equal(np.asarray(decode(junk_between)), np.asarray(decode(whole, fast=False)))
    for cut in (60, 400, len(whole) // 2):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode(whole[:cut])


def png_of(width: int, height: int) -> bytes:
    """A PNG header that promises this size, and nothing behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def forbid_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(decoding, "_fast_pixels", refuse)
    monkeypatch.setattr(decoding, "_as_rgb", refuse)


def test_bombs_are_refused_before_their_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_pixels(monkeypatch)
    with pytest.raises(ImageError, match="11000 x 11000 pixels, more than the limit of 100000000"):
        decode(png_of(11_000, 11_000))
    with pytest.raises(ImageError, match=r"too large|more than the limit"):
        decode(png_of(3_000_000, 3_000_000))


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes ``count`` times over."""
    data = as_jpeg(photograph(64, 64, 1), progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


def test_endless_scans_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decode(many_scans(20))
    forbid_pixels(monkeypatch)
    with pytest.raises(ImageError, match=f"more than {MAX_SCANS} scans"):
        decode(many_scans(5000))


def test_a_trailer_full_of_marks_is_no_scan() -> None:
    film = as_jpeg(photograph(64, 64, 1)) + b"\xff\xda" * 5000  # as phones append a film to a photograph
    assert decode(film).size == (64, 64)


def test_without_the_fast_decoder_the_reference_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    both = decoder_name()
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert both.startswith("simplejpeg ")
    assert both.endswith(decoder_name())
    assert decoder_name().startswith("pillow ")
    assert decode(as_jpeg(photograph(31, 29, 2))).size == (31, 29)


@pytest.mark.parametrize(
    "name", sorted({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO"}), ids=lambda name: name.lower()
)
def test_the_formats_that_sources_list_are_read(name: str) -> None:
    sink = io.BytesIO()
    photograph(40, 30).save(sink, name)
    assert decode(sink.getvalue()).size == (40, 30)


def test_bytes_of_other_formats_start_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.BytesIO()
    photograph(40, 30).save(sink, "EPS")
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # what it found before
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode(sink.getvalue(), where="picture.jpg")
    assert not (tmp_path / "started").exists()
    with contextlib.suppress(OSError), Image.open(io.BytesIO(sink.getvalue())) as opened:
        opened.load()
    assert (tmp_path / "started").exists()  # Pillow alone would have started it
