"""The files for clusters are what Ray takes, describe the same cluster, and open nothing to the world.

They were not tried on a cloud, so what can be seen without one is seen here: numbers that add up, tools that
Ray calls and the image has, names and the things that they name.
"""

import copy
import json
import re
import shlex
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private import command_runner
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.config_file import make_config

ROOT = Path(__file__).parents[1]
CLUSTER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
DOCUMENTS = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "ray_job.yaml").read_text())}
JOB = DOCUMENTS["RayJob"]["spec"]
IN_PODS = JOB["rayClusterSpec"]
GROUPS = {"head": IN_PODS["headGroupSpec"]} | {one["groupName"]: one for one in IN_PODS["workerGroupSpecs"]}
TYPES = CLUSTER["available_node_types"]
HEAD = CLUSTER["head_node_type"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Its instructions, each on one line and without remarks.
BUILD = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).split("\n")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

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


def image_has() -> set[str]:
    """Debian packages that the image installs."""
    [line] = [one for one in BUILD if "apt-get install" in one]
    words = shlex.split(line.split("apt-get install")[1].split("&&")[0])
    return {word for word in words if not word.startswith("-")}


def prepared() -> dict[str, Any]:
    """The cluster file as Ray fills it up before it does anything."""
    made = prepare_config(copy.deepcopy(CLUSTER))
    validate_config(made)
    return dict(made)


def test_ray_accepts_the_cluster_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(CLUSTER, schema)
    assert prepared()["max_workers"] == CLUSTER["max_workers"]


def test_the_head_does_no_work_and_workers_may_vanish() -> None:
    assert TYPES[HEAD]["resources"] == {"CPU": 0}
    markets = {
        name: kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, kind in TYPES.items()
    }
    assert markets == {"head": None, "gpu_spot": "spot", "gpu_on_demand": None, "decode": None}
    assert 0 < CLUSTER["idle_timeout_minutes"] <= 10


def test_every_group_can_grow_to_its_size_at_the_same_time() -> None:
    assert CLUSTER["max_workers"] >= sum(kind["max_workers"] for name, kind in TYPES.items() if name != HEAD)


def test_the_numbers_of_the_cluster_files_remarks_are_its_groups() -> None:
    said = re.findall(r"`(run: \{.*?\})`|add `(decoders: .*?)`", (ROOT / "ray_cluster.yaml").read_text())
    run = yaml.safe_load(said[0][0])["run"] | yaml.safe_load("{" + said[1][1] + "}")
    gpus = sum(kind["max_workers"] for kind in TYPES.values() if "GPU" in kind["resources"])
    assert (run["workers"], run["gpus_per_worker"]) == (gpus, 1)
    assert run["cpus_per_worker"] <= min(
        kind["resources"]["CPU"] for kind in TYPES.values() if "GPU" in kind["resources"]
    )
    assert (run["decoders"], run["cpus_per_decoder"]) == (
        TYPES["decode"]["max_workers"],
        TYPES["decode"]["resources"]["CPU"],
    )


def test_nothing_is_fetched_from_the_network_when_a_node_starts() -> None:
    made = prepared()
    starts = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    assert {name: made[name] for name in starts} == {name: [] for name in starts}


def test_every_node_may_read_the_bucket_and_has_a_machine_that_we_chose() -> None:
    for name, kind in TYPES.items():
        assert kind["node_config"]["IamInstanceProfile"]["Name"], name
        assert kind["node_config"]["ImageId"].startswith("ami-"), name
    workers = {
        kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in TYPES.items() if name != HEAD
    }
    assert (
        TYPES[HEAD]["node_config"]["IamInstanceProfile"]["Name"] not in workers
    )  # it may start nodes, they may not


def test_containers_know_the_region() -> None:
    assert f"--env AWS_REGION={CLUSTER['provider']['region']}" in CLUSTER["docker"]["run_options"]
    pods = {name: one["template"]["spec"]["containers"][0] for name, one in GROUPS.items()}
    for name, pod in pods.items():
        assert [one["name"] for one in pod["env"]] == ["AWS_REGION"], name


