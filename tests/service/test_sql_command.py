"""`textcam sql`: where the query comes from, the four forms of its rows, and its limits."""

import csv
import io
import json
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pyarrow as pa
import pytest

from store.sql import SqlSource
from tests.service.entry_point import Run, Said
from tests.store.worlds import TinyWorld, tiny_store

TWICE = (
    "SELECT a.class_id, b.class_id, a.name FROM classes a JOIN classes b "
    "ON b.class_id = a.class_id + 1 ORDER BY a.class_id"
)
ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE (a.range + b.range) % 7 = 3"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "store"
    tiny_store(folder, TinyWorld())
    return folder


# --- forms ------------------------------------------------------------------------------------------------


def test_columns_of_one_name_keep_their_values_in_every_form(textcam: Run, store: Path) -> None:
    expected = [
        {"class_id": 0, "class_id_1": 1, "name": "circle"},
        {"class_id": 1, "class_id_1": 2, "name": "square"},
    ]
    assert textcam("sql", store, TWICE).out == (
        "class_id  class_id_1  name\n       0           1  circle\n       1           2  square\n"
    )
    assert json.loads(textcam("sql", store, TWICE, "--json").out) == expected
    lines = textcam("sql", store, TWICE, "--json-lines").out.splitlines()
    assert [json.loads(line) for line in lines] == expected
    flat = csv.DictReader(io.StringIO(textcam("sql", store, TWICE, "--csv").out))
    assert list(flat) == [{key: str(value) for key, value in row.items()} for row in expected]


def test_an_answer_without_rows_has_its_columns(textcam: Run, store: Path) -> None:
    none = "SELECT class_id, name FROM classes WHERE false"
    assert textcam("sql", store, none).out == "class_id  name\n"
    assert textcam("sql", store, none, "--csv").out == '"class_id","name"\n'
    assert textcam("sql", store, none, "--json").out == "[]\n"
    assert textcam("sql", store, none, "--json-lines").out == ""


def test_json_that_comes_in_pieces_is_the_document(textcam: Run, store: Path) -> None:
    query = (
        "SELECT range AS n, [range::VARCHAR, 'x' || range] AS pair, {'a': NULL} AS nested FROM range(20000)"
    )
    said = textcam("sql", store, query, "--json").out
    whole = [{"n": n, "pair": [str(n), f"x{n}"], "nested": {"a": None}} for n in range(20000)]
    assert said == json.dumps(whole, indent=1) + "\n"


def test_csv_has_every_type(textcam: Run, store: Path) -> None:
    query = """SELECT 9007199254740993::HUGEINT AS whole, 0.1 AS tenth, 'nan'::DOUBLE AS unknown, true AS yes,
        NULL AS gap, '' AS empty, 'a "quoted", text' AS text, DATE '2020-01-02' AS day, ['a', 'ü'] AS list,
        {'k': [1, 2]} AS struct, MAP {'k': 1} AS map, 'b'::ENUM ('a', 'b') AS kind, INTERVAL 1 DAY AS while,
        array_value(1.5::FLOAT, 2::FLOAT) AS vector"""
    (row,) = csv.DictReader(io.StringIO(textcam("sql", store, query, "--csv").out))
    assert row["while"].startswith("MonthDayNano(") or "1" in row["while"]
    assert {key: value for key, value in row.items() if key != "while"} == {
        "whole": "9007199254740993",
        "tenth": "0.1",
        "unknown": "",
        "yes": "true",
        "gap": "",
        "empty": "",
        "text": 'a "quoted", text',
        "day": "2020-01-02",
        "list": '["a", "ü"]',
        "struct": '{"k": [1, 2]}',
        "map": '[["k", 1]]',
        "kind": "b",
        "vector": "[1.5, 2.0]",
    }


