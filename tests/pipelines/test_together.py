"""Several classifiers over one decode: each store is, file for file, what its classifier makes alone."""

import os
from collections import Counter
from pathlib import Path

import pytest

import pipelines.feed
from pipelines.config_file import load_configs, make_config, make_configs
from pipelines.estimate import PlanSummary, seconds_together
from pipelines.run import Progress, precompute
from pipelines.together import precompute_together
from store.errors import (
    ConfigError,
    Damaged,
    ModelError,
    RunIncomplete,
    SnapshotConflict,
    StorageFull,
    StoreNotFound,
    TextcamError,
)
from store.prune import prune
from store.reader import Snapshot
from store.storage import open_storage
from store.verify import verify
from tests.pipelines import worlds
from textcam.compare import compare

LINEAR = {"model": "python:tests.pipelines.models:linear_classifier"}
SQUASHED = {"model": "python:tests.pipelines.models:squashed_classifier", "name": "squashed"}
SQUASHED_ALONE = {"model": SQUASHED["model"]}
PICKY = {"model": "python:tests.pipelines.models:picky_classifier", "name": "picky"}
BROKEN = {"model": "python:tests.pipelines.models:deadly_classifier", "name": "broken"}


def raw(folder: Path, *classifiers: dict[str, str], **sections: object) -> dict[str, object]:
    """A configuration of several classifiers, in the folder of the one that ``worlds.config`` makes."""
    plain = worlds.config(folder, "together", **sections).model_dump(mode="json")
    del plain["classifier"]
    return {**plain, "classifiers": list(classifiers)}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    seen: Counter[str] = Counter()
    decode = pipelines.feed.decode

    def counted(data: bytes, *, max_pixels: int, where: str) -> object:
        seen[where] += 1
        return decode(data, max_pixels=max_pixels, where=where)

    monkeypatch.setattr(pipelines.feed, "decode", counted)
    return seen


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_each_store_is_what_its_classifier_makes_alone(tmp_path: Path, executor: str) -> None:
    worlds.write_cues(tmp_path / "images")
    (tmp_path / "images" / "plum" / "bad.png").write_bytes(b"no picture")
    run = {"max_error_rate": 0.1, "executor": executor, "workers": 2, "cpus_per_worker": 0.5}
    plain = worlds.cue_config(tmp_path, "together", run=run).model_dump(mode="json")
    curved = {"model": "python:tests.pipelines.models:curved_cue_classifier", "name": "curved"}
    first = plain.pop("classifier")
    configs = make_configs({**plain, "classifiers": [first, curved]})
    assert list(configs) == ["cue_classifier", "curved"]
    made = precompute_together(configs)
    for name, config in configs.items():
        inline = config.run.model_copy(update={"executor": "inline"})
        alone = config.model_copy(update={"store": str(tmp_path / "alone" / name), "run": inline})
        precompute(alone)
        assert worlds.files(Path(config.store)) == worlds.files(Path(alone.store))
        assert (made[name].images, made[name].errors) == (72, 1)
        assert made[name].findings >= 3
        assert verify(config.store) == []


def test_each_image_is_decoded_once_for_all_shards(tmp_path: Path, opened: Counter[str]) -> None:
    worlds.write_images(tmp_path / "images")
    nothing_shown = {"report": {"exemplars": 0}, "proof": {"findings": 0}, "directions": {"regions": False}}
    configs = make_configs(raw(tmp_path, LINEAR, SQUASHED, **nothing_shown))
    precompute_together(configs)
    assert len(opened) == 23
    assert set(opened.values()) == {1}


def test_one_more_classifier_is_the_only_one_that_works(tmp_path: Path, opened: Counter[str]) -> None:
    worlds.write_images(tmp_path / "images")
    precompute_together(make_configs(raw(tmp_path, LINEAR)))
    before = worlds.files(tmp_path / "together" / "linear_classifier")
    opened.clear()
    made = precompute_together(make_configs(raw(tmp_path, LINEAR, SQUASHED)))
    assert [one.new for one in made.values()] == [False, True]
    assert worlds.files(tmp_path / "together" / "linear_classifier") == before
    with pytest.raises(StoreNotFound, match=r"several classifiers") as refusal:
        Snapshot.open(tmp_path / "together")
    assert "together/squashed" in refusal.value.fix


