"""The cluster file is what Ray takes, and opens nothing to the world."""

import json
from pathlib import Path

import jsonschema
import ray
import yaml

ROOT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_ray_accepts_it() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(CLUSTER, schema)


def test_the_head_does_no_work_and_workers_may_vanish() -> None:
    types = CLUSTER["available_node_types"]
    assert types[CLUSTER["head_node_type"]]["resources"] == {"CPU": 0}
    markets = {
        name: kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, kind in types.items()
    }
    assert markets == {"head": None, "gpu_spot": "spot", "gpu_on_demand": None, "decode": None}
    assert sum(kind.get("max_workers", 0) for kind in types.values()) >= CLUSTER["max_workers"]


def test_nothing_listens_to_the_world() -> None:
    text = (ROOT / "ray_cluster.yaml").read_text()
    assert "0.0.0.0" not in text
    assert "--dashboard-host=127.0.0.1" in " ".join(CLUSTER["head_start_ray_commands"])
    assert "RAY_AUTH_MODE=disabled" not in text
