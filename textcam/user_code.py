"""Calling the user's own function for a model: ``python:package.module:function``."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from store.errors import ModelError, TextcamError
from textcam.model_strings import function_of
from textcam.own_names import hides

HOME = Path(__file__).resolve().parents[1]  # what holds this package holds the demo as well
# The functions of this project that make a model, by module and name.
OWN = (("demo.models", "tiny_classifier"),)


def call_user_function(model: str, options: Mapping[str, Any]) -> Any:
    """What the function of ``python:package.module:function`` returns when called with ``options``.

    Modules are looked for in the current directory first, then where Python looks. Raises ModelError that
    says which step failed and, where it is the user's code that failed, on which line. The function of this
    project's demo is called whatever the current directory holds.
    """
    module_name, function_name = function_of(model)
    own = own_function(model)
    with nullcontext() if own is not None else _current_directory_first():
        function = own if own is not None else _find(model, module_name, function_name)
        try:
            return function(**options)
        except TextcamError:
            raise
        except Exception as error:
            raise ModelError(
                f"the function failed with {type(error).__name__}: {error}", where=f"{model}{_line_of(error)}"
            ) from error


def own_function(model: str) -> Callable[..., Any] | None:
    """The function of this project's demo, if ``model`` names it; None for any other.

    None, too, where Python finds another package of that name first: then that one's code would run.
    """
    module_name, function_name = function_of(model)
    if (module_name, function_name) not in OWN:
        return None
    package, _, file = module_name.partition(".")
    try:
        spec = importlib.util.find_spec(package)  # finds the package and runs nothing
    except ValueError:  # something put into sys.modules by hand
        return None
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != HOME / package / "__init__.py":
        return None
    module = importlib.import_module(module_name)
    if Path(module.__file__ or "").resolve() != HOME / package / f"{file}.py":
        return None
    function: Callable[..., Any] = getattr(module, function_name)
    return function


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
            fix=hides(module_name) or f"it has {', '.join(sorted(names)[:8]) or 'no functions'}",
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