def test_a_table_stays_aligned_where_rows_come_in_batches(textcam: Run, store: Path) -> None:
    lines = textcam(
        "sql", store, "SELECT range AS n, '雪' AS snow, 'x' AS x FROM range(9000)"
    ).out.splitlines()
    assert len(lines) == 9001
    assert lines[:2] == ["   n  snow  x", "   0  雪    x"]
    assert lines[-1] == "8999  雪    x"


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"], ["--json-lines"]], ids=str)
def test_a_million_rows_are_never_held(
    textcam: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    """Counts the batches that are alive whenever another one comes."""
    alive: list[weakref.ref[pa.RecordBatch]] = []
    most, real = 0, SqlSource._batches

    def counted(*arguments: object) -> object:
        nonlocal alive, most
        for batch in real(*arguments):  # type: ignore[arg-type]
            alive = [one for one in alive if one() is not None] + [weakref.ref(batch)]
            most = max(most, len(alive))
            yield batch

    monkeypatch.setattr(SqlSource, "_batches", counted)
    count = 1_000_000 if form == ["--csv"] else 50_000
    out = tmp_path / "out"
    assert textcam("sql", store, f"SELECT range AS n FROM range({count})", *form, "-o", out) == Said(
        0, "", ""
    )
    with out.open() as lines:
        said = sum(1 for _ in lines)
    assert said == {"--csv": count + 1, "--json": 3 * count + 2, "--json-lines": count}.get(
        "".join(form), count + 1
    )
    assert 1 <= most <= 3


# --- where the query comes from ---------------------------------------------------------------------------


def test_a_query_from_a_file_or_stdin(
    textcam: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.sql").write_text(f"-- two classes\n{TWICE};\n")
    written = textcam("sql", store, TWICE).out
    assert textcam("sql", store, "-f", tmp_path / "q.sql").out == written
    monkeypatch.setattr(sys, "stdin", io.StringIO(TWICE))
    assert textcam("sql", store, "-").out == written


def test_no_query_or_two_are_refused(textcam: Run, store: Path, tmp_path: Path) -> None:
    none = textcam("sql", store)
    assert (none.code, none.out) == (2, "")
    assert "There is no query." in none.err
    both = textcam("sql", store, TWICE, "-f", tmp_path / "q.sql")
    assert (both.code, "QUERY and --file exclude each other." in both.err) == (2, True)
    missing = textcam("sql", store, "-f", tmp_path / "nowhere.sql")
    assert (missing.code, "The query cannot be read" in missing.err) == (1, True)
    (tmp_path / "bytes.sql").write_bytes(b"\xff\xfe")
    assert textcam("sql", store, "-f", tmp_path / "bytes.sql").code == 2


# --- limits -----------------------------------------------------------------------------------------------


def test_a_query_that_takes_too_long_is_stopped_and_leaves_no_file(
    textcam: Run, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_text("what was there")
    for query in (ENDLESS, "FROM range(1000000000000)"):
        said = textcam("sql", store, query, "--csv", "-o", tmp_path / "out.csv", "--seconds", 0.3)
        assert (said.code, said.out) == (1, "")
        assert "longer than 0.3 seconds" in said.err
        assert "--seconds" in said.err
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "what was there"


def test_a_query_that_needs_too_much_memory_is_stopped(textcam: Run, store: Path) -> None:
    sorting = "SELECT md5(range::VARCHAR) AS b FROM range(5000000) ORDER BY b"
    said = textcam("sql", store, sorting, "--memory", 0.03)
    assert (said.code, said.out) == (1, "")
    assert "needs more memory" in said.err
    assert "--memory" in said.err


BEGUN = """
import signal
import sys
import store.sql
from service.cli import entry

real = store.sql._reader
store.sql._reader = lambda *arguments: (print("begun", flush=True), real(*arguments))[1]
sys.argv = ["textcam", *sys.argv[1:]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background ignores it
entry()
"""


def test_a_query_can_be_interrupted(store: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BEGUN, "sql", str(store), ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "stopped\n")
