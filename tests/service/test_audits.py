"""The commands of the audit, run whole on a small store written by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from service.audit_printing import _matched_words
from service.contents import Contents
from store.reader import Snapshot
from tests.service.entry_point import Run
from tests.store.worlds import TinyWorld, tiny_store
from textcam.matching import Matched
from textcam.query import Query


@pytest.fixture
def store(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "store", TinyWorld(images=97))
    return tmp_path / "store"


def pair(store: Path, rank: int = 0) -> str:
    audit = Query.open(store).audit
    return ":".join(audit.pair(audit.findings()[rank]))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_slices_are_written_with_the_users_uris(textcam: Run, store: Path, tmp_path: Path, kind: str) -> None:
    form = ["--csv"] if kind == "csv" else []
    code, out, _ = textcam("slices", store, "-o", tmp_path / "out", *form)
    path = tmp_path / "out" / f"slices.{kind}"
    assert code == 0
    assert f"wrote {path}: " in out
    if kind == "csv":
        rows = list(csv.DictReader(path.open(encoding="utf-8")))
    else:
        rows = pq.read_table(path).to_pylist()
    known = set(Snapshot.open(store).table("images")["uri"].to_pylist())
    assert rows
    assert {row["uri"] for row in rows} <= known
    assert {row["role"] for row in rows} <= {"follows", "breaks", "fails"}
    assert (tmp_path / "out" / f"label_suspects.{kind}").exists()
    assert sorted(file.suffix for file in (tmp_path / "out").iterdir()) == [f".{kind}"] * 2


def test_written_slices_are_those_of_the_query(textcam: Run, store: Path, tmp_path: Path) -> None:
    code, out, error = textcam("slices", store, "-o", tmp_path, "--json")
    query = Query.open(store)
    expected = query.audit.slices(query.findings()).to_pylist()
    key = lambda row: (row["finding_id"], row["image_id"])  # noqa: E731
    written = pq.read_table(tmp_path / "slices.parquet").to_pylist()
    assert sorted(written, key=key) == sorted(expected, key=key)
    suspects = pq.read_metadata(tmp_path / "label_suspects.parquet").num_rows
    assert (code, error) == (0, "")
    assert json.loads(out) == [
        {"file": str(tmp_path / "slices.parquet"), "rows": len(expected)},
        {"file": str(tmp_path / "label_suspects.parquet"), "rows": suspects},
    ]


def test_slices_of_named_findings(textcam: Run, store: Path, tmp_path: Path) -> None:
    query = Query.open(store)
    second = query.findings()[1]
    assert textcam("slices", store, pair(store, 1), "-o", tmp_path).code == 0
    written = pq.read_table(tmp_path / "slices.parquet")["finding_id"].unique().to_pylist()
    assert written == [second.finding_id]
    assert textcam("slices", store, pair(store, 1), "-o", tmp_path, "--top", 1).code == 2


def test_slices_that_cannot_be_written_are_an_error(textcam: Run, store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, error = textcam("slices", store, "-o", tmp_path / "file")
    assert code == 1
    assert "The slices cannot be written" in error


def test_the_data_alone_are_told(textcam: Run, store: Path, tmp_path: Path) -> None:
    code, out, _ = textcam("data", store, "--json")
    told = json.loads(out)
    assert code == 0
    assert set(told) == {"associations", "doubles"}
    assert textcam("data", store, "--csv", "-o", tmp_path / "data.csv").code == 0
    assert (tmp_path / "data.csv").read_text().startswith('"class_name","text"')
    assert "double images: " in textcam("data", store).out


def test_matched_effects_stand_beside_the_findings(textcam: Run, store: Path) -> None:
    code, out, _ = textcam("audit", store, "--matched", "--json")
    rows = json.loads(out)
    assert code == 0
    keys = {"outcome", "effect", "low", "high", "n_with", "n_without"}
    assert rows
    assert all(set(row["matched"]) == keys for row in rows)
    assert "NaN" not in out
    assert "Matched for the rest" in textcam("audit", store, "--matched")[1]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Matched("matched", 0.931, 0.707, 1.0, 9, 8), "Matched for the rest 93 points [71, 100]."),
        (Matched("nothing to match by"), "Matched for the rest: nothing to match by."),
    ],
)
def test_a_matched_effect_in_words(found: Matched, said: str) -> None:
    assert _matched_words(found) == said


def test_a_mark_is_shown_and_overridden(textcam: Run, store: Path) -> None:
    named = pair(store)
    assert textcam("mark", store, named, "spurious", "--note", "one lake") == (
        0,
        f"marked {named} as spurious\n",
        "",
    )
    first = textcam("audit", store)[1].splitlines()[0]
    assert first.endswith("Marked spurious: one lake")
    assert textcam("mark", store, named, "core")[0] == 0
    last = textcam("audit", store)[1].splitlines()[-1]
    assert last.endswith("Marked core.")
    (row,) = [row for row in json.loads(textcam("audit", store, "--json")[1]) if row["mark"]]
    assert (f"{row['class_name']}:{row['text']}", row["mark"], row["note"]) == (named, "core", "")


def test_pages_show_marks(store: Path) -> None:
    audit = Query.open(store).audit
    first, second = audit.findings()[:2]
    audit.mark(first, "core", "it is so")
    rows = Contents.read(Snapshot.open(store), "tiny").findings
    assert [row.finding.finding_id for row in rows[:1]] == [second.finding_id]
    assert rows[-1].finding.finding_id == first.finding_id
    assert rows[-1].sentence.endswith("Marked core: it is so")
    assert [row.finding.rank for row in rows] == [*range(1, len(rows) + 1)]


def test_a_finding_that_is_not_there_is_named(textcam: Run, store: Path) -> None:
    code, out, error = textcam("mark", store, "star:nothing", "core")
    assert (code, out) == (2, "")
    assert f"Name it by CLASS:TEXT or by its rank: {pair(store)}" in error


@pytest.mark.parametrize("method", ["refit", "project"])
def test_a_corrected_head_fits_into_the_users_layer(
    textcam: Run, store: Path, tmp_path: Path, method: str
) -> None:
    path = tmp_path / "head.safetensors"
    code, out, _ = textcam(
        "suppress", store, pair(store), "-o", path, "--method", method, "--prefix", "fc", "--json"
    )
    told = json.loads(out)
    assert code == 0
    assert told["fitted"] + told["held_out"] == 97
    network = torch.nn.ModuleDict({"fc": torch.nn.Linear(7, 3)})
    network.load_state_dict(load_file(path))
    audit = Query.open(store).audit
    made = audit.suppress([audit.finding(pair(store))], method)  # type: ignore[arg-type]
    pooled = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = pooled @ made.weights.T + made.bias
    assert network["fc"](torch.from_numpy(pooled)).detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert "worst group" in textcam("suppress", store, pair(store), "-o", path)[1]


def test_a_head_that_is_not_linear_is_refused(textcam: Run, store: Path, tmp_path: Path) -> None:
    audit = Query.open(store).audit
    classes = audit.catalogue.classes
    audit.catalogue.__dict__["classes"] = type(classes)(
        classes.names, classes.n_images, classes.accuracy, None, None
    )
    from store.errors import QueryError

    with pytest.raises(QueryError, match="not linear"):
        audit.suppress(audit.findings())