def test_what_one_classifier_cannot_have_the_other_keeps(tmp_path: Path) -> None:
    worlds.write_images(tmp_path / "images")
    configs = make_configs(raw(tmp_path, LINEAR, PICKY, run={"max_error_rate": 0.5}))
    made = precompute_together(configs)
    assert (made["linear_classifier"].errors, made["picky"].errors) == (0, 8)
    errors = Snapshot.open(configs["picky"].store).table("errors").to_pylist()
    assert all(one["uri"].startswith("red/") for one in errors)
    assert {(one["stage"], one["reason"]) for one in errors} == {("prepare", "ValueError: too red for me")}
    alone = configs["picky"].model_copy(update={"store": str(tmp_path / "alone")})
    precompute(alone)
    assert worlds.files(Path(alone.store)) == worlds.files(Path(configs["picky"].store))


def test_a_classifier_that_kills_its_workers_costs_the_others_nothing(tmp_path: Path) -> None:
    worlds.write_images(tmp_path / "images")
    run = {"executor": "ray", "workers": 1, "max_attempts": 1}
    configs = make_configs(raw(tmp_path, LINEAR, BROKEN, run=run))
    with pytest.raises(RunIncomplete, match=r"1 of 2 classifiers") as failure:
        precompute_together(configs)
    assert failure.value.where.startswith("broken: ")
    assert Snapshot.open(configs["linear_classifier"].store).count("images") == 23
    with pytest.raises(StoreNotFound):
        Snapshot.open(configs["broken"].store)


@pytest.mark.parametrize(
    ("model", "said", "executor"),
    [
        ("fatal_classifier", "no such layer", "inline"),
        ("fatal_classifier", "no such layer", "ray"),
        ("faulty_classifier", "AttributeError: no such thing", "inline"),
    ],
)
def test_a_classifier_that_fails_costs_the_others_nothing(
    tmp_path: Path, model: str, said: str, executor: str
) -> None:
    worlds.write_images(tmp_path / "images")
    broken = {"model": f"python:tests.pipelines.models:{model}", "name": "broken"}
    run = {"executor": executor, "workers": 2, "cpus_per_worker": 0.5, "shard_size": 5, "max_attempts": 1}
    configs = make_configs(raw(tmp_path, LINEAR, broken, SQUASHED, run=run))
    with pytest.raises(RunIncomplete, match=r"1 of 3 classifiers") as failure:
        precompute_together(configs)
    assert failure.value.where.startswith("broken: ")
    assert said in failure.value.where
    for name in ("linear_classifier", "squashed"):
        assert Snapshot.open(configs[name].store).count("images") == 23
        assert verify(configs[name].store) == []
    with pytest.raises(StoreNotFound):
        Snapshot.open(configs["broken"].store)


@pytest.mark.parametrize(
    "error",
    [SnapshotConflict("Somebody else was faster."), Damaged("A file is damaged."), KeyError("no key")],
)
def test_whatever_stops_one_of_them_the_others_are_committed(tmp_path: Path, error: Exception) -> None:
    worlds.write_images(tmp_path / "images")
    configs = make_configs(raw(tmp_path, LINEAR, SQUASHED))

    def stop_the_first(name: str, progress: Progress) -> None:
        if name == "linear_classifier" and progress.stage == "commit":
            raise error

    with pytest.raises(RunIncomplete, match=r"1 of 2 classifiers") as failure:
        precompute_together(configs, stop_the_first)
    named = isinstance(error, TextcamError)
    expected = error.what if named else "KeyError: 'no key'"
    assert failure.value.where == f"linear_classifier: {expected}"
    assert failure.value.__cause__ is (None if named else error)
    assert Snapshot.open(configs["squashed"].store).count("images") == 23


