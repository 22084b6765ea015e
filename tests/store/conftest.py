"""A real S3-compatible server on loopback, for every test of this folder that wants a bucket."""

import logging

import pytest


@pytest.fixture(scope="module")
def server():
    """An S3-compatible server on this machine."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket's address, with the environment that leads to it."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = pytest.importorskip("boto3").client("s3", endpoint_url=server)
    client.create_bucket(Bucket="stores")
    for item in client.list_objects_v2(Bucket="stores").get("Contents", ()):
        client.delete_object(Bucket="stores", Key=item["Key"])
    return "s3://stores"
