"""Original images are found again in every layout that a run can take them from."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from service.originals import Originals
from store.errors import ImageError, QueryError, SourceError
from textcam.source_images import SourceImages, namings


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


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("archive", ["extra/set.tar", "set.tar"])
def test_files_beside_archives(tmp_path: Path, archive: str, order: tuple[int, int]) -> None:
    """A folder, and an archive that lies in it: each image is found in its own."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "pic.png").write_bytes(png(9))
    (tmp_path / "top.png").write_bytes(png(8))
    with tarfile.open(tmp_path / archive, "w") as tar:
        info = tarfile.TarInfo("in.png")
        info.size = len(png(7))
        tar.addfile(info, io.BytesIO(png(7)))
    sections = [
        {"uri": str(tmp_path), "format": "folder"},
        {"uri": str(tmp_path / archive), "format": "webdataset"},
    ]
    first, second = (sections[at] for at in order)
    config = {"images": first, "added": [second]}
    names = namings([first["uri"], second["uri"]])
    of_folder, of_archive = names[order.index(0)], names[order.index(1)]
    for opened in (Originals(config), SourceImages(config)):
        assert shade(opened(f"{of_folder}extra/pic.png")) == 9
        assert shade(opened(f"{of_folder}top.png")) == 8
    inside = f"{of_archive}set.tar/in.png"
    assert shade(Originals(config)(inside)) == 7
    with pytest.raises(QueryError, match="inside archives"):
        SourceImages(config)(inside)
    with pytest.raises(ImageError):
        Originals(config)(f"{of_folder}extra/gone.png")
