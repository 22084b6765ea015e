"""A configuration is validated whole; what is wrong is named with its key and what would be right."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from pipelines.config import Config
from pipelines.config_file import load_config, make_config, make_configs
from store.errors import ConfigError

SMALLEST = {
    "images": {"uri": "in"},
    "classifier": {"model": "timm:x"},
    "encoder": {"model": "ViT-B-32"},
    "store": "out",
}


def refused(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        make_config({**SMALLEST, **changes})
    assert caught.value.exit_code == 2
    return caught.value.what


def test_what_is_not_said_has_defaults() -> None:
    config = make_config(SMALLEST, base="/data")
    assert (config.images.uri, config.store) == ("/data/in", "/data/out")
    assert (config.images.format, config.classifier.layer, config.texts.bank) == ("folder", "auto", "builtin")


def test_a_misspelt_key_is_refused_with_the_nearest_one() -> None:
    message = refused(run={"batchsize": 3})
    assert "run.batchsize: unknown key. Did you mean batch_size? Allowed: executor, address," in message


def sections(
    model: type[BaseModel] = Config, way: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every key of the configuration, with the way to its section."""
    for name, field in model.model_fields.items():
        yield way, name
        inner = [
            one for one in (field.annotation, *get_args(field.annotation)) if hasattr(one, "model_fields")
        ]
        for one in inner[:1]:
            yield from sections(one, (*way, name))


def misspelt(way: tuple[str, ...], name: str) -> str:
    """What is said of a key with a letter too many, in a configuration that is right otherwise."""
    raw: Any = copy.deepcopy(SMALLEST)
    at = raw
    for part in way:
        at = at.setdefault(part, [{"uri": "x"}] if part == "added" else {})
        at = at[0] if part == "added" else at
    at[f"{name}s"] = 1
    with pytest.raises(ConfigError) as caught:
        make_config(raw)
    return caught.value.what


@pytest.mark.parametrize(
    ("way", "name"), sections(), ids=lambda one: one if isinstance(one, str) else ".".join(one)
)
def test_every_misspelt_key_is_named_with_its_place_and_the_nearest_one(
    way: tuple[str, ...], name: str
) -> None:
    key = ".".join(part for part in (*way, f"{name}s"))
    key = key.replace("added.", "added.0.")
    assert f"\n  {key}: unknown key. Did you mean {name}? Allowed: " in misspelt(way, name)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"words": {"strength": 3}}, "words.strength: unknown key. Allowed: top, screen, sparsity,"),
        ({"run": {"float": 3}}, "run.float: unknown key. Allowed: executor,"),
        (
            {"run": {"number_format": {"encoder": "f"}}},
            "run.number_format.encoder: Input should be 'float32'",
        ),
        (
            {"texts": {"templates": {"list[str]": 3}}},
            "texts.templates.list[str]: Input should be a valid list",
        ),
        ({"texts": {"bank": ["a", 3]}}, "texts.bank.1: Input should be a valid string"),
        ({"added": [{"uri": "a"}, {"url": "b"}]}, "added.1.url: unknown key. Did you mean uri?"),
    ],
)
def test_problems_in_places_of_several_types(section: dict, says: str) -> None:
    assert says in refused(**section)


def test_problems_of_one_classifier_among_several() -> None:
    raw = {**SMALLEST, "classifiers": [{"model": "a"}, {"model": "b", "layers": "x", "two_sided": "no!"}]}
    del raw["classifier"]
    with pytest.raises(ConfigError) as caught:
        make_configs(raw)
    assert "classifiers.1.layers: unknown key. Did you mean layer? Allowed: model," in caught.value.what
    assert "classifiers.1.two_sided: Input should be 'auto', got 'no!'" in caught.value.what


def test_a_missing_key_is_named() -> None:
    assert "classifier.model: is required." in refused(classifier={})


def test_a_value_that_is_not_allowed_names_the_allowed_ones() -> None:
    message = refused(run={"executor": "slurm"})
    assert "run.executor" in message
    assert "'inline' or 'ray'" in message
    assert "got 'slurm'" in message


def test_all_problems_are_told_at_once() -> None:
    message = refused(run={"shard_size": 0}, groups={"count": -1})
    assert "run.shard_size" in message
    assert "groups.count" in message


@pytest.mark.parametrize("shrinkage", [0.0, 1.5, -1, "oas"])
def test_shrinkage_is_in_its_range_or_named(shrinkage: object) -> None:
    assert "directions.shrinkage" in refused(directions={"shrinkage": shrinkage})


def test_a_store_with_one_slash_in_its_address_is_no_folder() -> None:
    assert refused(store="s3:/bucket/x") == "An address has two slashes after the colon."


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "run.yaml"
    path.parent.mkdir()
    (path.parent / "tiny.safetensors").touch()
    path.write_text(
        "images: {uri: ../pictures}\n"
        "classifier: {model: 'timm:x', weights: tiny.safetensors}\n"
        "encoder: {model: 'local-dir:clip', weights: laion2b_s34b_b79k}\n"
        "texts: {bank: [builtin, own.csv]}\n"
        "store: s3://bucket/store\n"
    )
    config = load_config(path)
    assert config.images.uri == str(tmp_path / "pictures")
    assert config.classifier.weights == str(path.parent / "tiny.safetensors")
    assert (config.encoder.model, config.encoder.weights) == (
        f"local-dir:{path.parent}/clip",
        "laion2b_s34b_b79k",
    )
    assert config.texts.bank == ["builtin", str(path.parent / "own.csv")]
    assert config.store == "s3://bucket/store"


def test_a_tag_is_a_tag_whatever_lies_beside_the_file(tmp_path: Path) -> None:
    for name in ("random", "openai"):
        (tmp_path / name).mkdir()
    (tmp_path / "run.yaml").write_text(
        "images: {uri: x}\n"
        "classifier: {model: 'timm:x', weights: random}\n"
        "encoder: {model: ViT-B-32, weights: openai}\n"
        "store: y\n"
    )
    config = load_config(tmp_path / "run.yaml")
    assert (config.classifier.weights, config.encoder.weights) == ("random", "openai")


@pytest.mark.parametrize(
    ("content", "says"),
    [("a: [1", "not valid YAML"), ("- 1\n- 2\n", "a mapping of sections"), ("", "a mapping of sections")],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.yaml")
    assert "textcam init" in caught.value.fix


def test_how_a_run_is_spread_is_no_part_of_what_a_store_remembers() -> None:
    one = make_config({**SMALLEST, "run": {"workers": 1, "executor": "inline"}})
    two = make_config({**SMALLEST, "run": {"workers": 7}})
    assert one.resolved() == two.resolved()
    assert "store" not in one.resolved()
