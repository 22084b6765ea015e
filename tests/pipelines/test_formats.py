"""Number formats: one a model, tried where they are left open, and then kept for good."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines import formats
from pipelines.bench import Bench
from pipelines.config import ImagesSection, RunSection
from pipelines.config_file import make_config
from pipelines.estimate import plan
from pipelines.execute import local_ray
from pipelines.formats import (
    LEAST_COSINE,
    Agreement,
    Trial,
    TrialItem,
    cam_doubts,
    choose,
    cosines,
    sampled,
    try_formats,
)
from pipelines.grow import add
from pipelines.images import ImagePlan, plan_shards
from pipelines.run import precompute
from pipelines.together import precompute_together
from store.errors import ConfigError
from store.prune import prune
from store.reader import Snapshot, as_matrix
from store.storage import open_storage
from tests.pipelines import worlds

MIXED = {"classifier": "bfloat16", "encoder": "float32"}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    worlds.write_images(tmp_path / "images")
    return tmp_path


def chosen(uri: Path) -> str | dict[str, str]:
    """The formats that a store remembers."""
    return Snapshot.open(uri).manifest.config["run"]["number_format"]


def always(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Let every trial end so."""
    monkeypatch.setattr(formats, "choose", lambda **rates: answer)


# what is chosen


@pytest.mark.parametrize(
    ("float32", "bfloat16", "cosine", "best"),
    [
        (16.5, 34.5, 0.9999, "bfloat16"),
        (16.5, 34.5, 0.9989, "float32"),
        (32.0, 19.6, 1.0, "float32"),
        (10.0, 10.9, 1.0, "float32"),
        (10.0, 11.0, 0.999, "bfloat16"),
    ],
)
def test_the_faster_format_where_it_keeps_the_numbers(
    float32: float, bfloat16: float, cosine: float, best: str
) -> None:
    assert choose(float32, bfloat16, cosine) == best


@pytest.mark.parametrize(
    ("kept", "best"),
    [
        (None, "bfloat16"),
        (Agreement(0.9999, 0.003), "bfloat16"),
        (Agreement(0.9933, 0.003), "float32"),
        (Agreement(0.9999, 0.033), "float32"),
        (Agreement(float("nan"), float("nan")), "float32"),
    ],
)
def test_the_faster_format_where_cams_stay_the_same(kept: Agreement | None, best: str) -> None:
    assert choose(10.0, 20.0, 1.0, kept) == best


def bench_of(world: Path, model: str, **section: object) -> tuple[Bench, ImagePlan]:
    bench = Bench(worlds.config(world, classifier={"model": model, **section}, run={"batch_size": 4}))
    return bench, plan_shards(bench.config.images, 12)


def test_a_cam_that_bfloat16_breaks_is_seen_where_outputs_are_not(world: Path) -> None:
    bench, plan_of_images = bench_of(world, "python:tests.pipelines.models:delicate_classifier")
    trial = try_formats(bench, TrialItem("classifier", sampled(plan_of_images, 4)))
    assert trial.cosine > LEAST_COSINE
    assert trial.contributions_cosine < LEAST_COSINE
    assert trial.chosen == "float32"
    assert bench.classifier.number_format == "float32"
    assert cam_doubts(bench, plan_of_images) == ()
    bench.classifier.number_format = "bfloat16"
    (said,) = cam_doubts(bench, plan_of_images)
    assert said.startswith("in bfloat16 contributions add up to ")


def test_a_cam_that_bfloat16_keeps_is_left_to_be_fast(world: Path) -> None:
    bench, plan_of_images = bench_of(world, "timm:test_convnext?num_classes=7", weights="random")
    trial = try_formats(bench, TrialItem("classifier", sampled(plan_of_images, 4)))
    assert LEAST_COSINE < trial.contributions_cosine <= 1
    assert trial.contributions_error < 0.02
    bench.classifier.number_format = "bfloat16"
    assert cam_doubts(bench, plan_of_images) == ()


def test_weights_of_a_linear_head_need_no_comparison(world: Path) -> None:
    bench, plan_of_images = bench_of(world, "python:tests.pipelines.models:linear_classifier")
    trial = try_formats(bench, TrialItem("classifier", sampled(plan_of_images, 4)))
    assert (trial.contributions_cosine, trial.contributions_error) == (None, None)


def test_a_run_says_what_its_format_costs_the_cams(world: Path) -> None:
    delicate = {"model": "python:tests.pipelines.models:delicate_classifier"}
    made = precompute(worlds.config(world, classifier=delicate, run={"number_format": "bfloat16"}))
    assert [line.partition(" add")[0] for line in made.cam_doubts] == ["in bfloat16 contributions"]
    plain = precompute(worlds.config(world, "plain", classifier=delicate))
    assert plain.cam_doubts == ()


