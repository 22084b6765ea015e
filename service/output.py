"""Where answers go: lines on the terminal, bytes on stdout, files that appear whole or not at all.

Every line of a command is printed here, so that a name out of a store cannot command the terminal; every file
is written here, so that a full disk leaves no half of one and is one kind of error.
"""

import codecs
import io
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import BinaryIO, TextIO

from store.errors import StorageFull, StorageUnavailable

FULL = (ENOSPC, EDQUOT)
# Control characters, those that turn the direction of writing, line ends of Unicode, halves of characters.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str, *, keep: str = "") -> str:
    """Text as it may be printed: what would command a terminal is written out, as ``\\x1b``.

    ``keep``: control characters that are meant.
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else _written_out(found[0]), text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def json_text(text: str) -> str:
    """JSON whose strings are written out where they would command a terminal; line ends stay."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def say(*lines: str, err: bool = False) -> None:
    """Print lines, on stdout or stderr; a line's own control characters are written out."""
    stream = sys.stderr if err else sys.stdout
    for line in lines:
        stream.write(f"{shown(line)}\n")
    if err:
        stream.flush()


def say_error(error: Exception) -> None:
    """Print an error on stderr, in its own lines."""
    say(*f"error: {error}".split("\n"), err=True)


@contextmanager
def os_errors(what: str, where: object) -> Iterator[None]:
    """Operating system errors as ``StorageFull`` or ``StorageUnavailable``. ``what``: "The map cannot be
    written", say.
    """
    try:
        yield
    except OSError as error:
        refuse = StorageFull if error.errno in FULL else StorageUnavailable
        fix = "Make space there, or write to another place." if error.errno in FULL else ""
        raise refuse(f"{what}: {error.strerror or error}.", where=where, fix=fix) from None


@contextmanager
def new_file(path: Path, what: str) -> Iterator[BinaryIO]:
    """A file to write, which replaces ``path`` when the context ends well and leaves it alone otherwise.

    What is no plain file (a device, a pipe) is written into as it is. Raises as ``os_errors``.
    """
    with os_errors(what, path):
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        target = path.resolve()  # a link stays one, to the new content
        temporary = target.with_name(f".tmp-{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as file:
                yield file
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def destination(out: Path | None, what: str = "The answer cannot be written") -> Iterator[BinaryIO]:
    """Where an answer's bytes go: a new file, or stdout for None and ``-``; on a terminal as by ``shown``."""
    if out is not None and str(out) != "-":
        with new_file(out, what) as file:
            yield file
        return
    sys.stdout.flush()
    if sys.stdout.isatty():
        with io.BufferedWriter(_Terminal(sys.stdout)) as terminal:
            yield terminal
    else:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


class _Terminal(io.RawIOBase):
    """Bytes of UTF-8 text to a terminal: tabs and line ends pass, other controls are written out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object, /) -> int:
        """All of it."""
        taken = bytes(data)  # type: ignore[call-overload]
        self._stream.write(shown(self._decoder.decode(taken), keep="\n\r\t"))
        return len(taken)


def leave_by(error: OSError) -> int:
    """The exit code where stdout takes no more: 3 for a full disk, 1 where nobody reads on."""
    return StorageFull.exit_code if error.errno in FULL else 1
