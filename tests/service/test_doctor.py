"""`textcam doctor`: what it says of the place where a store would go, on disk and in a bucket."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.entry_point import Run

requests = pytest.importorskip("requests")
moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> object:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return boto3.client("s3", endpoint_url=server)


def last(textcam: Run, place: object) -> tuple[int, dict]:
    said = textcam("doctor", "-o", place, "--json")
    assert said.err == ""
    return said.code, json.loads(said.out)[-1]


def test_a_file_in_place_of_a_folder_is_no_traceback(textcam: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, told = last(textcam, tmp_path / "file")
    assert (code, told["ok"], told["told"]) == (1, False, "Not a directory")
    assert (tmp_path / "file").read_text() == ""


def test_a_bucket_is_written_read_and_left_as_it_was(textcam: Run, client: object) -> None:
    client.create_bucket(Bucket="runs")  # type: ignore[attr-defined]
    code, told = last(textcam, "s3://runs/birds")
    assert (code, told["ok"], told["name"]) == (0, True, "write to s3://runs/birds")
    assert told["told"] == "written, read and removed"
    assert client.list_objects_v2(Bucket="runs")["KeyCount"] == 0  # type: ignore[attr-defined]
    assert not Path("s3:").exists()


def test_a_bucket_that_does_not_answer_says_why(textcam: Run, client: object) -> None:
    code, told = last(textcam, "s3://nowhere/birds")
    assert (code, told["ok"], told["needed"]) == (1, False, True)
    assert told["told"].startswith("There is no such bucket.")


def test_wrong_credentials_say_so(
    textcam: Run, client: object, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses all keys, as S3 does those that it does not know."""
    client.create_bucket(Bucket="locked")  # type: ignore[attr-defined]
    assert requests.post(f"{server}/moto-api/reset-auth", data="0", timeout=60).ok
    try:
        code, told = last(textcam, "s3://locked/birds")
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data="inf", timeout=60)
    assert (code, told["ok"]) == (1, False)
    assert "credentials" in told["told"]


def test_a_kind_of_storage_that_is_not_known(textcam: Run) -> None:
    code, told = last(textcam, "ftp://host/birds")
    assert (code, told["ok"]) == (1, False)
    assert "'ftp' is not supported" in told["told"]
