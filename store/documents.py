"""JSON documents of a store: one canonical form, a hash inside, and strict types when they are read.

What lies in a store is data that anybody may have written. So a document becomes one of our dataclasses here,
once, with every type and bound checked as its annotations say, or is ``Damaged``; behind this border nothing
is looked at again.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256 as _sha256
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Interval, Predicate

from store.errors import Damaged
from store.storage import Storage

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_DIGITS = 8  # of the number that a document is called by
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SEAL = re.compile(rb'\n "sha256": "([0-9a-f]{64})",|,\n "sha256": "([0-9a-f]{64})"(?=\n}\n\Z)')

STRICT: Any = {"strict": True, "extra": "forbid", "allow_inf_nan": False}
OPEN: Any = {**STRICT, "extra": "ignore"}
T = TypeVar("T")


def is_sha256(text: str) -> bool:
    """Whether it is a SHA-256 in lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


Count = Annotated[int, Interval(ge=0, le=1 << 48)]
Number = Annotated[int, Interval(ge=1, le=10**_DIGITS - 1)]
Digest = Annotated[str, Predicate(is_sha256)]


def sha256(data: bytes | memoryview) -> str:
    """Lower-case hexadecimal SHA-256."""
    return _sha256(data).hexdigest()


def canonical(body: Mapping[str, Any]) -> bytes:
    """The one form of a document: UTF-8, keys sorted, one space of indent, a newline at the end.

    Raises ValueError or TypeError for what is no JSON, NaN and infinity among it.
    """
    text = json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def seal(body: Mapping[str, Any]) -> bytes:
    """The document with ``sha256``, the hash of its canonical form without that key."""
    without = "0" * 64
    whole = canonical({**body, "sha256": without})  # written out once: it may have many megabytes
    digest = sha256(_SEAL.sub(b"", whole, count=1))
    return whole.replace(f'\n "sha256": "{without}"'.encode(), f'\n "sha256": "{digest}"'.encode(), 1)


def unseal(data: bytes, what: str, where: str, fix: str) -> bytes:
    """The document without ``sha256``, which must hold for every byte; else ``Damaged``, saying ``what``.

    In the canonical form no other line than that of the document's own key begins so.
    """
    found = _SEAL.search(data)
    body = data[: found.start()] + data[found.end() :] if found else b""
    if not found or sha256(body) != (found[1] or found[2]).decode():
        raise Damaged(what, where=where, fix=fix)
    return body


def parse(kind: type[T], data: bytes, what: str, where: str, fix: str = "") -> T:
    """``data``, JSON, as a ``kind`` (a dataclass whose ``__pydantic_config__`` is ``STRICT``): no unknown or
    missing key, no other type, no number out of bounds. Raises ``Damaged`` that says what is wrong in
    ``what`` first.
    """
    from pydantic import ValidationError  # here: who reads no document does without its 60 ms

    try:
        made: T = _adapter(kind).validate_json(data)  # type: ignore[arg-type]  # a class is hashable
        return made
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise Damaged(f"{what} cannot be understood: {said}.", where=where, fix=fix) from None


@cache
def _adapter(kind: type) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def numbered(folder: str, number: int) -> str:
    """Where the document of this number lies."""
    return f"{folder}{number:0{_DIGITS}d}.json"


def numbers(storage: Storage, folder: str) -> list[int]:
    """Numbers of all documents in a folder, ascending. Other files are passed over."""
    names = (path.removeprefix(folder).removesuffix(".json") for path in storage.list(folder))
    found = (int(name) for name in names if len(name) == _DIGITS and name.isascii() and name.isdigit())
    return sorted(number for number in found if number)
