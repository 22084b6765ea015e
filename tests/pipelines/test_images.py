"""The plan does not depend on listing order; every kind of image is opened, every bad one is named."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.config import ImagesSection
from pipelines.images import ImagePlan, plan_shards
from pipelines.labels import class_ids_of, read_aliases
from pipelines.reading import ImageReader
from pipelines.sources import open_source
from store.errors import ImageError, SourceError
from store.schema import stable_id
from textcam.decode import decode

RED = (255, 0, 0)


def encoded(
    format: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (5, 3), **options: object
) -> bytes:
    image = Image.new("RGB", size, RED)
    sink = io.BytesIO()
    image.convert(mode).save(sink, format, **options)
    return sink.getvalue()


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("JPEG" if name.endswith("jpg") else "PNG"))


def plan(uri: Path, shard_size: int = 2, **section: object) -> ImagePlan:
    return plan_shards(ImagesSection(uri=str(uri), **section), shard_size)


# planning


def test_shards_are_slices_of_the_sorted_uris(tmp_path: Path) -> None:
    write(tmp_path, "b/2.png", "a/1.jpg", "c/é ü.png", "a/0.png", "b/1.png")
    made = plan(tmp_path)
    assert [[ref.uri for ref in shard.refs()] for shard in made.shards()] == [
        ["a/0.png", "a/1.jpg"],
        ["b/1.png", "b/2.png"],
        ["c/é ü.png"],
    ]
    assert made.labels == ("a", "b", "c")
    first = next(next(made.shards()).refs())
    assert (first.image_id, first.label, first.path) == (stable_id("a/0.png"), "a", "a/0.png")


def test_ids_and_fingerprint_do_not_depend_on_the_sharding(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    one, other = plan(tmp_path, 1), plan(tmp_path, 7)
    assert one.fingerprint == other.fingerprint
    assert one.rows.drop_columns("shard").equals(other.rows.drop_columns("shard"))
    assert (len(one), len(other)) == (3, 1)


def test_a_changed_file_changes_its_shard_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    before = [shard.digest for shard in plan(tmp_path, 1).shards()]
    (tmp_path / "a" / "2.png").write_bytes(encoded(size=(9, 9)))
    after = [shard.digest for shard in plan(tmp_path, 1).shards()]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_other_files_hidden_ones_and_missing_suffixes_are_no_images(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/.2.png")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    assert plan(tmp_path).rows["uri"].to_pylist() == ["a/1.png"]


def test_a_limit_takes_images_from_everywhere(tmp_path: Path) -> None:
    write(tmp_path, *(f"{folder}/{number}.png" for folder in "abc" for number in range(4)))
    assert plan(tmp_path, limit=3).rows["uri"].to_pylist() == ["a/0.png", "b/2.png", "c/3.png"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "real", "x/1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real" / "x")
    assert plan(tmp_path / "set").rows["uri"].to_pylist() == ["linked/1.png"]


def test_a_link_to_its_own_folder_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "real/a.png")
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real")
    (tmp_path / "up").symlink_to(tmp_path)
    assert plan(tmp_path).rows["uri"].to_pylist() == ["real/a.png"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty"])
def test_no_images_is_an_error_of_the_request(tmp_path: Path, make) -> None:
    make(tmp_path / "set")
    with pytest.raises(SourceError) as caught:
        plan(tmp_path / "set")
    assert caught.value.exit_code == 2
    assert str(tmp_path / "set") in caught.value.where


def test_the_same_image_twice_in_a_list_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("uri\na.png\na.png\n")
    with pytest.raises(SourceError, match=r"share one id: 'a\.png' and 'a\.png'"):
        plan(tmp_path / "list.csv", format="csv")


# sources


def read_all(section: ImagesSection) -> list[tuple[str, str | None, tuple[int, int]]]:
    read = ImageReader([(open_source(section)[0], section)], max_bytes=10**6)
    refs = [ref for shard in plan_shards(section, 2).shards() for ref in shard.refs()]
    data = [read(ref) for ref in refs]
    return [
        (ref.uri, ref.label, decode(one, max_pixels=100).size) for ref, one in zip(refs, data, strict=True)
    ]


def test_csv_with_labels(tmp_path: Path) -> None:
    write(tmp_path, "x/1.png", "x/2.jpg")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["uri", "label"], ["x/2.jpg", "cat"], ["x/1.png", ""]])
    section = ImagesSection(uri=str(tmp_path / "list.csv"), format="csv")
    assert read_all(section) == [("x/1.png", None, (5, 3)), ("x/2.jpg", "cat", (5, 3))]


def test_csv_without_its_column_names_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,class\na.png,1\n")
    with pytest.raises(SourceError) as caught:
        plan(tmp_path / "list.csv", format="csv")
    assert "file, class" in caught.value.fix


def test_webdataset(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00.tar", "w") as tar:
        for name, data in (
            ("k1.png", encoded()),
            ("k1.cls", b"3"),
            ("k2.png", encoded(size=(2, 7))),
            ("k2.cls", b"0"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    section = ImagesSection(uri=str(tmp_path), format="webdataset")
    assert read_all(section) == [("00.tar/k1.png", "3", (5, 3)), ("00.tar/k2.png", "0", (2, 7))]


def test_parquet_with_bytes(tmp_path: Path) -> None:
    rows = pa.table({"image": [encoded(), encoded(size=(2, 7))], "label": ["dog", "cat"]})
    pq.write_table(rows, tmp_path / "p.parquet", row_group_size=1)
    section = ImagesSection(uri=str(tmp_path), format="parquet")
    assert read_all(section) == [("p.parquet#0", "dog", (5, 3)), ("p.parquet#1", "cat", (2, 7))]


def test_parquet_with_uris(tmp_path: Path) -> None:
    write(tmp_path, "x/1.png")
    pq.write_table(pa.table({"uri": ["x/1.png"]}), tmp_path / "p.parquet")
    assert read_all(ImagesSection(uri=str(tmp_path), format="parquet")) == [("x/1.png", None, (5, 3))]


# one image


def pixel(data: bytes) -> tuple[int, ...]:
    image = decode(data, max_pixels=1000)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
    ],
)
def test_every_mode_becomes_rgb(format: str, mode: str) -> None:
    assert np.abs(np.subtract(pixel(encoded(format, mode)), RED)).max() <= 12


def test_grey_and_sixteen_bit_grey_have_the_same_brightness() -> None:
    sink = io.BytesIO()
    Image.fromarray(np.full((3, 5), 0x8080, np.uint16)).save(sink, "PNG")
    assert pixel(sink.getvalue()) == (128, 128, 128)
    assert pixel(encoded("PNG", "L")) == (76, 76, 76)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (6, 2), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    sink = io.BytesIO()
    image.save(sink, "JPEG", exif=exif)
    assert decode(sink.getvalue(), max_pixels=100).size == (2, 6)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"this is a text", "not an image"),
        (encoded("JPEG", size=(64, 64), quality=95)[:400], "cannot be decoded"),
        (encoded("PNG", size=(64, 64))[:60], "cannot be decoded"),
        (encoded("PNG", size=(40, 40)), "40 x 40 pixels, more than the limit of 1000"),
    ],
    ids=["empty", "text", "short jpeg", "short png", "too many pixels"],
)
def test_bad_bytes_are_named(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode(data, max_pixels=1000 if "limit" in says else 10**6)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "1.png")
    section = ImagesSection(uri=str(tmp_path))
    ref = next(next(plan_shards(section, 1).shards()).refs())
    with pytest.raises(ImageError, match="more than the limit of 10"):
        ImageReader([(open_source(section)[0], section)], max_bytes=10)(ref)


# labels


def test_labels_are_classes_by_alias_name_or_number() -> None:
    names = ("tench", "goldfish", "shark")
    assert class_ids_of(("n02", "Tench", "2"), names, {"n02": 1}) == {"n02": 1, "Tench": 0, "2": 2}


def test_labels_that_match_nothing_are_taken_in_order_if_they_are_as_many() -> None:
    assert class_ids_of(("b", "a"), ("class 0", "class 1"), {}) == {"a": 0, "b": 1}
    assert class_ids_of(("a", "b", "c"), ("class 0", "class 1"), {}) == {}


def test_aliases_are_the_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("class_id,wnid,name\n1,n2,goldfish\n0,n1,tench\n")
    assert read_aliases(str(path)) == {"n1": 0, "n2": 1}
    assert read_aliases(None) == {}
