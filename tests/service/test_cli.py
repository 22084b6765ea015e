"""The command line: what goes to stdout and what to stderr, exit codes, and answers compared whole."""

import contextlib
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from pipelines.config_file import load_config
from service.cli import app
from service.overlays import stem_of, write_overlays
from service.printing import byte_count, duration, model_lines
from service.rows import plain
from service.wording import in_doubt
from store.reader import Snapshot
from store.schema import stable_id
from tests.pipelines import worlds as runs
from tests.service.entry_point import Run, Said
from tests.store.worlds import TinyWorld
from tests.textcam.worlds import hand_store, hand_world
from textcam.answers import Explanation, GroupWords, Word
from textcam.query import Query

COMMANDS = {
    "demo": "textcam demo",
    "init": "textcam init",
    "plan": "textcam plan",
    "precompute": "textcam precompute",
    "add": "textcam add",
    "explain": "textcam explain",
    "search": "textcam search",
    "audit": "textcam audit",
    "data": "textcam data",
    "slices": "textcam slices",
    "mark": "textcam mark",
    "marks": "textcam marks",
    "unmark": "textcam unmark",
    "suppress": "textcam suppress",
    "report": "textcam report",
    "info": "textcam info",
    "sql": "textcam sql",
    "diff": "textcam diff",
    "compare": "textcam compare",
    "verify": "textcam verify",
    "prune": "textcam prune",
    "doctor": "textcam doctor",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_store(tmp_path_factory.mktemp("hand") / "store")


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return hand_world()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of a real run with small models, finished once."""
    folder = tmp_path_factory.mktemp("run")
    runs.write_images(folder / "images")
    runs.config(folder)  # writes the text bank
    path = folder / "run.yaml"
    path.write_text(
        """
images: {uri: images}
classifier: {model: "python:tests.pipelines.models:linear_classifier"}
encoder: {model: "python:tests.pipelines.models:clip"}
texts: {bank: texts.csv}
directions: {examples: 4}
groups: {count: 3}
run: {executor: inline, shard_size: 12, batch_size: 4, device: cpu}
store: store
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "precompute", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder / "first.txt").write_text(done.stdout)
    (folder / "first.err").write_text(done.stderr)
    return path


# --- help and usage ---------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_command_has_help_with_an_example() -> None:
    assert list(commands()) == list(COMMANDS)
    for name, command in commands().items():
        first, _, rest = command.help.partition("\n")
        assert 10 < len(first) <= 60, f"{name}: its line in the list of commands would be cut"
        assert re.search(rf"^Example: {COMMANDS[name]}\b", rest, re.MULTILINE), name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name} has no help"


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    probe = (
        "import sys\nfrom service.cli import main\nsys.argv = ['textcam', '--help']\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = ('numpy', 'pyarrow', 'duckdb', 'torch', 'ray', 'pydantic', 'jinja2', 'textcam.query')\n"
        "    print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    listed = re.findall(r"^  ([a-z]+)  +\S", done.stdout, re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["explode"], "No such command"),
        (["explain"], "Missing argument 'STORE'"),
        (["explain", "somewhere"], "Missing argument 'IMAGE'"),
        (["search", "somewhere", "water", "--in", "pixels"], "'pixels' is not one of"),
        (["search", "somewhere", "water", "--top", "0"], "greater than or equal to 1"),
        (["info", "somewhere", "--loud"], "No such option"),
    ],
)
def test_wrong_usage_leaves_with_2_and_says_why_on_stderr(
    textcam: Run, arguments: list[str], reason: str
) -> None:
    said = textcam(*arguments)
    assert (said.code, said.out) == (2, "")
    assert reason in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["verify"],
        ["audit"],
        ["search", "water"],
        ["sql", "SELECT 1"],
        ["explain", "photo.jpg"],
        ["report", "-o", "pages"],
    ],
)
def test_a_missing_store_is_one_message_without_a_traceback(
    textcam: Run, tmp_path: Path, arguments: list[str]
) -> None:
    command, *rest = arguments
    said = textcam(command, tmp_path / "nowhere", *rest)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: No committed store here.\n  where: ")
    assert str(tmp_path / "nowhere") in said.err
    assert "\n  fix:   " in said.err
    assert "Traceback" not in said.err


