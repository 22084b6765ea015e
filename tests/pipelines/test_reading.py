"""What listing and reading cost, as counts: requests made, bytes read, looks at files, arrays held."""

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import listings
from pipelines.bench import Bench
from pipelines.config import ImagesSection
from pipelines.feed import read_batches
from pipelines.images import ImagePlan, plan_shards
from pipelines.reading import ImageReader, ImageRef, Shared
from pipelines.sources import open_source
from pipelines.working import Clock
from store.errors import ImageError, SourceError, StorageUnavailable
from store.storage import LocalStorage, open_storage
from tests.pipelines import worlds
from tests.pipelines.buckets import Counter, counted_bucket
from tests.pipelines.test_decoders import Nearby

pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Counter]]:
    with counted_bucket("images") as made:
        yield made


@pytest.fixture
def bucket(served: tuple[str, Counter], request: pytest.FixtureRequest) -> str:
    """A prefix of its own in a bucket."""
    return f"{served[0]}/{request.node.name}"


def tar(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def labels(plan: ImagePlan) -> dict[str, str | None]:
    return dict(zip(plan.rows["uri"].to_pylist(), plan.rows["label"].to_pylist(), strict=True))


def stamps(plan: ImagePlan) -> dict[str, str]:
    return dict(zip(plan.rows["uri"].to_pylist(), plan.rows["stamp"].to_pylist(), strict=True))


# tars


def test_labels_of_tars_as_people_write_them(tmp_path: Path) -> None:
    members = {
        "./0001.jpg": b"x",
        "./0001.cls": b"3",
        "v1.0/0002.left.jpg": b"x",
        "v1.0/0002.right.jpg": b"x",
        "v1.0/0002.CLS": b"4\n",
        "v2.0/0002.png": b"x",
        "0003.jpg": b"x",
        "0003.seg.cls": b"5",
    }
    (tmp_path / "x.tar").write_bytes(tar(members))
    made = plan_shards(ImagesSection(uri=str(tmp_path), format="webdataset"), 100)
    assert labels(made) == {
        "x.tar/./0001.jpg": "3",
        "x.tar/v1.0/0002.left.jpg": "4",
        "x.tar/v1.0/0002.right.jpg": "4",
        "x.tar/v2.0/0002.png": None,
        "x.tar/0003.jpg": None,
    }


def test_tars_in_a_bucket_are_listed_a_megabyte_at_a_time_and_side_by_side(
    served: tuple[str, Counter], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, counter = open_storage(bucket), served[1]
    members = {
        f"{at:03d}.{kind}": noise(20_000) if kind == "jpg" else b"7"
        for at in range(100)
        for kind in ("jpg", "cls")
    }
    data = tar(members)
    for at in range(3):
        storage.put(f"{at}.tar", data)
    counter.reset()
    together = threading.Barrier(3, timeout=60)  # breaks unless three tars are underway at once
    list_tar = tarfile.open

    def opened(*arguments: object, **options: object) -> tarfile.TarFile:
        together.wait()
        return list_tar(*arguments, **options)

    monkeypatch.setattr(listings.tarfile, "open", opened)
    made = plan_shards(ImagesSection(uri=bucket, format="webdataset"), 1000)
    assert set(labels(made).values()) == {"7"}
    assert made.rows.num_rows == 300
    assert counter.count("GET") <= 3 * (len(data) // listings.REMOTE_TAR_BUFFER + 2)
    assert counter.bytes <= 3 * len(data)


def test_tars_on_a_disk_are_not_read_between_their_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tar({f"{at}.jpg": noise(300_000) for at in range(10)})
    (tmp_path / "x.tar").write_bytes(data)
    read: list[int] = []

    class Counting(io.FileIO):
        def readinto(self, buffer: bytearray) -> int:
            read.append(super().readinto(buffer))
            return read[-1]

    monkeypatch.setattr(LocalStorage, "open", lambda self, path: Counting(self.root / path))
    made = plan_shards(ImagesSection(uri=str(tmp_path), format="webdataset"), 100)
    assert made.rows.num_rows == 10
    assert 0 < sum(read) < len(data) / 20


@pytest.mark.parametrize(
    ("name", "format"), [("x.tar", "webdataset"), ("x.parquet", "parquet"), ("x.csv", "csv")]
)
def test_a_file_that_cannot_be_listed_is_named(tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00 neither of them" * 100)
    for uri in (tmp_path, tmp_path / name):
        with pytest.raises(SourceError) as caught:
            plan_shards(ImagesSection(uri=str(uri), format=format), 1)
        assert caught.value.where == str(tmp_path / name)


# lists


@pytest.mark.parametrize(
    ("text", "line"),
    [("label,uri\ncat,a.png\ndog\n", 3), ("uri,label\n,cat\n", 2), ("uri,label\na.png,x\n\n\n,\n", 5)],
)
def test_a_line_of_a_list_without_a_uri_is_named(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(SourceError, match="no image's URI in column 'uri'") as caught:
        plan_shards(ImagesSection(uri=str(tmp_path / "list.csv"), format="csv"), 1)
    assert caught.value.where == f"{tmp_path}/list.csv, line {line}"


@pytest.mark.parametrize("uris", [["a.png", None], [1, 2]])
def test_a_row_without_a_uri_is_named(tmp_path: Path, uris: list) -> None:
    pq.write_table(pa.table({"uri": uris}), tmp_path / "list.parquet")
    with pytest.raises(SourceError, match="no image's URI") as caught:
        plan_shards(ImagesSection(uri=str(tmp_path), format="parquet"), 1)
    assert caught.value.where.startswith(f"{tmp_path}/list.parquet, row ")


def write_list(storage: object, kind: str, uris: list[str]) -> None:
    if kind == "csv":
        storage.put("list.csv", "\n".join(["uri", *uris]).encode())
    else:
        sink = io.BytesIO()
        pq.write_table(pa.table({"uri": uris}), sink)
        storage.put("list.parquet", sink.getvalue())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_an_image_that_a_list_names_is_known_by_its_own_file(
    tmp_path: Path, bucket: str, kind: str, place: str
) -> None:
    storage = open_storage(tmp_path if place == "folder" else bucket)
    section = ImagesSection(uri=f"{storage.uri}/list.{kind}", format=kind)
    for name in "abcd":
        storage.put(f"in/{name}.png", name.encode())
    uris = [f"in/{name}.png" for name in "abc"]
    write_list(storage, kind, [*uris, "in/gone.png"])
    before = plan_shards(section, 1)
    assert before.rows["size"].to_pylist() == [1, 1, 1, None]
    write_list(storage, kind, [*uris, "in/d.png", "in/gone.png"])  # the list is another; its images are not
    longer = stamps(plan_shards(section, 1))
    assert {uri: longer[uri] for uri in stamps(before)} == stamps(before)
    storage.put("in/b.png", b"another")
    storage.put("in/gone.png", b"here it is")
    after = stamps(plan_shards(section, 1))
    assert {uri for uri in after if after[uri] != longer[uri]} == {"in/b.png", "in/gone.png"}


def test_what_looking_at_listed_images_costs(served: tuple[str, Counter], bucket: str, monkeypatch) -> None:
    storage, counter = open_storage(bucket), served[1]
    for at in range(60):
        storage.put(f"in/{at:02d}.png", b"x")
    section = ImagesSection(uri=f"{bucket}/list.csv", format="csv")
    write_list(storage, "csv", [f"in/{at:02d}.png" for at in range(0, 60, 2)])
    counter.reset()
    plan_shards(section, 1)
    assert (counter.count("LIST"), counter.count("HEAD")) == (2, 0)  # the list itself, and the images' folder
    monkeypatch.setattr(listings, "islice", lambda entries, most: list(entries)[:10])  # a folder too large
    counter.reset()
    made = plan_shards(section, 1)
    assert (counter.count("LIST"), counter.count("HEAD")) == (2, 25)
    assert all(stamps(made).values())


def test_on_a_disk_each_listed_image_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    stat = LocalStorage.stat
    monkeypatch.setattr(LocalStorage, "stat", lambda self, path: looked.append(path) or stat(self, path))
    worlds.write_images(tmp_path / "images", 9)
    names = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "images").rglob("*.png")]
    write_list(open_storage(tmp_path), "csv", names)
    plan_shards(ImagesSection(uri=str(tmp_path / "list.csv"), format="csv"), 4)
    assert sorted(looked) == sorted(names)


def test_storage_that_does_not_answer_is_not_taken_for_missing_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: LocalStorage, path: str) -> None:
        raise StorageUnavailable("away") from OSError(5, "Input/output error")

    monkeypatch.setattr(LocalStorage, "stat", away)
    (tmp_path / "list.csv").write_text("uri\na.png\n")
    with pytest.raises(StorageUnavailable):
        plan_shards(ImagesSection(uri=str(tmp_path / "list.csv"), format="csv"), 1)


# row groups


def parquet(images: list[bytes | None], group: int, **columns: list) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"image": pa.array(images, pa.binary()), **columns})
    pq.write_table(table, sink, row_group_size=group, compression="none", use_dictionary=False)
    return sink.getvalue()


