"""Reading a configuration: one YAML file, validated whole before anything starts.

Relative paths are relative to the folder of the YAML file, so that a configuration works from anywhere.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.config import Config, NamedClassifier
from store.addresses import scheme_of
from store.errors import ConfigError

RESERVED = ("snapshots", "work", "parts", "indexes")  # folders of a store's own


def load_config(path: str | Path) -> Config:
    """Read and validate a YAML configuration of one classifier.

    Raises ConfigError naming the file, the key and the allowed values.
    """
    return make_config(_read(Path(path)), base=Path(path).parent, where=str(path))


def load_configs(path: str | Path) -> dict[str, Config]:
    """The same for one classifier or several: configurations by name, "" where there is but one.

    ``classifiers`` is a list of what ``classifier`` would hold, each with a name; each gets a store of its
    own, named so, below ``store``. Raises ConfigError.
    """
    raw, base, where = _read(Path(path)), Path(path).parent, str(path)
    if not isinstance(raw, dict) or "classifiers" not in raw:
        return {"": make_config(raw, base=base, where=where)}
    return make_configs(raw, base=base, where=where)


def make_configs(
    raw: dict[str, Any], *, base: str | Path = ".", where: str = "configuration"
) -> dict[str, Config]:
    """Configurations by name from one with a list of ``classifiers``. Raises ConfigError."""
    shared = {key: value for key, value in raw.items() if key != "classifiers"}
    entries = raw["classifiers"]
    if "classifier" in raw or not isinstance(entries, list) or not entries:
        raise ConfigError(
            "`classifiers` is a list of one or more classifiers, in place of `classifier`.", where=where
        )
    named: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        try:
            one = NamedClassifier.model_validate(entry)
        except ValidationError as error:
            at = ("classifiers", str(number))
            problems = [_explain({**problem, "loc": (*at, *problem["loc"])}) for problem in error.errors()]
            raise ConfigError(
                "\n  ".join(["The configuration is not valid.", *problems]), where=where
            ) from None
        name = one.name or _short(one.model)
        if name in named or name in RESERVED:
            raise ConfigError(
                f"classifiers.{number}: the name {name} is taken.", where=where, fix="Give it another `name`."
            )
        named[name] = one.model_dump(exclude={"name"})
    folder = str(shared.get("store", "")).rstrip("/")
    return {
        name: make_config(
            {**shared, "classifier": entry, **({"store": f"{folder}/{name}"} if folder else {})},
            base=base,
            where=where,
        )
        for name, entry in named.items()
    }


def _short(model: str) -> str:
    """resnet50.a1_in1k from timm:resnet50.a1_in1k?num_classes=7, my_net from python:net:my_net."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.partition("?")[0].rpartition(":")[2]).strip("-.") or "model"


def _read(path: Path) -> object:
    """The plain values of a YAML file. Raises ConfigError."""
    try:
        raw: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "There is no such configuration file.", where=path, fix="Write one with `textcam init`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration cannot be read: {error}.", where=path) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration is not valid YAML: {error}", where=path) from None
    return raw


def make_config(raw: object, *, base: str | Path = ".", where: str = "configuration") -> Config:
    """Validate a configuration given as plain values; relative paths are taken from ``base``.

    Raises ConfigError with every problem found, not only the first.
    """
    if not isinstance(raw, dict):
        raise ConfigError(
            "A configuration is a mapping of sections.",
            where=where,
            fix=f"Sections: {', '.join(Config.model_fields)}.",
        )
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise ConfigError("\n  ".join(["The configuration is not valid.", *problems]), where=where) from None
    return _with_absolute_paths(config, Path(base).resolve())


def _explain(problem: Any) -> str:
    """One validation problem as a sentence: the key, what is wrong, what is allowed."""
    keys, section = _place([str(part) for part in problem["loc"]])
    key = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        allowed = list(section.model_fields)
        near = difflib.get_close_matches(keys[-1], allowed, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        return f"{key}: unknown key.{guess} Allowed: {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"{key}: is required."
    return f"{key}: {problem['msg']}, got {problem['input']!r}."


def _place(location: Sequence[str]) -> tuple[list[str], type[BaseModel]]:
    """The keys on the way to a value, and the section that the last one is, or should be, a key of.

    Where a value may be of several types, pydantic names the type that it tried as a part of the location.
    """
    here: Any = _Root
    keys: list[str] = []
    section: type[BaseModel] = Config
    several = len(location) > 1 and location[0] == "classifiers"
    for part in location if several else ["config", *location]:
        types = _types(here)
        if len(types) > 1:
            here = next((one for one in types if _tag(one) == part), None)
            continue
        here = types[0] if types else None
        keys.append(part)
        if isinstance(here, type) and issubclass(here, BaseModel):
            section = here
            here = here.model_fields[part].annotation if part in here.model_fields else None
        else:  # a place in a list, or a key that is free
            here = next((one for one in reversed(get_args(here)) if one is not Ellipsis), None)
    return (keys if several else keys[1:]), section


class _Root(BaseModel):
    """What a file may hold: a configuration, or several classifiers in it."""

    config: Config
    classifiers: list[NamedClassifier]


def _types(annotation: Any) -> list[Any]:
    """The types that a value may be of, but for None."""
    union = get_origin(annotation) in (Union, UnionType)
    found = get_args(annotation) if union else (annotation,)
    return [one for one in found if one not in (None, NoneType)]


def _tag(kind: Any) -> str:
    """How pydantic names a model, a list or a mapping in a location."""
    named = isinstance(kind, type) and get_origin(kind) is None
    return kind.__name__ if named else str(kind).replace(" ", "")


def _with_absolute_paths(config: Config, base: Path) -> Config:
    def absolute(value: str | None) -> str | None:
        if value is None or value == "builtin" or scheme_of(value):
            return value
        return str((base / value).resolve())

    def weights(value: str | None) -> str | None:
        # Weights may be a tag of a library ("laion2b_s34b_b79k") or "random", whatever lies beside the
        # configuration under that name: only what looks like a file is a path.
        if value is None or not (Path(value).suffix or "/" in value):
            return value
        return absolute(value)

    def model(value: str) -> str:
        schema, _, rest = value.partition(":")
        return f"{schema}:{absolute(rest)}" if schema == "local-dir" else value

    bank = config.texts.bank
    update: dict[str, Any] = {
        "store": absolute(config.store),
        "run": config.run.model_copy(update={"events": absolute(config.run.events)}),
        "images": config.images.model_copy(update={"uri": absolute(config.images.uri)}),
        "added": tuple(one.model_copy(update={"uri": absolute(one.uri)}) for one in config.added),
        "classifier": config.classifier.model_copy(
            update={
                "weights": weights(config.classifier.weights),
                "class_names": absolute(config.classifier.class_names),
            }
        ),
        "encoder": config.encoder.model_copy(
            update={"model": model(config.encoder.model), "weights": weights(config.encoder.weights)}
        ),
        "texts": config.texts.model_copy(
            update={"bank": [absolute(one) for one in bank] if isinstance(bank, list) else absolute(bank)}
        ),
    }
    return config.model_copy(update=update)