def test_a_snapshot_that_is_not_there_is_named(textcam: Run, store: Path) -> None:
    assert textcam("info", f"{store}@1").code == 0
    said = textcam("info", f"{store}@2")
    assert said.code == 2
    assert "No snapshot 2 in this store." in said.err


# --- sql --------------------------------------------------------------------------------------------------


def test_sql_json_is_a_list_of_row_objects_with_whole_ids(
    textcam: Run, store: Path, world: TinyWorld
) -> None:
    said = textcam(
        "sql",
        store,
        "SELECT image_id, uri, label, shard FROM images ORDER BY uri LIMIT 2",
        "--json",
    )
    assert (said.code, said.err) == (0, "")
    assert world.image_ids[0] > 1 << 53  # would not survive as a float
    assert json.loads(said.out) == [
        {"image_id": int(world.image_ids[i]), "uri": world.uris[i], "label": 0, "shard": shard}
        for i, shard in ((0, 0), (3, 0))
    ]


def test_sql_json_knows_no_nan(textcam: Run, store: Path) -> None:
    said = textcam(
        "sql",
        store,
        "SELECT 'nan'::DOUBLE AS x, NULL AS y, [1, 2] AS z, sum(n) AS n, true AS t, DATE '2020-01-02' AS d "
        "FROM (VALUES (9007199254740993), (2)) AS v(n)",
        "--json",
    )
    assert json.loads(said.out) == [
        {"x": None, "y": None, "z": [1, 2], "n": 9007199254740995, "t": True, "d": "2020-01-02"}
    ]


def test_sql_prints_aligned_columns(textcam: Run, store: Path) -> None:
    said = textcam("sql", store, "SELECT name, bias, n_images FROM classes ORDER BY class_id")
    assert said == Said(
        0,
        "name    bias  n_images\ncircle   0.5         4\nsquare  -0.5         4\nstar    0.25         3\n",
        "",
    )
    assert textcam("sql", store, "SELECT name FROM classes WHERE false").out == "name\n"
    vector = textcam("sql", store, "SELECT weights FROM classes WHERE class_id = 0").out.splitlines()
    assert vector == ["weights", "[2, 0, 0, 1, ... 7]"]


def test_sql_csv_goes_to_its_file(textcam: Run, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    said = textcam(
        "sql",
        store,
        "SELECT uri, image_id, NULL AS gap, ['a', 'b'] AS list FROM images ORDER BY uri LIMIT 1",
        "--csv",
        "-o",
        path,
    )
    assert said == Said(0, "", "")
    assert list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")))) == [
        ["uri", "image_id", "gap", "list"],
        ["circle/bild-ä-00.png", str(stable_id("circle/bild-ä-00.png")), "", '["a", "b"]'],
    ]
    refused = textcam("sql", store, "SELECT 1 AS one", "--csv", "-o", tmp_path / "no" / "out.csv")
    assert (refused.code, refused.out) == (1, "")
    assert "answer cannot be written" in refused.err


@pytest.mark.parametrize("query", ["SELECT nothing FROM images", "DROP VIEW images", "SELEC", ""])
def test_sql_that_is_wrong_or_writes_is_refused(textcam: Run, store: Path, query: str) -> None:
    said = textcam("sql", store, query)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err


# --- search, explain, audit, info -------------------------------------------------------------------------


def test_search_prints_matches(textcam: Run, store: Path) -> None:
    assert json.loads(textcam("search", store, "a star", "--top", 1, "--json").out) == [
        {"id": 2, "label": "a star, a circle, a square", "similarity": 1.0}
    ]
    said = textcam("search", store, "a star", "--in", "groups")
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["id", "similarity"],
        ["0", "0.5"],
        ["1", "0"],
    ]
    assert json.loads(textcam("search", store, "a star", "--in", "texts", "--top", 1, "--json").out) == [
        {"id": stable_id("a star"), "label": "a star", "similarity": 1.0}
    ]


