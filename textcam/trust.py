"""What of a store's models may be loaded without the person at the keyboard saying that the store is trusted.

A store is data, and may come from anybody; its manifest names the models that made it. Here is the list of
what such a name may set going: the libraries' own models with plain settings, weights that cannot hold code,
and this project's demo. For all else, above all ``python:``, somebody has to say that it may run.

A configuration that is given to a run is its user's own, and is not looked at here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from store.errors import ModelError
from textcam.model_strings import FOLDER, HUB, PREFIX, RANDOM, function_of, options_of
from textcam.user_code import HOME, own_function

_LIBRARIES = ("timm", "torchvision")
_OWN_CLIP = HOME / "demo" / "weights" / "clip"
_NAME = re.compile(r"[\w.-]+")  # of a model that a library has; no path, no address
_TAG = re.compile(r"[\w-]+")
# Options of timm that take a word; others that do take files and addresses.
_WORD_OPTIONS = ("act_layer", "norm_layer", "aa_layer", "attn_layer", "global_pool", "pool_type", "pad_type")
_READING = re.compile("path|file|dir|cfg|pretrained")
_SHOWN = 200  # characters of what a store says


def check_trusted(config: Mapping[str, Any], *names: str, trust_code: bool) -> None:
    """Raise ModelError, saying what would have been run, unless the models of the sections ``names`` of a
    store's configuration can be loaded without running or unpickling what the store names.
    """
    foreign = [f"{name}: {what}" for name in names for what in _foreign(name, config.get(name))]
    if foreign and not trust_code:
        raise ModelError(
            "This store names code that is not part of this project; nothing of it was run.",
            where="; ".join(foreign),
            fix="If you trust whoever made the store, say so: --trust-code, in Python trust_code=True.",
        )


def _foreign(kind: str, section: Any) -> Iterator[str]:
    """What loading a model would run or read that may be code, each in words."""
    if not isinstance(section, Mapping):  # nothing to load
        return
    model, given = str(section.get("model", "")), section.get("options")
    options: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    if kind == "classifier":
        model, options = options_of(model, options)
    if model.startswith(PREFIX):
        if options or own_function(model) is None:
            yield _call(model, options)
    elif model.startswith(HUB):
        yield f"loads {_shown(model)} from the Hugging Face hub, with the code it may bring"
    elif model.startswith(FOLDER):
        if Path(model.removeprefix(FOLDER)).resolve() != _OWN_CLIP:
            yield f"builds what the folder {_shown(model.removeprefix(FOLDER))} describes"
    elif not _is_of_library(kind, model):
        yield f"builds the model {_shown(model)}"
    if not model.startswith(PREFIX):
        yield from (
            f"passes {_shown(key)}: {_shown(value)} to the model's library"
            for key, value in options.items()
            if not _is_plain_option(kind, model, str(key), value)
        )
    weights = section.get("weights")
    if weights is not None and not _holds_no_code(str(weights)):
        yield f"unpickles the weights {_shown(weights)}"


def _call(model: str, options: Mapping[str, Any]) -> str:
    module, function = function_of(model)
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"imports {_shown(module)} and calls {_shown(f'{function}({arguments})')}"


def _is_of_library(kind: str, model: str) -> bool:
    source, _, name = model.partition(":")
    if kind == "encoder":
        return _NAME.fullmatch(model) is not None
    return source in _LIBRARIES and _NAME.fullmatch(name) is not None


def _is_plain_option(kind: str, model: str, key: str, value: Any) -> bool:
    """Whether an option sets a size or a switch, and names nothing to be read."""
    if isinstance(value, str):
        return model.startswith("timm:") and key in _WORD_OPTIONS and _NAME.fullmatch(value) is not None
    if kind == "encoder" and not key.startswith("force_"):
        return False  # one of open_clip's switches allows pickles
    if _READING.search(key):
        return False
    return _is_number(value) or (isinstance(value, list | tuple) and all(map(_is_number, value)))


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _holds_no_code(weights: str) -> bool:
    return weights == RANDOM or weights.endswith(".safetensors") or _TAG.fullmatch(weights) is not None


def _shown(value: Any) -> str:
    """What a store says, for a terminal: without control characters, and not at any length."""
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."