def test_rows_of_a_group_come_together(tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_bytes(parquet([b"x"] * 12, 4))
    (tmp_path / "a.parquet").write_bytes(parquet([b"x"] * 3, 4, uri=["z", "x", "y"]))
    made = plan_shards(ImagesSection(uri=str(tmp_path), format="parquet"), 5)
    refs = [ref for shard in made.shards() for ref in shard.refs()]
    assert [ref.uri for ref in refs] == ["z", "x", "y", *(f"b.parquet#{row}" for row in range(12))]


@pytest.mark.parametrize("decoders", [False, True])
def test_a_row_group_in_a_bucket_is_asked_for_once(
    served: tuple[str, Counter], bucket: str, tmp_path: Path, decoders: bool
) -> None:
    worlds.write_images(tmp_path / "images", 40)
    images = [path.read_bytes() for path in sorted((tmp_path / "images").rglob("*.png"))]
    data = parquet(images, 10)
    open_storage(bucket).put("set.parquet", data)
    config = worlds.config(tmp_path, images={"uri": bucket, "format": "parquet"}, run={"feed_threads": 8})
    (shard,) = plan_shards(config.images, 100).shards()
    counter = served[1]
    counter.reset()
    bench = Bench(config, decoders=Nearby([config]) if decoders else None)
    batches = list(read_batches([bench], shard, Clock()))
    assert sum(len(batch) for batch in batches) == 40
    assert [ref.row for batch in batches for ref in batch.refs] == list(range(40))
    assert counter.bytes <= len(data) + (64 << 10)  # each column chunk once, and the end with the footer
    assert counter.count("GET") <= 4 + 2
    assert counter.count("HEAD") <= 4 + 1


def reader(folder: Path, room: int, **section: str) -> tuple[ImageReader, list[ImageRef]]:
    made = ImagesSection(uri=str(folder), format="parquet", **section)
    refs = [ref for shard in plan_shards(made, 10**6).shards() for ref in shard.refs()]
    return ImageReader([(open_source(made)[0], made)], 10**6, room), refs


def test_groups_take_no_more_memory_than_there_is_room_for(tmp_path: Path) -> None:
    images = [noise(1000, seed) for seed in range(60)]
    (tmp_path / "a.parquet").write_bytes(parquet(images, 5))  # 12 groups of about 2 x 5,000 bytes
    read, refs = reader(tmp_path, room=35_000)
    most, groups = 0, read._groups
    taken = groups._taken

    def watched(key: object, size: int) -> object:
        nonlocal most
        made = taken(key, size)
        most = max(most, groups._used)
        return made

    groups._taken = watched  # type: ignore[method-assign]
    found: dict[int, bytes] = {}

    def work(start: int) -> None:
        for ref in refs[start::4]:
            found[int(ref.row or 0)] = read(ref)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[row] for row in range(60)] == images
    assert 20_000 < most <= 35_000
    small, refs = reader(tmp_path, room=1)  # each group is larger than that: one at a time
    assert [small(ref) for ref in refs] == images
    assert len(small._groups._values) == 1