def test_explain_prints_words_and_groups(textcam: Run, store: Path, world: TinyWorld) -> None:
    found = Query.open(store).explain_image(int(world.image_ids[0]))
    circle, point = found.words
    said = in_doubt(f"a circle {circle.coefficient:.2f}, a point {point.coefficient:.2f}", found.confidence)
    groups = [
        in_doubt(text, group.confidence)
        for text, group in zip(("a circle", "a point"), found.groups, strict=True)
    ]
    assert textcam("explain", store, world.uris[0]) == Said(
        0,
        "circle/bild-ä-00.png: circle (logit 7.50)\n"
        f"  words            {said}\n"
        f"  group 0      86 %  {groups[0]}\n"
        f"  group 1      14 %  {groups[1]}\n",
        "",
    )
    against = textcam("explain", store, world.image_ids[0], "--class", "star", "--top", 1)
    assert against.out.splitlines()[2:] == ["  group 0   against  (no words fit)"]


def test_explain_json_has_one_object_an_image(textcam: Run, store: Path, world: TinyWorld) -> None:
    found = Query.open(store).explain_image(int(world.image_ids[0]))
    said = textcam("explain", store, world.uris[0], world.uris[1], "--top", 1, "--json")
    first, second = json.loads(said.out)
    word = {"text_id": stable_id("a circle"), "text": "a circle", "kind": "object"}
    assert first == {
        "image": world.uris[0],
        "image_id": int(world.image_ids[0]),
        "class_id": 0,
        "class_name": "circle",
        "logit": 7.5,
        "confidence": pytest.approx(found.confidence),
        "words": [
            {
                **word,
                "coefficient": found.words[0].coefficient,
                "similarity": pytest.approx(6 / 37**0.5),
            }
        ],
        "groups": [
            {
                "group_id": 0,
                "contribution": 6.0,
                "share": pytest.approx(6 / 7),
                "words": [
                    {
                        **word,
                        "coefficient": found.groups[0].words[0].coefficient,
                        "similarity": pytest.approx(1.0),
                    }
                ],
                "confidence": pytest.approx(found.groups[0].confidence),
            }
        ],
        "files": [],
    }
    assert second["image"] == world.uris[1]


def test_one_bad_image_does_not_cost_the_others(textcam: Run, store: Path, world: TinyWorld) -> None:
    said = textcam("explain", store, "nowhere.png", world.uris[0], "--json")
    assert said.code == 2
    assert [one["image"] for one in json.loads(said.out)] == [world.uris[0]]
    assert said.err.startswith("error: No such file, and no image of the store has this URI or id.\n")
    assert said.err.count("error:") == 1


def test_a_class_that_is_not_there_is_one_error(textcam: Run, store: Path, world: TinyWorld) -> None:
    said = textcam("explain", store, *world.uris[:3], "--class", "sqare")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "error: There is no class 'sqare'.\n  where: classes\n  fix:   Did you mean square or star?\n"
    )


def test_audit_prints_sentences_json_and_csv(textcam: Run, store: Path, tmp_path: Path) -> None:
    said = textcam("audit", store)
    first, second = said.out.splitlines()
    assert (said.code, said.err) == (0, "")
    assert first.startswith('  0. star: 40 % of the evidence is "a watermark" (shortcut). With it 90 % right')
    assert second.startswith('  1. circle: 20 % of the evidence is "a meadow" (association). ')
    assert textcam("audit", store, "--top", 1).out == first + "\n"
    (record,) = json.loads(textcam("audit", store, "--top", 1, "--json").out)
    assert (record["class_name"], record["text"], record["n_with"], record["verdict"]) == (
        "star",
        "a watermark",
        5,
        "used",
    )
    assert f"  0. {record['sentence']}" == first
    path = tmp_path / "findings.csv"
    assert textcam("audit", store, "--csv", "-o", path) == Said(0, "", "")
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert [(row["class_name"], row["text"], row["accuracy_without"]) for row in rows] == [
        ("star", "a watermark", "0.30000001192092896"),
        ("circle", "a meadow", ""),
    ]


