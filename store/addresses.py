"""Addresses of storages, split by hand: in a bucket's names ``#``, ``?`` and ``%`` are letters."""

import re
from urllib.parse import unquote

from store.errors import ConfigError

OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "memory")
_ONE_SLASH = re.compile(rf"({'|'.join((*OBJECT_SCHEMES, 'file'))}):/*(?!/)(.*)", re.IGNORECASE | re.DOTALL)


def scheme_of(address: str) -> str:
    """What stands before ``://``, in small letters; empty for a folder's path. Raises ConfigError for
    ``s3:/bucket/x``, which would be a folder of that name."""
    if "://" in address:
        return address.split("://", 1)[0].lower()
    if found := _ONE_SLASH.fullmatch(address):
        scheme, rest = found[1].lower(), found[2]
        raise ConfigError(
            "An address has two slashes after the colon.",
            where=address,
            fix=f"Write {scheme}://{'/' if scheme == 'file' else ''}{rest}",
        )
    return ""


def split_bucket(address: str) -> tuple[str, str, str]:
    """``s3://bucket/a/b/`` as (``s3``, ``bucket``, ``a/b``). Raises ConfigError for a segment that names
    nothing."""
    bucket, _, path = address.split("://", 1)[1].partition("/")
    names = path.split("/")
    if not names[-1]:  # a slash at the end, or no path
        names.pop()
    wrong = {"": "an empty name", ".": "'.'", "..": "'..'"}
    for name in (bucket, *names):
        if name in wrong:
            raise ConfigError(
                f"An address in a bucket cannot have {wrong[name]} between its slashes.",
                where=address,
                fix="Write scheme://bucket/folder/name, with one slash between names.",
            )
    return scheme_of(address), bucket, "/".join(names)


def local_path(address: str) -> str:
    """The path that a ``file:`` address means; ``%20`` and the like stand for the byte that they name."""
    return unquote(address.split("://", 1)[1].removeprefix("localhost"))
