"""How a configuration names a model: what may stand in front of a name, and what may stand behind it."""

import ast
from collections.abc import Mapping
from typing import Any

from store.errors import ModelError

PREFIX = "python:"  # a function of the user's own
FOLDER = "local-dir:"  # of an open_clip model
HUB = "hf-hub:"
RANDOM = "random"  # as weights


def options_of(model: str, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The model string without its ``?key=value&key=value``, and those joined to ``options``.

    Raises ModelError for what is behind the ``?`` and is no pair.
    """
    joined = dict(options or {})
    name, _, query = model.partition("?")
    for pair in filter(None, query.split("&")):
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise ModelError(f"'{pair}' is not an option", where=model, fix="write NAME?key=value&key=value")
        try:
            joined[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            joined[key] = text
    return name, joined


def function_of(model: str) -> tuple[str, str]:
    """Module and function of ``python:package.module:function``; ModelError if either is missing."""
    module, _, function = model.removeprefix(PREFIX).replace(":", ".").rpartition(".")
    if not module or not function:
        raise ModelError("no function is named", where=model, fix="write python:package.module:function")
    return module, function
