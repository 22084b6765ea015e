"""Every error that this project raises on purpose: one root and a closed list of named cases.

Each error says *what* went wrong, *where*, and *how to fix it*. The command line prints the three and leaves
with ``exit_code``: 1 when a run or a check failed, 2 when the request was wrong, 3 when the disk is full.
Anything else that escapes is a bug and shows its traceback.
"""

# ruff: noqa: N818 (the names say what happened; "Error" would add nothing)


class TextcamError(Exception):
    """Root of all named cases.

    ``what`` is one sentence; ``where`` names the file, key, id or row; ``fix`` says what the user can do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, str(where), fix
        super().__init__(what, self.where, fix)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (Ray); keyword arguments would be lost by the default.
        return (_rebuild, (type(self), self.what, self.where, self.fix))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


def _rebuild(kind: type[TextcamError], what: str, where: str, fix: str) -> TextcamError:
    return kind(what, where=where, fix=fix)


def first_line(error: BaseException) -> str:
    """The first line that a library's error says something in; its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# --- the request was wrong (exit code 2) --------------------------------------------------------------------


class ConfigError(TextcamError):
    """A configuration, text bank or argument is not valid."""

    exit_code = 2


class SourceError(TextcamError):
    """The images asked for are not there: missing or empty folder, unreadable list."""

    exit_code = 2


class ModelError(TextcamError):
    """A classifier or encoder cannot be built: unknown name, wrong weights, no usable target layer."""

    exit_code = 2


class StoreNotFound(TextcamError):
    """No committed snapshot at this place."""

    exit_code = 2


class QueryError(TextcamError):
    """A question that the store cannot answer: unknown class, channel or table, refused SQL."""

    exit_code = 2


# --- the work failed (exit code 1) --------------------------------------------------------------------------


class ImageError(TextcamError):
    """One image cannot be used. Costs one row of ``errors``, never its neighbours."""


class RunIncomplete(TextcamError):
    """The run ended without a commit: too many image errors, or shards that could not be finished."""


class SchemaMismatch(TextcamError):
    """Rows do not have the columns, types, order or keys that their table requires."""


class FormatTooNew(TextcamError):
    """The store was written by a later version of the format."""


class Damaged(TextcamError):
    """A file of a committed snapshot is missing or is not the one that was committed."""


class SnapshotConflict(TextcamError):
    """Another writer committed this snapshot first; nothing was lost."""


class IndexMismatch(TextcamError):
    """An index was not built from the table it stands beside, or its recall is below the limit."""


class EncoderMismatch(TextcamError):
    """The query's encoder is not the one that made the store."""


class LimitReached(TextcamError):
    """A query took more time or memory than it may."""


class StorageUnavailable(TextcamError):
    """The disk or the object store did not take or give bytes."""


class StorageFull(StorageUnavailable):
    """No space left where the store is written."""

    exit_code = 3
