"""The files for clusters are what Ray takes, describe the same cluster, and open nothing to the world."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from pipelines.config_file import make_config

ROOT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
DOCUMENTS = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "ray_job.yaml").read_text())}
JOB = DOCUMENTS["RayJob"]["spec"]
IN_PODS = JOB["rayClusterSpec"]
GROUPS = {"head": IN_PODS["headGroupSpec"]} | {one["groupName"]: one for one in IN_PODS["workerGroupSpecs"]}
DOCKERFILE = (ROOT / "Dockerfile").read_text()

# Fields of KubeRay's ray.io/v1, version 1.6, as its reference lists them.
JOB_FIELDS = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "rayClusterSpec",
    "submitterPodTemplate",
    "metadata",
    "clusterSelector",
    "submitterConfig",
    "managedBy",
    "deletionStrategy",
    "entrypoint",
    "runtimeEnvYAML",
    "jobId",
    "submissionMode",
    "entrypointResources",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "ttlSecondsAfterFinished",
    "shutdownAfterJobFinishes",
    "suspend",
}
CLUSTER_FIELDS = {
    "suspend",
    "managedBy",
    "autoscalerOptions",
    "headServiceAnnotations",
    "enableInTreeAutoscaling",
    "authOptions",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "rayVersion",
    "workerGroupSpecs",
}
HEAD_FIELDS = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKER_FIELDS = {
    "suspend",
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "idleTimeoutSeconds",
    "rayStartParams",
    "template",
    "scaleStrategy",
    "numOfHosts",
}
AUTOSCALER_FIELDS = {
    "resources",
    "image",
    "imagePullPolicy",
    "securityContext",
    "idleTimeoutSeconds",
    "upscalingMode",
    "version",
    "env",
    "envFrom",
    "volumeMounts",
}


def autoscaling() -> dict[str, Any]:
    """What Ray's own autoscaler makes of the job's cluster; it checks the result against its schema."""
    resource = {"metadata": {"name": "textcam", "namespace": "default"}, "spec": IN_PODS}
    return dict(_derive_autoscaling_config_from_ray_cr(resource))


def test_ray_accepts_the_cluster_file() -> None:
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
    assert 0 < CLUSTER["idle_timeout_minutes"] <= 10


def test_rays_autoscaler_understands_the_job_as_the_same_cluster() -> None:
    made = autoscaling()
    resources = {name: dict(one["resources"]) for name, one in made["available_node_types"].items()}
    for one in resources.values():
        assert one.pop("memory") >= 2**34
    assert resources == {
        "headgroup": {"CPU": 0},
        "gpu-spot": {"CPU": 8, "GPU": 1},
        "gpu-on-demand": {"CPU": 8, "GPU": 1},
        "decode": {"CPU": 16},
    }
    named = CLUSTER["available_node_types"]
    for name, one in made["available_node_types"].items():
        if name != made["head_node_type"]:
            twin = named[name.replace("-", "_")]
            assert (one["resources"]["CPU"], one["min_workers"], one["max_workers"]) == (
                twin["resources"]["CPU"],
                twin["min_workers"],
                twin["max_workers"],
            )
    assert made["idle_timeout_minutes"] == CLUSTER["idle_timeout_minutes"]


def test_kuberay_knows_every_field_of_the_job() -> None:
    assert DOCUMENTS["RayJob"]["apiVersion"] == "ray.io/v1"
    assert set(JOB) <= JOB_FIELDS
    assert set(IN_PODS) <= CLUSTER_FIELDS
    assert set(IN_PODS["headGroupSpec"]) <= HEAD_FIELDS
    assert set(IN_PODS["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    for group in IN_PODS["workerGroupSpecs"]:
        assert set(group) <= WORKER_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert all(isinstance(value, str) for one in GROUPS.values() for value in one["rayStartParams"].values())


def test_spot_and_on_demand_gpus_are_asked_for_by_name() -> None:
    kinds = {
        name: one["template"]["spec"].get("nodeSelector", {}).get("karpenter.sh/capacity-type")
        for name, one in GROUPS.items()
    }
    assert kinds == {"head": None, "gpu-spot": "spot", "gpu-on-demand": "on-demand", "decode": None}
    for name, one in GROUPS.items():
        limits = one["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == name.startswith("gpu")


def test_the_jobs_run_is_a_configuration_with_as_many_workers_as_gpus() -> None:
    raw = yaml.safe_load(DOCUMENTS["ConfigMap"]["data"]["run.yaml"])
    run = make_config(raw, base=ROOT).run
    gpus = sum(one["maxReplicas"] for name, one in GROUPS.items() if name.startswith("gpu"))
    assert (run.workers, run.gpus_per_worker) == (gpus, 1)
    assert run.cpus_per_worker <= int(GROUPS["gpu-spot"]["rayStartParams"]["num-cpus"])


def test_the_jobs_decoders_fill_the_decode_nodes_and_fit_no_other() -> None:
    raw = yaml.safe_load(DOCUMENTS["ConfigMap"]["data"]["run.yaml"])
    run, cores = make_config(raw, base=ROOT).run, {}
    for name, one in GROUPS.items():
        cores[name] = int(one["rayStartParams"]["num-cpus"])
    assert [name for name, count in cores.items() if count >= run.cpus_per_decoder] == ["decode"]
    assert run.decoders <= GROUPS["decode"]["maxReplicas"]
    volume = GROUPS["head"]["template"]["spec"]["volumes"][0]
    assert volume["configMap"]["name"] == DOCUMENTS["ConfigMap"]["metadata"]["name"]
    mount = GROUPS["head"]["template"]["spec"]["containers"][0]["volumeMounts"][0]
    assert JOB["entrypoint"] == f"textcam precompute {mount['mountPath']}/run.yaml"
    assert JOB["backoffLimit"] > 0  # a lost head: the next attempt goes on
    assert JOB["shutdownAfterJobFinishes"]


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "ray_job.yaml", "Dockerfile"])
def test_nothing_listens_to_the_world(name: str) -> None:
    text = (ROOT / name).read_text()
    for open_door in ("0.0.0.0", "NodePort", "LoadBalancer", "Ingress\n", "hostNetwork", "privileged: true"):
        assert open_door not in text, open_door
    assert not re.search(r"AUTH_MODE\W+disabled|mode:\s*disabled", text)


def test_every_node_needs_the_token() -> None:
    assert "--dashboard-host=127.0.0.1" in " ".join(CLUSTER["head_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in CLUSTER["file_mounts"]
    assert IN_PODS["authOptions"] == {"mode": "token"}
    assert "RAY_AUTH_MODE=token" in DOCKERFILE


def test_only_the_jobs_own_pods_and_the_operator_reach_them() -> None:
    policy = DOCUMENTS["NetworkPolicy"]["spec"]
    ours = policy["podSelector"]["matchLabels"]
    pods = [JOB["submitterPodTemplate"], *(one["template"] for one in GROUPS.values())]
    assert all(ours.items() <= pod["metadata"]["labels"].items() for pod in pods)
    inside, operator = policy["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": ours}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert IN_PODS["headGroupSpec"]["serviceType"] == "ClusterIP"
    for one in GROUPS.values():
        spec = one["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert not spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"]


def test_one_pinned_image_for_all() -> None:
    pods = [JOB["submitterPodTemplate"], *(one["template"] for one in GROUPS.values())]
    images = {one["image"] for pod in pods for one in pod["spec"]["containers"]}
    assert images == {CLUSTER["docker"]["image"]}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert images == {f"textcam:{version}"}
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert IN_PODS["rayVersion"] == pins["ray"] == ray.__version__
    base = re.search(r"^FROM (\S+)$", DOCKERFILE, re.M)
    assert base is not None
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base[1])
    assert "-c constraints.txt" in DOCKERFILE
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.M))
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert copied == {name.rstrip("*") for name in found["include"]}
    assert {f"!{name}" for name in copied} <= set((ROOT / ".dockerignore").read_text().split())