def test_cosines_row_by_row() -> None:
    nan = np.nan
    plain = np.array([[3, 4, 0], [0, 0, 0], [1, 0, 0], [nan, 1, 1], [1, 1, 1], [0, 0, 0]], np.float32)
    fast = np.array([[4, 3, 0], [0, 0, 0], [0, 2, 0], [1, 1, 1], [nan, 1, 1], [0, 1, 0]], np.float32)
    np.testing.assert_allclose(cosines(plain, fast), [0.96, 1, 0, 1, 0, 0])


def test_a_trial_measures_both_and_leaves_the_model_as_it_was(world: Path) -> None:
    bench = Bench(worlds.config(world))
    shard = sampled(plan_shards(bench.config.images, 12), 16)
    trial = try_formats(bench, TrialItem("classifier", shard))
    assert bench.classifier.number_format == "float32"
    pixels = np.stack([bench.classifier.prepare(_image(world, ref.path)) for ref in shard.refs()])
    rows = []
    for kind in ("float32", "bfloat16"):
        bench.classifier.number_format = kind
        rows.append(np.asarray(bench.classifier.forward(pixels).pooled, np.float64))
    lowest = min(a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(*rows, strict=True))
    assert 0.99 < trial.cosine <= lowest + 1e-9 < 1
    assert (trial.float32 > 0, trial.bfloat16 > 0) == (True, True)


def _image(world: Path, path: str) -> object:
    from PIL import Image

    return Image.open(world / "images" / path).convert("RGB")


# how it is said


def test_one_format_for_both_is_one_word_and_the_same_work() -> None:
    both = RunSection(number_format={"classifier": "bfloat16", "encoder": "bfloat16"})
    assert both == RunSection(number_format="bfloat16")
    limits = [both.max_pixels, both.max_bytes]
    assert both.shaping() == [64, "bfloat16", False, *limits]
    assert RunSection(number_format=MIXED, compile=True).shaping() == [64, MIXED, True, *limits]
    assert RunSection(number_format=MIXED).format_of("classifier") == "bfloat16"
    assert RunSection(number_format={"encoder": "auto"}).format_of("classifier") == "float32"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("float16", "run.number_format: "),
        ({"classifier": "half"}, "run.number_format.classifier: "),
        ({"clasifier": "auto"}, "Did you mean classifier?"),
    ],
)
def test_a_format_that_there_is_not_is_named(given: object, said: str) -> None:
    raw = {"images": {"uri": "x"}, "classifier": {"model": "timm:x"}, "encoder": {"model": "y"}, "store": "z"}
    with pytest.raises(ConfigError) as caught:
        make_config({**raw, "run": {"number_format": given}})
    assert said in caught.value.what


# what a run does with it


def test_each_model_runs_in_its_own_format(world: Path) -> None:
    for name, number_format in (("plain", "float32"), ("mixed", MIXED), ("fast", "bfloat16")):
        precompute(worlds.config(world, name, run={"number_format": number_format}))
    plain, mixed, fast = (worlds.tables(world / name) for name in ("plain", "mixed", "fast"))
    assert mixed["embeddings"].equals(plain["embeddings"])
    assert not mixed["embeddings"].equals(fast["embeddings"])
    assert mixed["activations"].equals(fast["activations"])
    assert not mixed["activations"].equals(plain["activations"])
    assert chosen(world / "mixed") == MIXED


def test_mixed_formats_give_the_same_bits_however_it_is_cut(tmp_path: Path) -> None:
    worlds.write_images(tmp_path / "images", 50)
    for count, size in ((1, 50), (2, 25), (7, 8), (50, 1)):
        run = {"shard_size": size, "number_format": MIXED}
        precompute(worlds.config(tmp_path, f"of-{count}", run=run))
        assert worlds.different_tables(tmp_path / "of-1", tmp_path / f"of-{count}") == []


def test_a_decision_is_made_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = worlds.config(world, run={"number_format": {"classifier": "auto"}, "events": "log"})
    always(monkeypatch, "bfloat16")
    precompute(settings)
    always(monkeypatch, "float32")
    assert not precompute(settings).new
    assert chosen(world / "store") == MIXED
    lines = [json.loads(line) for line in (world / "log").read_text().splitlines()]
    told = [line for line in lines if line["event"] == "format"]
    assert [(line["model"], line["chosen"]) for line in told] == [("classifier", "bfloat16")]
    assert told[0]["float32"] > 0


