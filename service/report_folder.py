"""The folder of a report: a list of what we wrote there, so that the next report leaves nothing of the last.

Files that the list does not name are not ours and stay as they are. A name is on the list before its file is
written; so a report that was killed is known as one.
"""

from pathlib import Path, PurePosixPath
from typing import Self

from service.output import new_file, os_errors
from store.errors import ConfigError

LIST = ".textcam-report"
_HEAD = "# Files of a report by textcam. The next one in this folder takes away those it does not have.\n"
_FAILED = "The report cannot be written"


class ReportFolder:
    """A folder while a report is written into it.

    ConfigError for one that holds anything but an earlier report, before anything is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed = folder / LIST
        self._earlier: set[str] = set()
        self._written: set[str] = set()
        with os_errors(_FAILED, folder):
            if self._listed.is_file():
                lines = self._listed.read_text(encoding="utf-8").splitlines()
                self._earlier = {line for line in lines if line and not line.startswith("#")}
            elif folder.exists() and any(folder.iterdir()):
                raise ConfigError(
                    "The folder holds files that are not an earlier report's.",
                    where=folder,
                    fix="Name a folder that is new or empty.",
                )
            folder.mkdir(parents=True, exist_ok=True)
            self._list = self._listed.open("a", encoding="utf-8")
            if not self._earlier:
                self._list.write(_HEAD)

    def place(self, name: PurePosixPath | str) -> Path:
        """Where a file of this name is to be written, with its folder there and its name on the list."""
        target = self.folder / name
        if str(name) not in self._written:
            self._written.add(str(name))
            self._list.write(f"{name}\n")
            self._list.flush()
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._list.close()
        if kind is None:
            with os_errors(_FAILED, self.folder):
                self._take_away(self._earlier - self._written)
            with new_file(self._listed, _FAILED) as file:
                file.write((_HEAD + "".join(f"{name}\n" for name in sorted(self._written))).encode())

    def _take_away(self, names: set[str]) -> None:
        """Delete earlier files, and the folders that become empty."""
        home = self.folder.resolve()
        for name in sorted(names):
            path = self.folder / name
            # Through a link, or by a list that somebody else wrote, a name may lead out of the folder.
            if ".." in PurePosixPath(name).parts or home not in (path.parent / "_").resolve().parents:
                continue
            if not path.is_dir():
                path.unlink(missing_ok=True)
            for above in path.parents:
                if above == self.folder or not above.is_dir() or any(above.iterdir()):
                    break
                above.rmdir()
