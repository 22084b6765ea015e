"""Write the tiny store as the code at hand does: `python -m tests.store.golden.write FOLDER`.

Done once for each format, by the last code that wrote it (for a format of the past: in a checkout of that
time, where this file is put beside the tests of then), and never again: where a golden store cannot be read,
it is the reader that has to change.
"""

import sys

from store.manifest import Manifest
from store.storage import open_storage
from store.writer import commit
from tests.store.worlds import TinyWorld, tiny_manifest


def write_golden(folder: str) -> Manifest:
    """The tiny store at ``folder``; the same bytes wherever it is written."""
    storage = open_storage(folder)
    return commit(storage, tiny_manifest(storage, TinyWorld(), 2, None))


if __name__ == "__main__":
    print(write_golden(sys.argv[1]).format_version)
