"""``ray up`` and a run on machines that are reached by SSH, one of which is lost meanwhile.

``python -m tests.pipelines.ray_up FOLDER``, in namespaces of its own (``machines.inside``); FOLDER has
``run.yaml``, and gets the file ``lost`` once a machine is. Started by test_ray_up.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.pipelines.machines import ROOT, Machine, Machines, run

PATIENCE = 300.0  # seconds for any one step
CLUSTER_NAME = "textcam-test"


def cluster_file(machines: Machines) -> dict[str, Any]:
    """The cluster file that is shipped, for machines that are there already instead of those of a cloud."""
    shipped = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    head, *workers = (machine.address for machine in machines.all)
    kept = ("idle_timeout_minutes", "upscaling_speed", "head_start_ray_commands", "worker_start_ray_commands")
    made = {name: shipped[name] for name in kept}
    # One worker a machine, however many cores this one has.
    made["worker_start_ray_commands"] = [
        f"{line} --num-cpus=1" if "ray start" in line else line for line in made["worker_start_ray_commands"]
    ]
    [token] = shipped["file_mounts"].values()
    return made | {
        "cluster_name": CLUSTER_NAME,
        "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
        "auth": {"ssh_user": "root", "ssh_private_key": str(machines.key)},
        "file_mounts": {"~/.ray/auth_token": token},
    }


class User:
    """Who sits at another machine and types Ray's commands."""

    def __init__(self, folder: Path, home: Path) -> None:
        (folder / "tmp").mkdir()
        self._home = home
        self.environment = {
            "HOME": str(home),
            "TMPDIR": str(folder / "tmp"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # In Ray 2.60 the second version takes the head of a local cluster for lost and starts one worker.
            "RAY_UP_enable_autoscaler_v2": "0",
        }

    def types(self, *command: str) -> subprocess.Popen[bytes]:
        print("$", *command, flush=True)
        return run(command, self.environment)

    def does(self, *command: str) -> None:
        """The same, and waits; an error of the command is one here."""
        code = self.types(*command).wait(PATIENCE)
        if code:
            raise SystemExit(f"{' '.join(command)}: exit code {code}")


def wait_for(what: str, condition: Any, program: subprocess.Popen[bytes] | None = None) -> None:
    """Until it is so; an error if the program ends before."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end or (program is not None and program.poll() is not None):
            raise SystemExit(f"never came: {what}")
        time.sleep(0.1)


def works(machine: Machine) -> bool:
    """Whether a worker of the run has a shard in hand there."""
    return any("_Worker.run" in line for line in machine.processes())


def has_ray(machine: Machine) -> bool:
    return any("raylet" in line for line in machine.processes())


def main(folder: Path) -> None:
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # What chooses the kernels of BLAS, and with them the last bits, has to be the same everywhere.
    environment |= {
        name: value for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "MKL_"))
    }
    with Machines(folder, 3, environment) as machines:
        user = User(folder, machines.home("user"))
        file = str(folder / "cluster.yaml")
        Path(file).write_text(yaml.safe_dump(cluster_file(machines)))
        user.does("ray", "get-auth-token", "--generate")
        user.does("ray", "up", "--yes", "--no-config-cache", file)
        _, stays, goes = machines.all
        wait_for("both workers", lambda: has_ray(stays) and has_ray(goes))
        user.does("ray", "rsync-up", file, str(folder / "run.yaml"), "~/run.yaml")
        precompute = user.types("ray", "exec", file, "textcam precompute ~/run.yaml")
        log = folder / "log"
        done = '"event": "done"'
        wait_for("work on both", lambda: works(stays) and works(goes), precompute)
        wait_for("four shards", lambda: log.exists() and log.read_text().count(done) >= 4, precompute)
        goes.lose()
        (folder / "lost").touch()
        print("one machine is lost", flush=True)
        code = precompute.wait(PATIENCE)
        if code:
            raise SystemExit(f"textcam precompute: exit code {code}")
        user.does("ray", "down", "--yes", file)


def clear_sockets() -> None:
    """Ray keeps those of ssh under /tmp, by the cluster's name."""
    name = hashlib.sha256(CLUSTER_NAME.encode()).hexdigest()[:10]
    for folder in Path("/tmp").glob(f"ray_ssh_*/{name}"):
        shutil.rmtree(folder)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    finally:
        clear_sockets()
