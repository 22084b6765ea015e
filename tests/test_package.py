"""What is installed: the metadata and the files of the wheel."""

import shutil
import subprocess
import sys
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]

MAKE_METADATA = (
    "from setuptools.build_meta import prepare_metadata_for_build_wheel as make; print(make('made'))"
)


def test_the_wheel_says_its_licence_and_carries_the_text(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "made").mkdir()
    subprocess.run([sys.executable, "-c", MAKE_METADATA], cwd=tmp_path, check=True, capture_output=True)
    [folder] = (tmp_path / "made").glob("textcam-*.dist-info")
    metadata = Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    text = (folder / "licenses" / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