def test_a_group_that_cannot_be_read_costs_its_own_images_and_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(1000, seed) for seed in range(20)]
    data = bytearray(parquet(images, 5))
    at = pq.read_metadata(io.BytesIO(data)).row_group(1).column(0).data_page_offset
    data[at : at + 20] = b"\xff" * 20  # the header of the second group's page
    (tmp_path / "a.parquet").write_bytes(data)
    read, refs = reader(tmp_path, room=10**6)
    opened: list[str] = []
    whole = LocalStorage.open
    monkeypatch.setattr(LocalStorage, "open", lambda self, path: opened.append(path) or whole(self, path))
    got: dict[int, object] = {}
    for ref in refs:
        try:
            got[ref.row] = read(ref)
        except ImageError as error:
            got[ref.row] = error
    assert [row for row, one in got.items() if isinstance(one, ImageError)] == [5, 6, 7, 8, 9]
    assert all(one == images[row] for row, one in got.items() if isinstance(one, bytes))
    assert len(opened) <= 1 + 4


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": "x.jpg"}])
def test_a_row_without_bytes_is_its_own_trouble(tmp_path: Path, image: object) -> None:
    other = b"y" if image is None else {"bytes": b"y", "path": None}
    pq.write_table(pa.table({"image": [image, other]}), tmp_path / "a.parquet")
    read, refs = reader(tmp_path, room=10**6)
    with pytest.raises(ImageError, match="the row holds no image bytes"):
        read(refs[0])
    assert read(refs[1]) == b"y"


def test_a_file_that_got_shorter_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([b"x"] * 4, 2))
    read, refs = reader(tmp_path, room=10**6)
    path.write_bytes(parquet([b"x"] * 3, 2))
    assert read(refs[2]) == b"x"
    with pytest.raises(ImageError, match="fewer rows than when it was planned"):
        read(refs[3])


def test_what_several_want_is_made_once_and_a_storage_that_was_away_is_asked_again() -> None:
    shared, made = Shared[int](100), []

    def make() -> int:
        made.append(1)
        if len(made) == 1:
            raise StorageUnavailable("away") from OSError(5, os.strerror(5))
        return 7

    with pytest.raises(StorageUnavailable), shared.lent("a", 1, make):
        pass
    for _ in range(3):
        with shared.lent("a", 1, make) as value:
            assert value == 7
    assert len(made) == 2
