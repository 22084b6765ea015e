"""What this machine can do: versions, cores, memory, GPU, write speed, a bucket's credentials. Each
check says what it found, or why not.
"""

import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.printing import byte_count
from store.errors import TextcamError
from store.storage import LocalStorage, open_storage
from store.trial import try_storage

CORE = (
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "duckdb",
    "faiss-cpu",
    "obstore",
    "pydantic",
    "pillow",
    "jinja2",
)
PRECOMPUTE = ("torch", "torchvision", "timm", "open_clip_torch", "ray")
SERVE = ("fastapi", "uvicorn")
LEAST_MEMORY = 2 << 30
_TRIAL = "textcam-doctor-"  # a trial file's name begins with it
LEAST_SPEED, TRIAL = 20 << 20, 64 << 20  # bytes a second; bytes written to find out


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``needed``: without it nothing works; the others limit what can be done."""

    name: str
    ok: bool
    told: str
    needed: bool = False


def check_machine(place: str) -> list[Check]:
    """All checks; ``place`` is the folder or the bucket where a store would go."""
    return [
        _python(),
        *_packages("core packages", CORE, "pip install textcam", needed=True),
        *_packages("precompute packages", PRECOMPUTE, "pip install 'textcam[precompute]'"),
        *_packages("serve packages", SERVE, "pip install 'textcam[serve]'"),
        _cores(),
        _memory(),
        _gpu(),
        _bucket(place) if "://" in place else _write_speed(Path(place)),
    ]


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), platform.python_version(), needed=True)


def _packages(name: str, packages: tuple[str, ...], fix: str, *, needed: bool = False) -> Iterator[Check]:
    found: dict[str, str] = {}
    missing = []
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    told = ", ".join(f"{package} {number}" for package, number in found.items())
    if missing:
        told = f"missing: {', '.join(missing)} ({fix})" + (f"; found: {told}" if told else "")
    yield Check(name, not missing, told, needed)


def _cores() -> Check:
    from pipelines.execute import usable_cores

    return Check("cores", True, f"{usable_cores()} usable of {os.cpu_count()}")


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return Check("memory", False, "this system does not tell")
    limit = _container_limit()
    told = f"{byte_count(total)}, {byte_count(free)} unused"
    if limit is not None and limit < total:
        total, told = limit, f"{told}; limited to {byte_count(limit)} here"
    return Check("memory", total >= LEAST_MEMORY, told)


def _container_limit() -> int | None:
    """The memory limit of this container, if there is one."""
    try:
        told = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(told) if told.isdecimal() else None


def _gpu() -> Check:
    try:
        from textcam.device import gpus
    except ImportError:
        return Check("gpu", False, "torch is not installed")
    found = gpus()
    if not found:
        return Check("gpu", False, "none that torch can use; models run on the CPU")
    return Check("gpu", True, ", ".join(f"{name} ({byte_count(memory)})" for name, memory in found))


def _bucket(uri: str) -> Check:
    """Whether a store could be committed there, with the credentials that a run would use."""
    name = f"write to {uri}"
    try:
        try_storage(open_storage(uri))
    except TextcamError as error:
        return Check(name, False, str(error).replace("\n", ";"), needed=True)
    return Check(name, True, "written, read and removed", needed=True)


def _write_speed(folder: Path) -> Check:
    """Writes and flushes a file like those of a store, removes it, and tries what a commit needs."""
    name, trial = f"write to {folder}", folder / f"{_TRIAL}{secrets.token_hex(4)}"
    try:
        free = shutil.disk_usage(folder).free
        if free < 2 * TRIAL:
            return Check(name, False, f"only {byte_count(free)} free", needed=True)
        try:
            speed = TRIAL / _seconds_to_write(trial)
        finally:
            trial.unlink(missing_ok=True)
        try_storage(LocalStorage(folder))
    except OSError as error:
        return Check(name, False, error.strerror or str(error), needed=True)
    except TextcamError as error:
        return Check(name, False, str(error).replace("\n", ";"), needed=True)
    slow = "" if speed >= LEAST_SPEED else "; slow: a run may wait for it"
    return Check(name, speed >= LEAST_SPEED, f"{byte_count(speed)}/s, {byte_count(free)} free{slow}")


def _seconds_to_write(trial: Path) -> float:
    block, started = secrets.token_bytes(1 << 20), time.monotonic()
    with open(trial, "xb") as file:
        for _ in range(TRIAL // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - started
