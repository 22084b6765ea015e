"""Our packages have everyday names (``store``, ``service``, ...), as files beside the user's script may have.

``claim`` loads ours from the folder that holds ``textcam``, whatever comes first on ``sys.path``. From then
on the name means ours in this process. Who asks it for what only theirs has is told what hides what, and so
is who has loaded a module of that name before.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
_claimed: dict[str, ModuleType] = {}


def claim(*names: str) -> None:
    """Load our packages of these names. ImportError if another module has one of them already."""
    for name in names:
        if name in _claimed or PathFinder.find_spec(name, [str(ROOT)]) is None:
            continue  # not beside us: then there is nothing that we could prefer
        module = sys.modules.get(name) or _load(name)
        if not _is_ours(module):
            place = getattr(module, "__file__", None) or ", ".join(getattr(module, "__path__", ()))
            raise ImportError(
                f"textcam needs its own package '{name}' ({ROOT / name}), "
                f"but {place} is loaded under that name. Rename the latter.",
                name=name,
                path=place,
            )
        _claimed[name] = module
        module.__getattr__ = _Missing(name)  # type: ignore[method-assign]


def _load(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT))


def _is_ours(module: ModuleType) -> bool:
    return str(ROOT / module.__name__) in [
        str(Path(one).resolve()) for one in getattr(module, "__path__", ())
    ]


def _hidden(name: str) -> str | None:
    """Where a module of this name lies that ours hides, if one does."""
    places = dict.fromkeys(str(Path(one).resolve()) for one in (*sys.path, "."))
    # Another copy of this project is nobody's own either.
    spec = PathFinder.find_spec(
        name, [one for one in places if not Path(one, "textcam/own_names.py").exists()]
    )
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def hides(name: str) -> str | None:
    """What to say where a module of this name is not ours but is hidden by ours; None where none is."""
    package = name.partition(".")[0]
    hidden = _hidden(package) if package in _claimed else None
    if hidden is None:
        return None
    return (
        f"'{package}' is a package of textcam here ({ROOT / package}) and hides {hidden}. Rename the latter."
    )


class _Missing:
    """What is asked for a name that one of our packages does not have."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __call__(self, name: str) -> object:
        ours = PathFinder.find_spec(f"{self._package}.{name}", _claimed[self._package].__path__)
        reason = None if name.startswith("__") or ours is not None else hides(self._package)
        raise AttributeError(reason or f"module {self._package!r} has no attribute {name!r}")


class _LastResort:
    """Asked by ``import`` for modules that nobody else has found."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Never finds anything. ImportError where a hidden module is what was meant."""
        reason = None if path is None else hides(name)
        if reason is not None:
            raise ImportError(reason, name=name)
        return None


sys.meta_path.append(_LastResort())
