"""What a folder on a disk asks of its files: how they become visible and are found, what an error means.

**Put if absent.** A hard link appears with its whole content and fails where the name is taken, on every
machine that sees the disk. Where the file system has no hard links (exFAT, many shares and mounted buckets)
writers take turns by a lock on one file of the folder, look, and rename. The kernel takes the lock back when
a process dies, so none is ever left; but it holds between machines only where the file system carries locks.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.errors import SnapshotConflict, StorageFull, StorageUnavailable

TEMPORARY = ".tmp-"
ABSENT = (FileNotFoundError, NotADirectoryError)  # what "does not exist" looks like; all else is an error
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def place_if_absent(temporary: Path, target: Path) -> None:
    """Make a written file visible as ``target`` at once, and raise SnapshotConflict where there is one."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # Over a network the answer to a link may get lost; asked again, the server finds the name taken.
        if temporary.stat().st_nlink < 2:
            raise _taken(target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_if_absent(temporary, target)


def _rename_if_absent(temporary: Path, target: Path) -> None:
    import fcntl  # not on Windows, whose file systems have hard links

    with open(target.with_name(f"{TEMPORARY}lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(target):
            raise _taken(target)
        temporary.replace(target)


def _taken(target: Path) -> SnapshotConflict:
    return SnapshotConflict("Already written by someone else.", where=target)


def walk(root: Path, prefix: str, *, follow_links: bool) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Files below ``root`` whose path starts with ``prefix``, with that path; unfinished ones are left out.

    A folder that is not there holds nothing; one that cannot be read raises its OSError. Links to folders are
    passed over, or followed, but never into a folder that holds them.
    """
    waiting = [prefix.rpartition("/")[0]]
    while waiting:
        folder = waiting.pop()
        try:
            found = os.scandir(root / folder)
        except ABSENT:
            continue
        with found:
            for file in found:
                path = f"{folder}/{file.name}" if folder else file.name
                if file.name.startswith(TEMPORARY) or not path.startswith(prefix):
                    continue
                kind = _kind(file, follow_links)
                if kind == "folder" and not (file.is_symlink() and _holds_itself(root, path)):
                    waiting.append(path)
                elif kind == "file":
                    yield path, file


def _kind(file: "os.DirEntry[str]", follow_links: bool) -> str:
    """``folder``, ``file``, or neither: a pipe, a link that leads nowhere, a link that is not followed."""
    try:
        if file.is_dir(follow_symlinks=follow_links):
            return "folder"
        return "file" if file.is_file() else ""
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return ""
        raise


def _holds_itself(root: Path, path: str) -> bool:
    """Whether a link leads to a folder above it, on the way that was taken."""
    target = (root / path).stat()
    above = [root, *(root / part for part in _parents(path))]
    return any(os.path.samestat(target, folder.stat()) for folder in above)


def _parents(path: str) -> list[str]:
    names = path.split("/")[:-1]
    return ["/".join(names[:end]) for end in range(1, len(names) + 1)]


def refuse_links(root: Path, path: str) -> None:
    """Raise StorageUnavailable where a folder on the way to ``path`` is a link, which could lead anywhere."""
    for folder in _parents(path):
        if (root / folder).is_symlink():
            raise StorageUnavailable(
                "A folder inside the store is a link; nothing is written, listed or deleted through it.",
                where=root / folder,
                fix="Keep the whole store behind one link, or none of it.",
            )


def is_file(path: Path) -> bool:
    """Whether there is a file. Unlike ``Path.is_file`` it raises where that cannot be told."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except ABSENT:
        return False


def make_folder(folder: Path) -> None:
    """With its parents, each flushed to disk in the folder above it."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        flush_folder(one.parent)


def flush_folder(folder: Path) -> None:
    """Its names, to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def named_errors(uri: str, path: str) -> Iterator[None]:
    """Operating system errors as named cases; a missing file stays ``FileNotFoundError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        where = f"{uri}/{path}"
        if error.errno in _FULL:
            raise StorageFull(
                "No space left to write the store; nothing of it was committed.",
                where=where,
                fix="Make space and run the same command again: finished parts are kept.",
            ) from error
        raise StorageUnavailable(f"Cannot use this file: {error.strerror or error}.", where=where) from error