def test_the_image_has_what_ray_calls_in_it() -> None:
    """Ray's command runner copies into the container by rsync; the head runs ssh and rsync inside its own."""
    source = Path(command_runner.__file__).read_text()
    package = {"rsync": "rsync", "ssh": "openssh-client"}
    for tool, brought_by in package.items():
        assert f'["{tool}"]' in source
        assert brought_by in image_has()
    assert "rsync -e '{} exec -i'" in source
    assert "wget" in image_has()  # the health checks of KubeRay
    assert "g++" in image_has()  # run.compile


def test_ray_finds_the_home_of_the_image() -> None:
    """It looks HOME up in the image's variables, and takes /root where there is none."""
    user = re.search(r"useradd --create-home --uid (\d+) (\w+)", DOCKERFILE)
    assert user is not None
    assert user[1] == str(GROUPS["head"]["template"]["spec"]["securityContext"]["runAsUser"])
    home = f"/home/{user[2]}"
    assert re.search(rf"HOME={home}\b", " ".join(one for one in BUILD if one.startswith("ENV")))
    assert f"USER {user[2]}" in BUILD
    assert all(place.startswith(f"{home}/") for place in CLUSTER["file_mounts"])


def closure(extras: set[str]) -> set[str]:
    """All that ``pip install '.[extras]'`` brings, by the metadata of what is installed here."""
    optional = PROJECT["project"]["optional-dependencies"]
    waiting = [Requirement(one) for one in PROJECT["project"]["dependencies"]]
    waiting += [Requirement(one) for name in extras for one in optional[name]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        for extra in ("", *one.extras):
            key = (canonicalize_name(one.name), extra)
            if key in seen:
                continue
            seen.add(key)
            for text in requires(one.name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({**default_environment(), "extra": extra}):
                    waiting.append(needed)
    return {name for name, _ in seen}


def pins() -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


def test_everything_in_the_image_is_pinned_and_ray_finds_its_boto3() -> None:
    installs = [one for one in BUILD if "pip install" in one and "--no-deps" not in one]
    assert len(installs) == 1
    assert "-c constraints.txt" in installs[0]
    extras = re.search(r"'\.\[([\w,]+)\]'", installs[0])
    assert extras is not None
    brought = closure(set(extras[1].split(",")))
    assert {"boto3", "ray", "torch"} <= brought
    assert brought - {canonicalize_name(name) for name in pins()} == set()


def test_a_change_of_code_does_not_install_torch_again() -> None:
    """What Docker keeps of an earlier build ends at the first line whose files changed."""
    [install] = [at for at, one in enumerate(BUILD) if "pip install" in one and "--no-deps" not in one]
    before = {word for one in BUILD[:install] if one.startswith("COPY") for word in one.split()[1:-1]}
    assert before == {"pyproject.toml", "constraints.txt"}
    ours = next(at for at, one in enumerate(BUILD) if "pip install" in one and "--no-deps" in one)
    assert ours > max(at for at, one in enumerate(BUILD) if one.startswith("COPY"))


def steps(name: str) -> list[list[str]]:
    """The commands of the remarks at the top of a file, in words."""
    top = re.match(r"(?:#.*\n)+", (ROOT / name).read_text())
    assert top is not None
    lines = re.findall(r"^#   (\S.*?)(?:    .*)?$", top[0], re.M)
    return [shlex.split(line) for line in lines]


def test_the_steps_of_the_cluster_file_bring_what_they_use() -> None:
    made = steps("ray_cluster.yaml")
    assert [" ".join(one[:2]) for one in made] == [
        "pip install",
        "docker build",
        "docker push",
        "ray get-auth-token",
        "ray up",
        "ray rsync-up",
        "ray exec",
        "ray down",
    ]
    commands = {one.name for one in ray_commands().values()}
    assert {one[1] for one in made if one[0] == "ray"} <= commands
    for one in made[4:]:
        assert (ROOT / one[2]).exists()
    _, _, _, local, remote = made[5]
    assert Path(local).name == Path(remote).name
    assert made[6][3] == f"textcam precompute {remote}"
    assert remote.startswith("/home/ray/")
    assert Requirement(f"textcam{made[0][-1][1:]}").extras == {"precompute", "aws"}
    assert {word for one in made[1:3] for word in one if "REGISTRY" in word} == {
        f"REGISTRY/{CLUSTER['docker']['image']}"
    }


def test_the_steps_of_the_job_name_the_job_and_its_file() -> None:
    for one in steps("ray_job.yaml"):
        assert one[0] == "kubectl"
        assert one[-1] == DOCUMENTS["RayJob"]["metadata"]["name"] or (ROOT / one[-1]).exists()


def ray_commands() -> dict[str, Any]:
    """Ray's own commands by name."""
    from ray.scripts.scripts import cli

    return dict(cli.commands)


def offered(types: dict[str, Any], head: str) -> dict[tuple[int, int], tuple[int, int]]:
    """Fewest and most nodes by their cores and GPUs."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for name, kind in types.items():
        if name != head:
            key = (kind["resources"]["CPU"], kind["resources"].get("GPU", 0))
            least, most = found.get(key, (0, 0))
            found[key] = (least + kind["min_workers"], most + kind["max_workers"])
    return found


def test_rays_autoscaler_understands_the_job_as_the_same_cluster() -> None:
    made = autoscaling()
    resources = {name: dict(one["resources"]) for name, one in made["available_node_types"].items()}
    for one in resources.values():
        assert one.pop("memory") >= 2**34
    assert resources == {
        "headgroup": {"CPU": 0},
        "gpu": {"CPU": 8, "GPU": 1},
        "decode": {"CPU": 16},
    }
    assert offered(made["available_node_types"], made["head_node_type"]) == offered(TYPES, HEAD)
    assert sum(kind["max_workers"] for kind in made["available_node_types"].values()) <= made["max_workers"]
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


def test_pods_ask_for_nothing_that_only_some_clusters_have() -> None:
    for name, one in GROUPS.items():
        spec = one["template"]["spec"]
        assert not {"nodeSelector", "affinity", "nodeName"} & set(spec), name
        limits = spec["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (name == "gpu")


def test_every_pod_runs_as_an_account_that_is_there_to_be_given_rights() -> None:
    account = DOCUMENTS["ServiceAccount"]["metadata"]
    assert account["annotations"]
    for name, one in GROUPS.items():
        spec = one["template"]["spec"]
        assert spec["serviceAccountName"] == account["name"]
        # KubeRay lets the head's account start and stop pods: no worker gets that.
        assert spec.get("automountServiceAccountToken", True) == (name == "head")


def test_the_jobs_run_is_a_configuration_with_as_many_workers_as_gpus() -> None:
    raw = yaml.safe_load(DOCUMENTS["ConfigMap"]["data"]["run.yaml"])
    run = make_config(raw, base=ROOT).run
    gpus = sum(one["maxReplicas"] for name, one in GROUPS.items() if name.startswith("gpu"))
    assert (run.workers, run.gpus_per_worker) == (gpus, 1)
    assert run.cpus_per_worker <= int(GROUPS["gpu"]["rayStartParams"]["num-cpus"])


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
    assert images == {f"textcam:{PROJECT['project']['version']}"}
    assert IN_PODS["rayVersion"] == pins()["ray"] == ray.__version__
    base = re.search(r"^FROM (\S+)$", DOCKERFILE, re.M)
    assert base is not None
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base[1])
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.M))
    found = PROJECT["tool"]["setuptools"]["packages"]["find"]
    assert copied == {name.rstrip("*") for name in found["include"]}
    assert {f"!{name}" for name in copied} <= set((ROOT / ".dockerignore").read_text().split())
