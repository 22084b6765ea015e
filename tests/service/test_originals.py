"""Original images are found again in every layout that a run can take them from."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from service.originals import Originals
from store.errors import ImageError, SourceError


def png(red: int) -> bytes:
    into = io.BytesIO()
    Image.new("RGB", (5, 3), (red, 0, 0)).save(into, "PNG")
    return into.getvalue()


def shade(image: Image.Image) -> int:
    return int(image.getpixel((0, 0))[0])  # type: ignore[index]


def originals(uri: Path, layout: str) -> Originals:
    return Originals({"images": {"uri": str(uri), "format": layout}})


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a ü").mkdir()
    (tmp_path / "a ü" / "x#1.png").write_bytes(png(7))
    opened = originals(tmp_path, "folder")
    assert shade(opened("a ü/x#1.png")) == 7
    with pytest.raises(ImageError):
        opened("a ü/gone.png")


def test_members_of_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        for name, red in (("one.png", 11), ("two.png", 13)):
            member = tarfile.TarInfo(name)
            member.size = len(png(red))
            tar.addfile(member, io.BytesIO(png(red)))
    opened = originals(tmp_path, "webdataset")
    assert [shade(opened(f"000.tar/{name}.png")) for name in ("two", "one")] == [13, 11]
    with pytest.raises(ImageError, match="no longer in its source"):
        opened("000.tar/three.png")


def test_rows_of_parquet(tmp_path: Path) -> None:
    rows = pa.table({"uri": ["one", "two"], "image": [png(17), png(19)]})
    pq.write_table(rows, tmp_path / "part.parquet")
    opened = originals(tmp_path, "parquet")
    assert [shade(opened(name)) for name in ("two", "one")] == [19, 17]


def test_the_whole_source_is_gone(tmp_path: Path) -> None:
    with pytest.raises((SourceError, ImageError)):
        originals(tmp_path / "gone", "folder")("x.png")
    with pytest.raises(SourceError):
        originals(tmp_path / "gone", "webdataset")("x.png")
