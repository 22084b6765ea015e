"""Whatever goes wrong with one image costs that image: a row of ``errors``, never its neighbours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import feed
from pipelines.bench import Bench
from pipelines.feed import Unusable, load_image
from pipelines.images import plan_shards
from pipelines.run import precompute
from store.errors import ConfigError, StorageFull
from store.reader import Snapshot
from store.verify import verify
from tests.pipelines import worlds

FAULTS = [
    TypeError("x"),
    IndexError("x"),
    KeyError("x"),
    AssertionError(),
    NotImplementedError(),
    SyntaxError("x"),
]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    worlds.write_images(tmp_path / "images")
    return tmp_path


def model(name: str, **options: object) -> dict:
    return {"model": f"python:tests.pipelines.models:{name}", "options": options}


def errors(store: Path) -> dict[str, tuple[str, str]]:
    rows = Snapshot.open(store).table("errors").to_pylist()
    return {row["uri"]: (row["stage"], row["reason"]) for row in rows}


def darken(world: Path) -> None:
    for colour in range(3):
        pixels = np.full((20, 24, 3), 20, np.uint8)
        pixels[..., colour] = 100
        Image.fromarray(pixels).save(world / "images" / ("red", "green", "blue")[colour] / "dark.png")


@pytest.mark.parametrize("together", [False, True])
def test_any_fault_of_a_transform_of_the_users_own_costs_one_image(world: Path, together: bool) -> None:
    darken(world)
    config = worlds.config(world, classifier=model("clumsy_classifier"), run={"max_error_rate": 0.2})
    if together:
        from pipelines.together import precompute_together

        plain = worlds.config(world, "plain", run={"max_error_rate": 0.2})
        done = precompute_together({"clumsy": config, "plain": plain})
        assert (done["plain"].images, done["plain"].errors) == (26, 0)
    else:
        precompute(config)
    assert errors(world / "store") == {
        "red/dark.png": ("prepare", "TypeError: no such thing"),
        "green/dark.png": ("prepare", "KeyError: 'green'"),
        "blue/dark.png": ("prepare", "AssertionError"),
    }
    assert Snapshot.open(world / "store").count("images") == 23
    assert verify(world / "store") == []


def test_pixels_of_another_size_cost_one_image(world: Path) -> None:
    Image.new("RGB", (90, 20)).save(world / "images" / "red" / "wide.png")
    config = worlds.config(world, classifier=model("misshaping_classifier"), run={"max_error_rate": 0.2})
    precompute(config)
    ((uri, (stage, reason)),) = errors(world / "store").items()
    assert (uri, stage) == ("red/wide.png", "prepare")
    assert reason == "The transform gives (3, 20, 90) for this image, not (3, 16, 16)."


@pytest.mark.parametrize("stage", ["read", "decode", "prepare"])
def test_what_no_image_can_escape_and_memory_that_is_short_are_not_the_images_fault(
    world: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    bench = Bench(worlds.config(world))
    (shard,) = plan_shards(bench.config.images, 100).shards()
    ref = next(shard.refs())

    def fail_with(error: Exception) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        where = {"read": (bench, "reader"), "decode": (feed, "decode"), "prepare": (bench.encoder, "prepare")}
        monkeypatch.setattr(*where[stage], fail)

    for fault in FAULTS:
        fail_with(fault)
        made = load_image([bench], ref)
        assert isinstance(made, Unusable)
        assert (made.stage, made.reason.split(":")[0], made.away) == (stage, type(fault).__name__, False)
    for fault in (ConfigError("no such key"), StorageFull("full")):
        fail_with(fault)
        with pytest.raises(type(fault)):
            load_image([bench], ref)
    for fault in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        fail_with(fault)
        with pytest.raises(MemoryError, match=ref.uri):
            load_image([bench], ref)


def test_a_long_story_is_cut_short(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(worlds.config(world))
    (shard,) = plan_shards(bench.config.images, 100).shards()

    def fail(image: object) -> None:
        raise ValueError("one\n two " + "x" * 10_000)

    monkeypatch.setattr(bench.encoder, "prepare", fail)
    made = load_image([bench], next(shard.refs()))
    assert isinstance(made, Unusable)
    assert made.reason.startswith("ValueError: one two xxx")
    assert len(made.reason) == 500


# numbers that are not finite


def blueless(world: Path, count: int = 2) -> list[str]:
    """Images without any blue, for which the rooted classifier has no finite gradient."""
    rng = np.random.default_rng(1)
    for number in range(count):
        pixels = rng.integers(20, 200, (20, 24, 3), np.uint8)
        pixels[..., 2] = 0
        Image.fromarray(pixels).save(world / "images" / "green" / f"blueless-{number}.png")
    return [f"green/blueless-{number}.png" for number in range(count)]


def test_an_image_without_finite_channel_weights_costs_itself(world: Path) -> None:
    bad = blueless(world)
    precompute(worlds.config(world, classifier=model("rooted_classifier"), run={"max_error_rate": 0.2}))
    assert errors(world / "store") == dict.fromkeys(bad, ("forward", "Its channel weights are not finite."))
    assert verify(world / "store") == []
    snapshot = Snapshot.open(world / "store")
    assert snapshot.count("images") == snapshot.count("explanations") == 23


@pytest.mark.parametrize(("scale", "rtol"), [(1e4, 5e-3), (1e-6, 0.5)])
def test_weights_that_half_precision_cannot_hold_explain_as_well(
    world: Path, scale: float, rtol: float
) -> None:
    """Activations ``scale`` times as large have weights so many times as small, and add up to the same, as
    far as stored activations are exact."""
    names = {"one": 1.0, "other": scale}
    for name, factor in names.items():
        classifier = model("rooted_classifier", scale=factor)
        precompute(worlds.config(world, name, classifier=classifier, groups={"count": 3, "per_image": 50}))
    sums = {}
    for name in names:
        rows = Snapshot.open(world / name).table("explanations").to_pylist()
        sums[name] = {row["image_id"]: sum(row["group_contributions"]) for row in rows}
    assert sums["one"].keys() == sums["other"].keys()
    found = np.array([[sums[name][one] for name in names] for one in sums["one"]])
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=rtol)
    assert np.abs(found).min() > 1e-3


def test_overflow_in_what_is_seen_again_costs_vectors_maps_and_trials_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense features and maps of the first image of each batch are not finite: it has no part in directions
    from regions, no map and no trial; all others have theirs."""
    worlds.write_cues(tmp_path / "images")
    precompute(worlds.cue_config(tmp_path, "calm"))
    bench = Bench(worlds.cue_config(tmp_path))
    encoder, classifier = type(bench.encoder), type(bench.classifier)
    dense, forward_cam = encoder.dense, classifier.forward_cam

    def overflowing(self: object, pixels: np.ndarray) -> np.ndarray:
        made = dense(self, pixels).copy()
        made[0] = np.nan
        return made

    def overflowing_cam(self: object, *arguments: object, **options: object) -> object:
        seen, weights = forward_cam(self, *arguments, **options)
        weights = np.concatenate([np.full_like(weights[:1], np.inf), weights[1:]])
        return seen, weights

    monkeypatch.setattr(encoder, "dense", overflowing)
    monkeypatch.setattr(classifier, "forward_cam", overflowing_cam)
    summary = precompute(worlds.cue_config(tmp_path))
    calm = Snapshot.open(tmp_path / "calm")
    assert (summary.images, summary.errors) == (calm.count("images"), 0)
    assert verify(tmp_path / "store") == []
    shown = [
        set(Snapshot.open(tmp_path / name).table("maps")["image_id"].to_pylist())
        for name in ("calm", "store")
    ]
    assert 0 < len(shown[1]) < len(shown[0])
    assert Snapshot.open(tmp_path / "store").count("findings") > 0
