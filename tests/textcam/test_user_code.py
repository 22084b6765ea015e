import sys

import pytest

from store.errors import ModelError
from textcam.user_code import call_user_function


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's own folder as the current directory; what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_function_of_the_current_directory_is_called_with_the_options(folder):
    (folder / "my_nets.py").write_text("def build(width=1, depth=2):\n    return width, depth\n")
    path = list(sys.path)
    assert call_user_function("python:my_nets:build", {"width": 7}) == (7, 2)
    assert call_user_function("python:my_nets.build", {}) == (1, 2)
    assert sys.path == path


def test_a_package_works_and_may_import_its_neighbours_late(folder):
    (folder / "zoo").mkdir()
    (folder / "zoo" / "__init__.py").write_text("")
    (folder / "zoo" / "nets.py").write_text(
        "def build():\n    from zoo.parts import NUMBER\n    return NUMBER\n"
    )
    (folder / "zoo" / "parts.py").write_text("NUMBER = 42\n")
    assert call_user_function("python:zoo.nets:build", {}) == 42


def test_each_mistake_is_told_apart(folder):
    (folder / "nets_a.py").write_text("import not_there_at_all\n")
    (folder / "nets_b.py").write_text("def biuld():\n    return 1\n")
    (folder / "nets_c.py").write_text("def build():\n    values = []\n    return values[3]\n")
    (folder / "nets_d.py").write_text("x = = 1\n")
    with pytest.raises(ModelError, match="there is no module 'nets_z'") as error:
        call_user_function("python:nets_z:build", {})
    assert str(folder) in error.value.fix
    with pytest.raises(ModelError, match="imports 'not_there_at_all', which is not installed"):
        call_user_function("python:nets_a:build", {})
    with pytest.raises(ModelError, match="no function 'build'") as error:
        call_user_function("python:nets_b:build", {})
    assert "biuld" in error.value.fix
    with pytest.raises(ModelError, match="IndexError") as error:
        call_user_function("python:nets_c:build", {})
    assert "nets_c.py:3" in error.value.where
    with pytest.raises(ModelError, match="SyntaxError"):
        call_user_function("python:nets_d:build", {})
    with pytest.raises(ModelError, match="no function is named"):
        call_user_function("python:nets_b", {})