def test_a_full_disk_stops_all_and_says_so(tmp_path: Path) -> None:
    worlds.write_images(tmp_path / "images")
    configs = make_configs(raw(tmp_path, LINEAR, SQUASHED))

    def full(name: str, progress: Progress) -> None:
        if name == "linear_classifier" and progress.stage == "commit":
            raise StorageFull("No space left.")

    with pytest.raises(StorageFull):
        precompute_together(configs, full)


def test_a_method_that_one_of_them_cannot_have_is_refused_before_any_work(
    tmp_path: Path, opened: Counter[str]
) -> None:
    worlds.write_images(tmp_path / "images")
    with pytest.raises(ModelError, match="CAM needs a head that is linear"):
        precompute_together(make_configs(raw(tmp_path, LINEAR, SQUASHED, cam={"method": "cam"})))
    with pytest.raises(ModelError, match="CAM needs a head that is linear"):
        precompute(worlds.config(tmp_path, classifier=SQUASHED_ALONE, cam={"method": "cam"}))
    assert not opened


def test_two_of_them_are_compared_and_pruned_each_alone(tmp_path: Path) -> None:
    worlds.write_images(tmp_path / "images")
    configs = make_configs(raw(tmp_path, LINEAR, {**LINEAR, "name": "again"}))
    precompute_together(configs)
    stores = [Snapshot.open(config.store) for config in configs.values()]
    found = compare(*stores)
    assert found.same_prediction == 1
    assert found.twins
    assert all(one.channel_a == one.channel_b and one.similarity > 0.999 for one in found.twins)
    prune(open_storage(configs["again"].store))
    assert verify(configs["again"].store) == []
    assert verify(configs["linear_classifier"].store) == []


def test_a_plan_of_several_counts_once_what_they_share() -> None:
    def planned(seconds: float, **milliseconds: float) -> PlanSummary:
        spent = {name.replace("_", " "): value for name, value in milliseconds.items()}
        return PlanSummary(10, 1, 1, 0, None, 0, 1.0, seconds, "", spent)

    one = planned(100, decoding=2, encoder=3, classifier=5)
    other = planned(60, decoding=2, encoder=3, classifier=0.5, channel_weights=0.5)
    assert seconds_together([one]) == pytest.approx(100)
    assert seconds_together([one, other]) == pytest.approx(50 + 10 + 50)


@pytest.mark.parametrize(
    ("classifiers", "said"),
    [
        ([], "a list of one or more"),
        ({"a": LINEAR}, "a list of one or more"),
        ([LINEAR, LINEAR], "classifiers.1: the name linear_classifier is taken"),
        ([{**LINEAR, "name": "work"}], "the name work is taken"),
        ([{**LINEAR, "name": "../up"}], "classifiers.0.name"),
        ([LINEAR, {"modle": "x"}], "classifiers.1.modle: unknown key. Did you mean model?"),
        ([LINEAR, {"name": "x"}], "classifiers.1.model: is required"),
        (["timm:resnet18"], "classifiers.0"),
    ],
)
def test_a_wrong_list_is_refused_by_name(tmp_path: Path, classifiers: object, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make_configs({**raw(tmp_path, LINEAR), "classifiers": classifiers})
    assert said in str(refusal.value)


def test_a_file_with_both_keys_is_refused_and_one_with_neither_is_read_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in place of `classifier`"):
        make_configs({**raw(tmp_path, LINEAR), "classifier": LINEAR})
    path = tmp_path / "run.yaml"
    path.write_text("images: {uri: images}\nclassifier: {model: 'timm:a'}\nencoder: {model: b}\nstore: s\n")
    assert load_configs(path) == {"": make_config({**_yaml(path)}, base=tmp_path)}
    path.write_text(
        "images: {uri: images}\nclassifiers: [{model: 'timm:a.b?num_classes=2'}, {model: 'timm:a.b', name: c,"
        " layer: x}]\nencoder: {model: b}\nstore: s\n"
    )
    configs = load_configs(path)
    assert {name: os.path.relpath(one.store, tmp_path) for name, one in configs.items()} == {
        "a.b": "s/a.b",
        "c": "s/c",
    }
    assert configs["c"].classifier.layer == "x"


def _yaml(path: Path) -> dict[str, object]:
    import yaml

    return dict(yaml.safe_load(path.read_text()))
