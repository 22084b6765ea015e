"""What is installed: the metadata and the files of the wheel."""

import shutil
import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]


def built(folder: Path, call: str) -> Path:
    """What a call of setuptools' builder makes in a folder of its own."""
    (folder / "made").mkdir()
    program = f"from setuptools.build_meta import *; {call}"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, capture_output=True)
    [made] = (folder / "made").glob("textcam-*")
    return made


def test_the_wheel_says_its_licence_and_carries_the_text(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    folder = built(tmp_path, "prepare_metadata_for_build_wheel('made')")
    metadata = Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    text = (folder / "licenses" / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_image_can_install_what_is_needed_before_our_code_is_there(tmp_path: Path) -> None:
    """As the Dockerfile does it: the project's file alone, and two empty ones that it names."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("README.md", "LICENSE"):
        (tmp_path / name).touch()
    wheel = ZipFile(built(tmp_path, "build_wheel('made')"))
    [metadata] = [name for name in wheel.namelist() if name.endswith("METADATA")]
    said = Parser().parsestr(wheel.read(metadata).decode())
    assert {"precompute", "aws"} <= set(said.get_all("Provides-Extra", []))
    assert any(line.startswith("torch>") for line in said.get_all("Requires-Dist", []))
    assert not [name for name in wheel.namelist() if name.endswith(".py")]
