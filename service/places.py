"""What STORE means on the command line: a store, one of its snapshots, or a folder of stores."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from service.output import say, say_error
from store.errors import ConfigError, TextcamError

if TYPE_CHECKING:
    from store.reader import Snapshot
    from textcam.query import Query

_AT = re.compile(r"(?P<uri>.*[^/@])@(?P<snapshot>[0-9]+)")
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A folder or address, and the snapshot that was named with ``@N``, if one was."""

    uri: str
    snapshot: int | None = None

    @classmethod
    def of(cls, named: str) -> "Place":
        """``STORE`` or ``STORE@N``. A folder whose own name ends so is written with a slash: ``birds@2/``."""
        found = _AT.fullmatch(named)
        return cls(found["uri"], int(found["snapshot"])) if found else cls(named)

    def __str__(self) -> str:
        return self.uri if self.snapshot is None else f"{self.uri}@{self.snapshot}"

    def open(self) -> "Snapshot":
        """The snapshot; raises StoreNotFound, FormatTooNew, Damaged."""
        from store.reader import Snapshot

        return Snapshot.open(self.uri, self.snapshot)

    def query(self, *, trust_code: bool = False) -> "Query":
        """Questions to the snapshot; raises as ``open``."""
        from textcam.query import Query

        return Query.open(self.uri, self.snapshot, trust_code=trust_code)

    def whole(self, why: str) -> str:
        """The address, for what is done to a store and not to one of its snapshots. ``why`` is a sentence.

        Raises ConfigError where a snapshot was named.
        """
        if self.snapshot is not None:
            raise ConfigError(why, where=self, fix=f"Name the store: {self.uri}")
        return self.uri

    def stores(self) -> "dict[str, Place]":
        """The stores of a folder of several classifiers, by name; else this one, under the name ""."""
        from store.collection import read_names
        from store.storage import open_storage

        names = read_names(open_storage(self.uri))
        if not names:
            return {"": self}
        folder = self.whole("A snapshot belongs to one store; here are the stores of several classifiers.")
        return {name: Place(f"{folder.rstrip('/')}/{name}") for name in names}


class Answers(dict[str, T]):
    """What each store of a place answered, by name; ``code`` is the exit code of those that could not."""

    code = 0

    @property
    def one(self) -> bool:
        """Whether this was a store and no folder of stores."""
        return "" in self


def ask_each(place: Place, question: Callable[[Place], T]) -> Answers[T]:
    """The answer of each store of a place. In a folder of stores one that fails does not cost the others
    theirs: its error is printed.
    """
    answers, stores = Answers[T](), place.stores()
    for name, store in stores.items():
        try:
            answers[name] = question(store)
        except TextcamError as error:
            if name == "":
                raise
            say_error(error)
            answers.code = answers.code or error.exit_code
    return answers


@contextmanager
def section(name: str) -> Iterator[None]:
    """What is printed within stands below the store's name, where it has one."""
    if name:
        say(name)
    yield
    if name:
        say("")
