"""Calling the user's own function for a model: ``python:package.module:function``."""

import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.errors import ModelError, TextcamError

PREFIX = "python:"


def call_user_function(model: str, options: Mapping[str, Any]) -> Any:
    """What the function of ``python:package.module:function`` returns when called with ``options``.

    Modules are looked for in the current directory first, then where Python looks. Raises ModelError that
    says which step failed and, where it is the user's code that failed, on which line.
    """
    module_name, _, function_name = model.removeprefix(PREFIX).replace(":", ".").rpartition(".")
    if not module_name or not function_name:
        raise ModelError("no function is named", where=model, fix="write python:package.module:function")
    with _current_directory_first():
        function = _find(model, module_name, function_name)
        try:
            return function(**options)
        except TextcamError:
            raise
        except Exception as error:
            raise ModelError(
                f"the function failed with {type(error).__name__}: {error}", where=f"{model}{_line_of(error)}"
            ) from error


def _find(model: str, module_name: str, function_name: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ModelError(
                f"there is no module '{module_name}'",
                where=model,
                fix=f"run from the folder that holds it (now {Path.cwd()}), or add that folder to PYTHONPATH",
            ) from error
        raise ModelError(
            f"the module imports '{error.name}', which is not installed",
            where=model,
            fix=f"install {error.name}",
        ) from error
    except Exception as error:
        raise ModelError(
            f"importing the module failed with {type(error).__name__}: {error}",
            where=f"{model}{_line_of(error)}",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelError(
            f"module '{module_name}' has no function '{function_name}'",
            where=model,
            fix=f"it has {', '.join(sorted(names)[:8]) or 'no functions'}",
        )
    return function


@contextmanager
def _current_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _line_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
