"""Lines cannot command a terminal, wherever they come from; files appear whole or not at all."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.output import destination, new_file, os_errors, say, say_error, shown
from service.overlays import write_overlays
from service.pages import write_report
from service.rows import json_of
from store.errors import Damaged, StorageFull, StorageUnavailable
from tests.service.entry_point import Run
from tests.store.worlds import TinyWorld, tiny_store
from tests.textcam.test_diff import edited
from textcam.answers import Explanation

HOSTILE = "a\x1b[2Jb\x07c\x9bd\u202ee\x7f\udcff"
WRITTEN_OUT = r"a\x1b[2Jb\x07c\x9bd\u202ee\x7f\udcff"


# --- lines ------------------------------------------------------------------------------------------------


def test_controls_are_written_out_and_all_else_is_kept() -> None:
    assert shown(HOSTILE) == WRITTEN_OUT
    plain = "Schneepflug & Söhne – 雪, −0.5\u00a0% 'x' 👩‍🚀"
    assert shown(plain) == plain
    assert shown("one\ntwo\tthree") == r"one\ntwo\tthree"
    assert shown("one\ntwo\x1b", keep="\n") == "one\ntwo\\x1b"


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("star\nok", HOSTILE)
    say_error(Damaged("It is cut short.", where=f"parts/{HOSTILE}", fix="Restore it."))
    out, err = capsys.readouterr()
    assert out == f"star\\nok\n{WRITTEN_OUT}\n"
    assert err == f"error: It is cut short.\n  where: parts/{WRITTEN_OUT}\n  fix:   Restore it.\n"


def test_json_is_the_same_value_without_controls() -> None:
    for spaces in (None, 1):
        text = json_of({HOSTILE: [HOSTILE, "one\ntwo"]}, spaces)
        assert json.loads(text) == {HOSTILE: [HOSTILE, "one\ntwo"]}
        assert all(character.isprintable() or character == "\n" for character in text)


CALL = """
import sys
from service.cli import entry
sys.argv = ["textcam", *sys.argv[1:]]
entry()
"""


def on_a_terminal(*arguments: object) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CALL, *map(str, arguments)], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 4096):
            written += chunk
    os.close(ours)
    process.wait(timeout=60)
    return written.decode()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a class that would clear the screen."""

    def named(rows: list[dict]) -> list[dict]:
        return [row | {"name": f"{row['name']}\x1b[2J"} for row in rows]

    folder = tmp_path_factory.mktemp("hostile") / "store"
    edited(folder, {"classes": named})
    return folder


@pytest.mark.parametrize(
    "request_",
    [
        ["sql", "SELECT name FROM classes ORDER BY class_id LIMIT 1"],
        ["sql", "SELECT name FROM classes ORDER BY class_id LIMIT 1", "--csv"],
        ["sql", "SELECT name FROM classes ORDER BY class_id LIMIT 1", "--json"],
        ["sql", "SELECT name FROM classes ORDER BY class_id LIMIT 1", "--json-lines"],
        ["sql", "SELECT 'star\x1b[2J' FROM nowhere"],
        ["audit"],
        ["audit", "--csv"],
        ["mark", "0", "core"],
        ["explain", "star\x1b[2J"],
    ],
    ids=lambda words: " ".join(words).encode("unicode_escape").decode(),
)
def test_no_command_lets_a_name_reach_the_terminal(hostile: Path, request_: list[str]) -> None:
    command, *rest = request_
    said = on_a_terminal(command, hostile, *rest)
    assert "[2J" in said  # it is shown,
    assert "\x1b" not in said  # and does nothing


def test_csv_in_a_pipe_has_names_as_they_are(hostile: Path, textcam: Run) -> None:
    said = textcam("sql", hostile, "SELECT name FROM classes ORDER BY class_id LIMIT 1", "--csv")
    assert said.out == '"name"\n"circle\x1b[2J"\n'


# --- files ------------------------------------------------------------------------------------------------


def written(path: Path, data: bytes, error: type[Exception] | None = None) -> bool:
    """Whether it came to the end; with ``error`` it is raised on the way."""
    with contextlib.suppress(KeyError), new_file(path, "It cannot be written") as file:
        file.write(data)
        if error:
            raise error
        return True
    return False


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "answer.csv"
    with new_file(path, "It cannot be written") as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert not written(path, b"half of tw", KeyError)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_file(tmp_path / "link", "It cannot be written") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_errors_have_one_name_each(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match=r"It cannot be written: No space left on device\."):
        written(Path("/dev/full"), b"one")
    with pytest.raises(StorageUnavailable, match="No such file or directory") as caught:
        written(tmp_path / "no" / "file", b"one")
    assert caught.value.exit_code == 1
    assert Path("/dev/full").is_char_device()  # it was not replaced
    with pytest.raises(Damaged), os_errors("It cannot be written", tmp_path):
        raise Damaged("An error of ours stays as it is.")


def test_a_dash_is_stdout(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    for out in (None, Path("-")):
        with destination(out) as file:
            file.write(b"one\n")
    assert capfdbinary.readouterr().out == b"one\none\n"


# --- a full disk, in every place that writes --------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A real file system with a few pages left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    (disk / "filler").write_bytes(bytes(56 << 10))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "store"
    tiny_store(folder, TinyWorld(images=97))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["sql", "STORE", "SELECT range, md5(range::VARCHAR) FROM range(10000)", "--csv", "-o", "FULL/a.csv"],
        ["sql", "STORE", "SELECT range FROM range(10000)", "-o", "FULL/a.txt"],
        ["audit", "STORE", "--json", "-o", "/dev/full"],
        ["slices", "STORE", "-o", "FULL/slices"],
        ["slices", "STORE", "-o", "FULL/slices", "--csv"],
        ["suppress", "STORE", "0", "-o", "/dev/full"],
        ["init", "-o", "/dev/full", "--force"],
        ["report", "PAGES", "-o", "FULL/report"],
    ],
    ids=lambda words: " ".join(words[:1] + words[-3:]),
)
def test_a_full_disk_leaves_with_3(
    textcam: Run, store: Path, written_store: Path, full_disk: Path, words: list[str]
) -> None:
    meant = {"STORE": str(store), "PAGES": str(written_store)}
    said = textcam(*(meant.get(word, word.replace("FULL", str(full_disk))) for word in words))
    assert (said.code, said.out) == (3, "")
    assert "No space left on device" in said.err
    unfinished = [file for file in full_disk.rglob("*") if file.name.startswith(".tmp-")]
    assert not unfinished
    assert not (full_disk / "a.csv").exists()


def test_pictures_on_a_full_disk(full_disk: Path) -> None:
    maps = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    view = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    found = Explanation(
        class_id=0,
        class_name="star",
        words=(),
        groups=(),
        saliency_map=maps[0],
        group_maps=maps[:0],
        view=view,
    )
    with pytest.raises(StorageFull, match="pictures cannot be written"):
        write_overlays(found, "x", full_disk, 1)
    assert [file.name for file in full_disk.iterdir()] == ["filler"]


def test_a_report_on_a_full_disk_is_no_traceback(written_store: Path, full_disk: Path) -> None:
    with pytest.raises(StorageFull, match="report cannot be written"):
        write_report(written_store, full_disk / "report")
