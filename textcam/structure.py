"""What shapes a network's answers and is no weight: settings of its modules, and code of the user's own.

An activation's slope, a norm's epsilon, a function that is called on the way: two networks that differ in
such a thing alone have the same weights. Nothing here may depend on the process, the device or the folder.
"""

import ast
import functools
import hashlib
import inspect
import re
import textwrap
from collections.abc import Mapping
from types import CodeType
from typing import Any

from torch import nn

# What modules of these say of themselves is enough; of any other its code and its numbers count as well.
LIBRARIES = ("torch", "torchvision", "timm", "open_clip", "transformers")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_DEVICE = re.compile(r",? *device=[^,)]*")
_PLACE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d+)?|.*[/\\].*", re.DOTALL)  # names of devices, and paths


def hash_structure(module: nn.Module) -> str:
    """SHA-256 (hex) of what the modules say of themselves (``extra_repr``), and of functions that they hold;
    of modules that are no library's, of their plain attributes and of their ``forward``, too.
    """
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        told = _DEVICE.sub("", _ADDRESS.sub("", part.extra_repr()))
        digest.update(f"{name}: {told}\n".encode())
        own = type(part).__module__.partition(".")[0] not in LIBRARIES
        if own:
            digest.update(f"forward {_function(type(part).forward)}\n".encode())
        for key, value in sorted(vars(part).items()):
            if key.startswith("_") or key == "training":
                continue
            said = _plain(value) if own else (_function(value) if callable(value) else None)
            if said is not None:
                digest.update(f"{key} {said}\n".encode())
    return digest.hexdigest()


def _plain(value: Any) -> str | None:
    """A number, a word, a function or a collection of them as text; None for anything else."""
    if isinstance(value, str):
        return None if _PLACE.fullmatch(value) else repr(value)
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if isinstance(value, Mapping):
        return _joined(sorted((str(key), _plain(one)) for key, one in value.items() if _plain(one)))
    if isinstance(value, list | tuple | set | frozenset):
        told = [_plain(one) for one in value]
        return _joined(sorted(map(str, told)) if isinstance(value, set | frozenset) else told)
    return _function(value) if callable(value) and not isinstance(value, nn.Module | type) else None


def _joined(parts: list[Any]) -> str:
    return f"[{', '.join(map(str, parts))}]"


def _function(value: Any) -> str | None:
    """A function as text: a library's by its name, any other by its code and what it has bound."""
    if isinstance(value, nn.Module | type):
        return None
    if isinstance(value, functools.partial):
        return f"{_function(value.func)} {_plain(value.args)} {_plain(value.keywords)}"
    value = getattr(value, "__func__", value)  # of a method
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    code = getattr(value, "__code__", None)
    if code is None or name.partition(".")[0] in LIBRARIES:
        return name
    bound = [cell.cell_contents for cell in value.__closure__ or () if _is_set(cell)]
    return f"{_source(value, code)} {_plain(value.__defaults__)} {_plain(bound)}"


def _is_set(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _source(function: Any, code: CodeType) -> str:
    """The code without comments, layout and docstrings; where Python cannot find it, its byte code."""
    if code.co_name == "<lambda>":  # Python finds its line, and there may be two in one
        return _byte_code(code)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return _byte_code(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _byte_code(code: CodeType) -> str:
    inner = [_byte_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {inner} {code.co_names}"


# Fingerprints of this kind cover the structure; those without the mark are of before, and do not.
_MARK = "2-"


class Fingerprinted:
    """A loaded model that knows the two fingerprints it may have in a store.

    ``fingerprint`` is what new stores get. ``older_fingerprint`` is by the rule of before, which did not see
    what has no weights: stores that have one of these are held against it, and need not be made anew.
    """

    fingerprint: str
    older_fingerprint: str

    def set_fingerprint(self, described: str, module: nn.Module) -> None:
        """From the description of weights and preprocessing, and the module."""
        self.older_fingerprint = hashlib.sha256(described.encode()).hexdigest()
        whole = f"{self.older_fingerprint} {hash_structure(module)}"
        self.fingerprint = _MARK + hashlib.sha256(whole.encode()).hexdigest()

    def made(self, stored: str) -> bool:
        """Whether a store with this fingerprint was made by this model."""
        return stored == (self.fingerprint if stored.startswith(_MARK) else self.older_fingerprint)
