"""What the fixture ``textcam`` gives: one call of the entry point, and what it said."""

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    """Exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]
