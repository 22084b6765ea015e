"""Machines within this one, for tests of whole clusters.

A machine is a process with a network, process and mount namespace of its own, where an SSH server listens.
So Ray on it sees its own processes alone (``ray stop`` stops these and no others), has its own /tmp/ray,
/dev/shm and home, and is reached by SSH and rsync over a network that leads nowhere else. All of it lives in
one outer namespace and dies with it: nothing has to be cleaned up, and nothing outside can be touched.

``inside()`` gives the command that starts a Python module in such an outer namespace; the module then makes
``Machines``.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
NEEDED = ("ip", "setpriv", "unshare", "mount", "bash", "ssh", "ssh-keygen", "sshd", "rsync")
_UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
_PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_GATEWAY, _NETWORK = "10.77.0.1", "10.77.0.{}"

# Run on a machine as its first process: $1 its address, $2 its home, $3 the way out. That makes Ray find the
# address; nothing is there. ssh looks the home up in passwd, not in HOME.
_BOOT = """
set -e
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind $2/passwd /etc/passwd
until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
ip link set lo up
ip address add $1/24 dev eth0
ip link set eth0 up
ip route add default via $3
exec $(command -v sshd) -D -e -f $2/sshd_config
"""
_SSHD = """
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
"""


def cannot() -> str | None:
    """Why machines cannot be had here, or None."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(
        [*_UNSHARE, "mount", "-t", "proc", "proc", "/proc"], capture_output=True, text=True
    )
    return None if tried.returncode == 0 else f"no namespaces: {tried.stderr.strip()}"


def inside(module: str, *arguments: str) -> list[str]:
    """The command that runs a module where ``Machines`` can be made, and no longer than we live."""
    return ["setpriv", "--pdeathsig", "KILL", *_UNSHARE, sys.executable, "-m", module, *arguments]


def _do(*command: str) -> None:
    subprocess.run(command, check=True, env={**os.environ, "PATH": _PATH})


class Machine:
    """One of them: its address, its home and its first process."""

    def __init__(self, address: str, home: Path, process: subprocess.Popen[bytes]) -> None:
        self.address, self.home, self._process = address, home, process

    @property
    def pid(self) -> int:
        """The process that is number 1 on the machine."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while not children.read_text().split():
            time.sleep(0.05)
        return int(children.read_text().split()[0])

    def processes(self) -> list[str]:
        """What runs there, as ``ps`` shows it."""
        namespace, found = Path(f"/proc/{self.pid}/ns/pid").readlink(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns/pid").readlink() == namespace:
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it ended meanwhile
        return found

    def lose(self) -> None:
        """As if its power went: no process there ends in good order, and nothing answers any more."""
        self._process.kill()
        self._process.wait()


class Machines:
    """``count`` machines on a network of their own. To be made in the outer namespace, see ``inside``."""

    def __init__(self, folder: Path, count: int, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self.key = folder / "key"
        for name in ("key", "host_key"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        Path("/tmp/ray").mkdir(exist_ok=True)
        _do("mount", "-t", "proc", "proc", "/proc")
        _do("mount", "-t", "tmpfs", "tmpfs", "/tmp/ray")
        _do("ip", "link", "set", "lo", "up")
        _do("ip", "link", "add", "bridge", "type", "bridge")
        _do("ip", "address", "add", f"{_GATEWAY}/24", "dev", "bridge")
        _do("ip", "link", "set", "bridge", "up")
        self.all = [self._start(number) for number in range(2, count + 2)]

    def home(self, name: str) -> Path:
        """A home folder in which a login shell finds our programs."""
        home = self._folder / "homes" / name
        home.mkdir(parents=True)
        for start in (".bashrc", ".bash_profile"):
            (home / start).write_text(f"export PATH={_PATH}\n")
        return home

    def _start(self, number: int) -> Machine:
        address = _NETWORK.format(number)
        home = self.home(address)
        users = Path("/etc/passwd").read_text()
        (home / "passwd").write_text(re.sub(r"(?m)^(root:.*:)[^:]*(:[^:]*)$", rf"\g<1>{home}\2", users))
        variables = " ".join(f'{name}="{value}"' for name, value in self._environment.items())
        (home / "sshd_config").write_text(
            f"ListenAddress {address}\nHostKey {self._folder}/host_key\n{_SSHD}"
            f"AuthorizedKeysFile {self.key}.pub\nSetEnv {variables}\n"
        )
        boot = ["bash", "-c", _BOOT, "boot", address, str(home), _GATEWAY]
        with (home / "sshd_log").open("wb") as log:
            process = subprocess.Popen([*_UNSHARE, *boot], stderr=log, env={**os.environ, "PATH": _PATH})
        machine = Machine(address, home, process)
        _do(*f"ip link add to{number} type veth peer name eth0 netns {machine.pid}".split())
        _do(*f"ip link set to{number} master bridge up".split())
        return machine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in self.all:
            machine.lose()


def run(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a program as a user of the cluster does."""
    return subprocess.Popen(
        command, env={**os.environ, "PATH": _PATH, **environment}, stdin=subprocess.DEVNULL
    )
