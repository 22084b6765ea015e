"""A store is data: nothing that it names is imported, called or unpickled unless somebody says so."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import demo
from store.errors import ModelError
from store.reader import Snapshot
from tests.store.worlds import tiny_store
from textcam.query import Query
from textcam.trust import check_trusted
from textcam.user_code import own_function

ROOT = Path(__file__).parents[2]
OWN_CLIP = Path(demo.__file__).parent / "weights" / "clip"


def refusal(kind: str, **section: object) -> str:
    """What is said of a store's section; empty where it may be loaded."""
    try:
        check_trusted({kind: section}, kind, trust_code=False)
    except ModelError as error:
        check_trusted({kind: section}, kind, trust_code=True)
        return error.where
    return ""


@pytest.mark.parametrize(
    ("kind", "section"),
    [
        ("classifier", {"model": "timm:resnet50.a1_in1k", "weights": None}),
        ("classifier", {"model": "timm:vit_tiny_patch16_224?num_classes=7&global_pool=avg"}),
        ("classifier", {"model": "timm:x", "options": {"depths": [1, 2], "act_layer": "gelu", "eps": 1e-5}}),
        ("classifier", {"model": "torchvision:resnet50", "weights": "IMAGENET1K_V2"}),
        ("classifier", {"model": "timm:resnet50", "weights": "/data/birds.safetensors"}),
        ("classifier", {"model": "python:demo.models:tiny_classifier", "weights": "clean.safetensors"}),
        ("encoder", {"model": "ViT-B-32", "weights": "laion2b_s34b_b79k"}),
        ("encoder", {"model": "ViT-B-32", "weights": "random", "options": {"force_image_size": 64}}),
        ("encoder", {"model": f"local-dir:{OWN_CLIP}"}),
    ],
)
def test_the_libraries_models_and_the_demo_need_no_trust(kind: str, section: dict[str, object]) -> None:
    assert refusal(kind, **section) == ""


@pytest.mark.parametrize(
    ("kind", "section", "said"),
    [
        ("classifier", {"model": "python:os:system", "options": {"command": "x"}}, "system(command='x')"),
        ("classifier", {"model": "python:os:system?command=x"}, "calls system(command='x')"),
        ("classifier", {"model": "python:demo.models:write_merges"}, "imports demo.models"),
        ("classifier", {"model": "python:demo.models:tiny_classifier?x=1"}, "imports demo.models"),
        ("classifier", {"model": "timm:hf-hub:someone/net"}, "hf-hub:someone/net"),
        ("classifier", {"model": "timm:local-dir:/tmp/net"}, "/tmp/net"),
        ("classifier", {"model": "timm:x?checkpoint_path=x"}, "checkpoint_path"),
        ("classifier", {"model": "timm:x", "options": {"pretrained_cfg": {"file": "x"}}}, "pretrained_cfg"),
        ("classifier", {"model": "timm:x", "options": {"act_layer": "/tmp/x"}}, "act_layer"),
        ("classifier", {"model": "timm:x", "weights": "net.pt"}, "unpickles the weights net.pt"),
        ("classifier", {"model": "timm:x", "weights": "NET.PTH"}, "unpickles"),
        ("encoder", {"model": "python:mine:clip"}, "imports mine and calls clip()"),
        ("encoder", {"model": "hf-hub:someone/clip"}, "Hugging Face hub"),
        ("encoder", {"model": "local-dir:/tmp/clip"}, "the folder /tmp/clip"),
        ("encoder", {"model": f"local-dir:{OWN_CLIP}?/../../evil"}, "evil"),
        ("encoder", {"model": f"local-dir:{OWN_CLIP}", "weights": "x.bin"}, "unpickles"),
        ("encoder", {"model": "ViT-B-32", "options": {"weights_only": False}}, "weights_only"),
        ("encoder", {"model": "ViT-B-32", "options": {"pretrained_image_path": "x"}}, "pretrained_image"),
        ("encoder", {"model": "ViT-B-32", "options": {"vision_cfg": {"timm_model_name": "x"}}}, "vision_cfg"),
    ],
)
def test_what_would_run_is_refused_and_named(kind: str, section: dict[str, object], said: str) -> None:
    where = refusal(kind, **section)
    assert where.startswith(f"{kind}: ")
    assert said in where


def test_what_a_store_says_is_printed_harmlessly() -> None:
    where = refusal("classifier", model="python:m:f", options={"x": "\x1b[2J" + "y" * 10_000})
    assert where.isprintable()
    assert len(where) < 400


@pytest.mark.parametrize("section", ["classifier", "encoder"])
def test_opening_and_asking_a_store_runs_nothing_of_it(tmp_path: Path, section: str) -> None:
    tiny_store(tmp_path / "store")
    snapshot = Snapshot.open(tmp_path / "store")
    hostile = {"model": "python:os:mkdir", "options": {"path": str(tmp_path / "pwned")}}
    config = {**snapshot.manifest.config, section: hostile}
    changed = Snapshot(snapshot.storage, replace(snapshot.manifest, config=config))

    def ask(query: Query) -> object:
        return query._models.encoder if section == "encoder" else query._models.classifier

    with pytest.raises(ModelError, match="nothing of it was run") as refused:
        ask(Query(changed))
    assert "imports os and calls mkdir(path=" in refused.value.where
    assert "--trust-code" in refused.value.fix
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(ModelError, match="returns NoneType"):
        ask(Query(changed, trust_code=True))
    assert (tmp_path / "pwned").exists()  # so the first attempt would have made it


def test_a_folder_that_is_called_as_the_demo_is_not_the_demo(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").write_text("")
    (tmp_path / "demo" / "models.py").write_text(
        "print('pwned')\ndef tiny_classifier():\n    print('pwned')\n"
    )
    code = (
        "from textcam.user_code import own_function\n"
        "found = own_function('python:demo.models:tiny_classifier')\n"
        "print(found and found.__code__.co_filename)"
    )

    def found(*first: Path) -> str:
        path = ":".join(str(one) for one in (*first, ROOT))
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert found() == str(ROOT / "demo" / "models.py")  # not that of the current directory
    assert found(tmp_path) == "None"  # Python itself would take the other


def test_only_the_demos_builder_is_its_own() -> None:
    assert own_function("python:demo.models:tiny_classifier") is not None
    assert own_function("python:demo.models.tiny_classifier") is not None
    assert own_function("python:demo.models:byte_pair_merges") is None
