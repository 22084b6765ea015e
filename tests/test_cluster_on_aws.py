"""Ray's own AWS provider starts the nodes of ray_cluster.yaml, on a server that speaks as AWS does."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from tests.test_cluster_file import CLUSTER, HEAD, TYPES

moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")
REGION = CLUSTER["provider"]["region"]


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An account where nothing is but the roles that the file's remarks ask for."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "HOME": str(tmp_path),  # Ray keeps the key for ssh there
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    iam = boto3.client("iam")
    for name in {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in TYPES.values()}:
        iam.create_instance_profile(InstanceProfileName=name)
    yield
    running.stop()


def test_each_kind_of_node_starts_with_its_machine_and_its_role(aws: None) -> None:
    config = prepare_config(copy.deepcopy(CLUSTER))
    provider_class = type(_get_node_provider(config["provider"], "textcam", use_cache=False))
    config = provider_class.bootstrap_config(config)
    provider = provider_class(config["provider"], "textcam")
    for name, kind in config["available_node_types"].items():
        tags = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD if name == HEAD else NODE_KIND_WORKER,
            TAG_RAY_USER_NODE_TYPE: name,
        }
        # As Ray does it: what is for the head alone comes over its kind's own.
        special = config["head_node"] if name == HEAD else {}
        provider.create_node({**kind["node_config"], **special}, tags, 1)
    started = [
        one
        for reservation in boto3.client("ec2").describe_instances()["Reservations"]
        for one in reservation["Instances"]
    ]
    found: dict[str, dict[str, Any]] = {
        next(tag["Value"] for tag in one["Tags"] if tag["Key"] == TAG_RAY_USER_NODE_TYPE): one
        for one in started
    }
    assert set(found) == set(TYPES)
    for name, one in found.items():
        asked = TYPES[name]["node_config"]
        assert one["ImageId"] == asked["ImageId"]
        assert one["InstanceType"] == asked["InstanceType"]
        assert one["IamInstanceProfile"]["Arn"].rpartition("/")[2] == asked["IamInstanceProfile"]["Name"]
        assert one.get("InstanceLifecycle") == asked.get("InstanceMarketOptions", {}).get("MarketType")
    roles = [one["RoleName"] for one in boto3.client("iam").list_roles()["Roles"]]
    assert roles == []  # Ray made none of its own