def test_info_tells_counts_and_models(textcam: Run, store: Path) -> None:
    lines = textcam("info", store).out.splitlines()
    assert lines[:6] == [
        f"store       {store}",
        "snapshot    1 (format 3)",
        "images      11, not used: 1",
        "classifier  timm:resnet18 (random): 7 channels in 2 groups, 3 classes",
        "encoder     ViT-B-32 (none): 17 numbers, 13 texts",
        "findings    2",
    ]
    told = json.loads(textcam("info", store, "--json").out)
    assert told["tables"]["examples"]["rows"] == 28
    assert told["config"]["classifier"]["model"] == "timm:resnet18"


def test_report_prints_its_first_page(textcam: Run, written_store: Path, tmp_path: Path) -> None:
    said = textcam("report", written_store, "-o", tmp_path / "pages")
    assert said == Said(0, f"{tmp_path / 'pages' / 'index.html'}\n", "")
    assert "Schneepflug &amp; Söhne" in (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")


def test_a_model_in_short_names_each_class_and_its_findings(store: Path) -> None:
    query = Query.open(store)
    lines = model_lines(query, "This model", words=1, findings=1)
    assert lines[0] == "This model sees"
    for line, name in zip(lines[1:4], ("circle", "square", "star"), strict=True):
        described = query.describe_class(name)
        best = described.words[0]
        said = in_doubt(f"{best.text} {100 * (best.share or 0):.0f} %", described.confidence)
        assert line == f"  {name:<6}  by {said}"
    assert lines[4] == "and its findings are"
    assert lines[5].startswith('  0. star: 40 % of the evidence is "a watermark"')
    assert len(lines) == 6


# --- verify, doctor, init ---------------------------------------------------------------------------------


def test_verify_finds_a_flipped_byte(textcam: Run, tmp_path: Path) -> None:
    store = hand_store(tmp_path / "store")
    assert textcam("verify", store) == Said(0, "ok\n", "")
    assert json.loads(textcam("verify", store, "--json").out) == []
    part = Snapshot.open(store).parts("texts")[0]
    data = bytearray((store / part.path).read_bytes())
    data[len(data) // 2] ^= 1
    (store / part.path).write_bytes(bytes(data))
    said = textcam("verify", store)
    assert said.code == 1
    *problems, count = said.out.splitlines()
    assert count == f"problems: {len(problems)}"
    assert problems
    assert any(part.path in problem for problem in problems)
    found = json.loads(textcam("verify", store, "--json").out)
    assert [sorted(problem) for problem in found] == [["kind", "what", "where"]] * len(problems)
    answered = textcam("search", store, "a star")
    assert (answered.code, answered.out) == (1, "")
    assert part.path in answered.err


def test_doctor_says_ok_or_why_not(textcam: Run, tmp_path: Path) -> None:
    said = textcam("doctor", "-o", tmp_path)
    assert (said.code, said.err) == (0, "")
    told = {line[4:].split("  ")[0]: (line[:2], line) for line in said.out.splitlines()}
    assert list(told) == [
        "python",
        "core packages",
        "precompute packages",
        "serve packages",
        "cores",
        "memory",
        "gpu",
        f"write to {tmp_path}",
    ]
    assert f"numpy {np.__version__}" in told["core packages"][1]
    assert told["python"][0] == "ok"
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
    refused = textcam("doctor", "-o", tmp_path / "nowhere", "--json")
    assert refused.code == 1
    assert json.loads(refused.out)[-1] == {
        "name": f"write to {tmp_path / 'nowhere'}",
        "ok": False,
        "told": "No such file or directory",
        "needed": True,
    }


def test_init_writes_a_configuration_that_is_valid(textcam: Run, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    said = textcam("init", "-o", path, "--images", "/data/my: birds #1", "--store", "s3://bucket/birds")
    assert said == Said(0, f"wrote {path}\nnext: textcam plan {path}\n", "")
    loaded = load_config(path)
    assert (loaded.images.uri, loaded.store) == ("/data/my: birds #1", "s3://bucket/birds")
    assert loaded.classifier.model == "timm:resnet50.a1_in1k"
    again = textcam("init", "-o", path)
    assert (again.code, again.out) == (2, "")
    assert again.err == (
        f"error: The file is already there.\n  where: {path}\n  fix:   Name another file, or add --force.\n"
    )
    assert textcam("init", "-o", path, "--force").code == 0
    assert load_config(path).images.uri == "/data/images"
    assert textcam("init", "-o", tmp_path / "no" / "my.yaml").code == 1


def test_the_starting_configuration_says_the_defaults(textcam: Run, tmp_path: Path) -> None:
    """What its comments call the values of keys left out must be so."""
    path, bare = tmp_path / "all.yaml", tmp_path / "bare.yaml"
    textcam("init", "-o", path)
    loaded = load_config(path)
    bare.write_text(
        "images: {uri: /data/images}\nstore: textcam-store\n"
        f"classifier: {{model: '{loaded.classifier.model}'}}\n"
        f"encoder: {{model: '{loaded.encoder.model}', weights: '{loaded.encoder.weights}'}}\n"
    )
    assert loaded == load_config(bare)


# --- runs -------------------------------------------------------------------------------------------------


def test_precompute_reports_on_stderr_and_answers_on_stdout(config: Path) -> None:
    out = (config.parent / "first.txt").read_text().splitlines()
    err = (config.parent / "first.err").read_text().splitlines()
    told = dict(line.split(None, 1) for line in out if not line.startswith((" ", "next:")))
    assert (told["images"], told["errors"], told["snapshot"]) == ("23", "0", "1")
    assert out[-2:] == [
        f"next: textcam audit {config.parent / 'store'}",
        f"      textcam report {config.parent / 'store'} -o report",
    ]
    assert [line for line in err if line.startswith("extract: 2/2, 23 images")]
    assert not any("\x1b" in line or "\r" in line for line in err)
    assert err[-1].startswith("commit: 1/1")


def test_precompute_json_is_all_of_stdout(textcam: Run, config: Path) -> None:
    said = textcam("precompute", config, "--json")
    told = json.loads(said.out)
    assert (said.code, told["images"], told["snapshot"], told["new"]) == (0, 23, 1, False)
    assert told["store"] == str(config.parent / "store")


def test_explain_draws_what_it_says(textcam: Run, config: Path, tmp_path: Path) -> None:
    store, out = config.parent / "store", tmp_path / "overlays"
    image = config.parent / "images" / "red" / "000.png"
    said = textcam("explain", store, image, "red/003.png", "--out", out, "--json", "--top", 3, "--trust-code")
    assert said.code == 0, said.err
    first, second = json.loads(said.out)
    assert (first["image"], first["image_id"]) == (str(image), None)
    assert (second["image"], second["image_id"]) == ("red/003.png", stable_id("red/003.png"))
    for one, stem in ((first, "red-000"), (second, "red-003")):
        drawn = [f"{stem}--{one['class_name']}--all.png"] + [
            f"{stem}--{one['class_name']}--group-{group['group_id']:03d}"
            + "".join(f"-{word['text']}" for word in group["words"][:1])
            + ".png"
            for group in one["groups"]
            if group["contribution"] > 0
        ]
        assert [Path(file).name for file in one["files"]] == drawn
    assert sorted(path.name for path in out.iterdir()) == sorted(
        Path(file).name for one in (first, second) for file in one["files"]
    )
    found = Query.open(store, trust_code=True).explain_image(image)
    whole = np.asarray(Image.open(first["files"][0]).convert("RGB"), np.float32)
    side = whole.shape[0] // 4  # a cell of the 4 x 4 map
    assert found.saliency_map is not None
    assert found.view is not None
    plain_view = Image.fromarray(found.view).resize(whole.shape[1::-1], Image.Resampling.BICUBIC)
    changed = np.abs(whole - np.asarray(plain_view, np.float32)).mean(axis=2)
    by_cell = changed.reshape(4, side, 4, side).mean(axis=(1, 3))
    strongest = np.unravel_index(found.saliency_map.argmax(), (4, 4))
    assert by_cell[strongest] > np.median(by_cell)


def test_the_map_of_a_weak_group_looks_weak(tmp_path: Path) -> None:
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 0], maps[1, 3, 3] = 4.0, 0.25
    word = Word(1, "a star / ring", "object", coefficient=1.0)
    groups = (GroupWords(7, 4.0, 0.9, (word,)), GroupWords(2, 0.25, 0.1, ()), GroupWords(3, -1.0, 0.0, ()))
    found = Explanation(
        class_id=0,
        class_name="sea star",
        words=(word,),
        groups=groups,
        saliency_map=maps.sum(axis=0),
        group_maps=np.concatenate([maps, -np.ones((1, 4, 4), np.float32)]),
        view=np.full((64, 64, 3), 128, np.uint8),
    )
    files = write_overlays(found, stem_of("a/b/c d.jpg", set()), tmp_path, groups=3)
    assert [file.name for file in files] == [
        "b-c-d--sea-star--all.png",
        "b-c-d--sea-star--group-007-a-star-ring.png",
        "b-c-d--sea-star--group-002.png",  # the third speaks against the class and is not drawn
    ]
    whole, strong, weak = (np.asarray(Image.open(file), np.float32) for file in files)
    ground = strong[-1, -1]  # where this map is 0
    assert whole.shape == (384, 384, 3)
    marked, faint = np.abs(strong[0, 0] - ground).sum(), np.abs(weak[-1, -1] - ground).sum()
    assert 20 < faint < marked / 2
    np.testing.assert_array_equal(weak[0, 0], ground)
    np.testing.assert_array_equal(write_overlays(replace(found, view=None), "x", tmp_path, 3), [])


def test_images_of_one_name_get_files_of_their_own() -> None:
    taken: set[str] = set()
    names = ["one/red/1.jpg", "two/red/1.jpg", "two/red/1.png", "v1.5 bus.jpg", "ähre.png", "-.jpg"]
    assert [stem_of(name, taken) for name in names] == [
        "red-1",
        "red-1-2",
        "red-1-3",
        "v1.5-bus",
        "ähre",
        "x",
    ]


def test_explain_takes_a_map_of_another_tool(textcam: Run, config: Path, tmp_path: Path) -> None:
    store, image = config.parent / "store", "red/003.png"
    mapped = ("--trust-code", "--map", tmp_path / "map.npy")
    found = Query.open(store, trust_code=True).explain_image(Query.open(store).image_id(image), maps=True)
    assert found.saliency_map is not None
    np.save(tmp_path / "map.npy", np.maximum(found.saliency_map, 0))
    said = textcam("explain", store, image, *mapped)
    assert said.code == 0
    assert said.out.startswith(f"{image}: ")
    assert "of the map is in no sum of the layer's maps" in said.out
    record = json.loads(textcam("explain", store, image, *mapped, "--json").out)[0]
    assert 0 <= record["residual"] < 1
    two = textcam("explain", store, image, image, *mapped)
    assert (two.code, "One map, and 2 images." in two.err) == (2, True)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    bad = textcam("explain", store, image, "--map", tmp_path / "bad.npy")
    assert (bad.code, "The map cannot be read" in bad.err) == (2, True)


def test_explain_without_a_folder_draws_nothing(textcam: Run, config: Path, tmp_path: Path) -> None:
    image = config.parent / "images" / "red" / "000.png"
    said = textcam("explain", config.parent / "store", image, "--trust-code")
    assert said.code == 0
    assert "wrote" not in said.out
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    refused = textcam("explain", config.parent / "store", bad)
    assert refused.code == 1
    assert "cannot be decoded" in refused.err
    assert str(bad) in refused.err
    blocked = textcam("explain", config.parent / "store", image, "--out", bad / "folder", "--trust-code")
    assert blocked.code == 1
    assert "pictures cannot be written" in blocked.err


def test_code_of_a_store_runs_for_those_who_say_so(textcam: Run, config: Path) -> None:
    store, image = config.parent / "store", config.parent / "images" / "red" / "000.png"
    refused = textcam("explain", store, image)
    assert (refused.code, refused.out) == (2, "")
    assert "nothing of it was run" in refused.err
    assert "imports tests.pipelines.models and calls linear_classifier()" in refused.err
    assert "--trust-code" in refused.err
    assert textcam("explain", store, "red/000.png").code == 0  # of what is stored, without a model
    refused = textcam("search", store, "no text of the bank")
    assert (refused.code, "calls clip()" in refused.err) == (2, True)
    assert textcam("search", store, "no text of the bank", "--trust-code").code == 0


@pytest.mark.parametrize("command", ["plan", "precompute"])
def test_a_wrong_configuration_leaves_with_2(textcam: Run, tmp_path: Path, command: str) -> None:
    said = textcam(command, tmp_path / "none.yaml")
    assert (said.code, said.out) == (2, "")
    assert "There is no such configuration file." in said.err
    bad = tmp_path / "bad.yaml"
    bad.write_text("images: {uri: here, fromat: folder}\nstore: there\n")
    said = textcam(command, bad)
    assert said.code == 2
    assert "images.fromat" in said.err
    assert "format" in said.err
    assert str(bad) in said.err


def test_a_run_with_too_many_bad_images_leaves_with_1(textcam: Run, config: Path, tmp_path: Path) -> None:
    runs.write_images(tmp_path / "images")
    runs.config(tmp_path)
    (tmp_path / "images" / "red" / "text.jpg").write_text("This is no image.")
    (tmp_path / "run.yaml").write_text(config.read_text())
    said = textcam("precompute", tmp_path / "run.yaml")
    assert (said.code, said.out) == (1, "")
    assert "1 of 24 images could not be used" in said.err
    assert "red/text.jpg" in said.err
    assert textcam("info", tmp_path / "store").code == 2  # nothing was committed


STAGES = """
from pipelines.spread import Progress
from service.progress import ProgressDisplay

with ProgressDisplay() as display:
    display(Progress("extract", 0, 2))
    display(Progress("extract", 1, 2, 12))
    display(Progress("extract", 2, 2, 23, 1))
    display.named("biased", Progress("commit", 1, 1))
"""


def on_a_terminal(**environment: str) -> str:
    """What a run's progress writes to stderr where that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", STAGES],
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 4096):
            written += chunk
    os.close(ours)
    assert process.wait(timeout=120) == 0, written.decode()
    return written.decode()


def test_bars_only_on_a_terminal_and_colours_only_where_wanted() -> None:
    foreground = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    shown = on_a_terminal()
    for said in ("extract", "━", "2/2", "23 images", "1 errors", "biased commit"):
        assert said in shown
    assert foreground.search(shown)
    plainer = on_a_terminal(NO_COLOR="1")
    assert "━" in plainer
    assert not foreground.search(plainer)
    assert on_a_terminal(TERM="dumb").splitlines() == [
        "extract: 0/2",
        "extract: 2/2, 23 images, 1 errors",
        "biased commit: 1/1",
    ]


# --- values for reading -----------------------------------------------------------------------------------


def test_amounts_are_readable() -> None:
    assert [byte_count(size) for size in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
    assert [duration(seconds) for seconds in (7.31, 119, 300, 4000, 7260)] == [
        "7.3 s",
        "119.0 s",
        "5 min",
        "67 min",
        "2 h 01 min",
    ]


def test_values_become_json() -> None:
    assert plain({"a": float("nan"), "b": (1, float("inf")), 3: Path("x"), "c": np.int64(7)}) == {
        "a": None,
        "b": [1, None],
        "3": "x",
        "c": 7,
    }