def test_a_run_that_was_stopped_goes_on_with_its_decision(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    settings = worlds.config(world, run={"number_format": "auto"})
    always(monkeypatch, "bfloat16")
    with monkeypatch.context() as stopped:
        stopped.setattr("pipelines.run.publish.publish", stop)
        with pytest.raises(KeyboardInterrupt):
            precompute(settings)
    always(monkeypatch, "float32")
    precompute(settings)
    precompute(worlds.config(world, "named", run={"number_format": "bfloat16"}))
    assert worlds.files(world / "store") == worlds.files(world / "named")


def test_added_images_and_a_pruned_store_keep_the_decision(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = worlds.config(world, run={"number_format": "auto"})
    always(monkeypatch, "bfloat16")
    precompute(settings)
    always(monkeypatch, "float32")
    worlds.write_images(world / "more", 5, seed=9)
    more = ImagesSection(uri=str(world / "more"))
    add(
        str(world / "store"), more, RunSection(executor="inline", device="cpu", batch_size=4), trust_code=True
    )
    assert chosen(world / "store") == "bfloat16"
    prune(open_storage(world / "store"), grace=timedelta(0))
    assert not list((world / "store" / "work" / "records").glob("formats/*"))
    assert not precompute(settings).new


def test_classifiers_of_one_run_share_the_encoders_format(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["bfloat16", "float32", "bfloat16"])  # the first classifier, the encoder, the second
    monkeypatch.setattr(formats, "choose", lambda **rates: next(answers))
    squashed = {"model": "python:tests.pipelines.models:squashed_classifier"}
    run = {"number_format": "auto"}
    precompute_together(
        {
            "one": worlds.config(world, "both/one", run=run),
            "two": worlds.config(world, "both/two", run=run, classifier=squashed),
        }
    )
    assert chosen(world / "both" / "one") == MIXED
    assert chosen(world / "both" / "two") == MIXED


def test_on_ray_a_worker_tries_and_the_bits_are_those_of_its_choice(world: Path) -> None:
    ray = {"executor": "ray", "workers": 2, "cpus_per_worker": 0.5, "shard_size": 5, "events": "log"}
    with local_ray():
        precompute(worlds.config(world, "ray", run={**ray, "number_format": "auto"}))
    lines = [json.loads(line) for line in (world / "log").read_text().splitlines()]
    told = {line["model"]: line["chosen"] for line in lines if line["event"] == "format"}
    assert told.keys() == {"classifier", "encoder"}
    precompute(worlds.config(world, "inline", run={"number_format": told, "shard_size": 5}))
    assert worlds.files(world / "ray") == worlds.files(world / "inline")


def test_plan_shows_both_rates_and_what_will_be_used(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, "bfloat16")
    told = plan(worlds.config(world, run={"number_format": {"classifier": "auto"}})).number_formats
    assert [one["used"] for one in told.values()] == ["bfloat16", "float32"]
    assert all(one[kind] > 0 for one in told.values() for kind in ("float32", "bfloat16", "cosine"))
    precompute(worlds.config(world, run={"number_format": {"classifier": "auto"}}))
    always(monkeypatch, "float32")
    again = plan(worlds.config(world, run={"number_format": {"classifier": "auto"}})).number_formats
    assert again["classifier"]["used"] == "bfloat16"


def test_a_model_without_a_pass_in_bfloat16_stays_as_it_is(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(worlds.config(world))
    forward = bench.encoder.encode_images

    def picky(pixels: np.ndarray) -> np.ndarray:
        if bench.encoder.number_format == "bfloat16":
            raise RuntimeError("not implemented for BFloat16")
        return forward(pixels)

    monkeypatch.setattr(bench.encoder, "encode_images", picky)
    shard = sampled(plan_shards(bench.config.images, 12), 16)
    assert try_formats(bench, TrialItem("encoder", shard)) == Trial("encoder", None, None, None, "float32")


@pytest.mark.slow
def test_a_compiled_run_has_a_key_of_its_own_and_the_same_words(world: Path) -> None:
    precompute(worlds.config(world, "plain"))
    precompute(worlds.config(world, "fast", run={"compile": True}))
    plain, fast = (worlds.tables(world / name) for name in ("plain", "fast"))
    for table, column in (("activations", "pooled"), ("embeddings", "embedding")):
        one, other = (as_matrix(store[table][column].combine_chunks()) for store in (plain, fast))
        np.testing.assert_allclose(other, one, atol=2e-3)
    assert plain["images"]["prediction"].equals(fast["images"]["prediction"])
    assert Snapshot.open(world / "fast").manifest.config["run"]["compile"] is True
    parts = [
        {part.path for part in Snapshot.open(world / name).parts("images")} for name in ("plain", "fast")
    ]
    assert parts[0].isdisjoint(parts[1])
    again = {"compile": True, "shard_size": 5}
    precompute(worlds.config(world, "again", run=again))
    assert worlds.different_tables(world / "fast", world / "again") == []
