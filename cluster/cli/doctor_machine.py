"""Machine checks of `rapo doctor`: CPUs, memory, disks, devices, serving port, Ray address."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.cli.check_result import CheckResult
from cluster.cli.import_check import ImportedPackage
from cluster.remote.ray_session import socket_room
from rapo.config import RayConfig, ServeConfig
from rapo.util.ports import port_problem

#: The embedded default run peaks at about 7 GiB over all its processes; 4 GiB is less than its
#: engines alone take.
_MEMORY_GIB = (4.0, 8.0)
#: A run of the embedded default writes well under 1 GiB; models of billions of parameters write far
#: more.
_DISK_GIB = (1.0, 10.0)
#: The oldest driver branch on Linux for each major version of CUDA.
_DRIVERS = {12: 525, 13: 580}
_SHM = Path("/dev/shm")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def check_machine(torch: ImportedPackage | None) -> Iterator[CheckResult]:
    """`torch` says which devices it can use, None where it could not be imported."""
    yield _cpus()
    yield _memory()
    yield _shared_memory()
    yield _disk("disk, this folder", Path.cwd())
    yield from _temporary_folder()
    yield _devices([] if torch is None else torch.devices)
    if torch is not None and torch.build.startswith("CUDA "):
        yield _driver(torch.build)
    yield _port()
    yield _ray_address()


def _cpus() -> CheckResult:
    logical = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    limit = _cgroup_cpus()
    threads = usable if limit is None else min(usable, limit)
    found = f"{logical} hardware threads on {_physical_cores() or 'an unknown number of'} cores"
    if threads < logical:
        found += f", {threads:g} for this process"
    if threads < 2:
        advice = "Give it 2 or more CPUs, because sampler and learner work at the same time."
        return CheckResult("CPU", found, "warn", advice)
    return CheckResult("CPU", found)


def _physical_cores() -> int | None:
    """Distinct (package, core) pairs; None where the kernel does not say."""
    folders = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology")
    pairs = {(_text(f / "physical_package_id"), _text(f / "core_id")) for f in folders}
    return len(pairs) or None


def _cgroup_cpus() -> float | None:
    """The CPU quota of a container, in CPUs."""
    quota, _, period = (_text(_CGROUP / "cpu.max") or "max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def memory_gib() -> tuple[float, float] | None:
    """This machine's memory and what of it is available, in GiB, a container's limit included; None
    where the kernel does not say."""
    lines = dict(line.split(":", 1) for line in (_text(_MEMINFO) or "").splitlines() if ":" in line)
    if not {"MemTotal", "MemAvailable"} <= lines.keys():
        return None
    total, available = (int(lines[key].split()[0]) / 2**20 for key in ("MemTotal", "MemAvailable"))
    limit, used = (_text(_CGROUP / f"memory.{key}") or "" for key in ("max", "current"))
    if limit.isdigit() and int(limit) / 2**30 < total:
        total = int(limit) / 2**30
        available = min(available, total - (int(used) / 2**30 if used.isdigit() else 0.0))
    return total, available


def _memory() -> CheckResult:
    known = memory_gib()
    if known is None:
        return CheckResult("memory", "unknown", "warn", f"Make sure that {_MEMORY_GIB[1]:g} GiB are available.")
    total, available = known
    advice = "End other programs or take a larger machine, because the default run takes about 7 GiB."
    return _amount("memory", available, f"{available:.1f} of {total:.1f} GiB available", _MEMORY_GIB, advice)


def _shared_memory() -> CheckResult:
    if not _SHM.is_dir():
        advice = "Expect a slower object store, because it lies on disk here."
        return CheckResult("shared memory", f"no {_SHM}", "warn", advice)
    free, wanted = shutil.disk_usage(_SHM).free // 2**20, RayConfig().object_store_mib
    found = f"{free} MiB free in {_SHM}"
    if free >= wanted:
        return CheckResult("shared memory", found)
    advice = f"Give {_SHM} {wanted} MiB or more, or lower ray.object_store_mib."
    return CheckResult("shared memory", found, "wrong", advice)


def _disk(check: str, folder: Path) -> CheckResult:
    free = _free_gib(folder)
    return _amount(check, free, f"{free:.1f} GiB free in {folder}", _DISK_GIB, "Free some disk space there.")


def _free_gib(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 2**30


def _temporary_folder() -> Iterator[CheckResult]:
    check = "temporary folder"
    try:
        with tempfile.NamedTemporaryFile(prefix="rapo-doctor-") as file:
            file.write(b"0")
            file.flush()
    except OSError as error:
        yield CheckResult(check, f"not writable: {error}", "wrong", "Set TMPDIR to a folder that can be written.")
        return
    folder = Path(tempfile.gettempdir())
    if len(os.fsencode(folder)) > socket_room():
        advice = "Set TMPDIR or ray.temp_dir to a shorter path, because Ray's socket paths would be too long."
        yield CheckResult(check, str(folder), "wrong", advice)
    else:
        yield CheckResult(check, f"{folder} can be written")
    yield _disk("disk, temporary folder", folder)


def _devices(usable: list[str]) -> CheckResult:
    if usable:
        return CheckResult("GPU", ", ".join(usable))
    present = nvidia_gpus()
    if present:
        advice = "Install the build for GPUs with `make EXTRA=gpu`, because this torch cannot use them."
        return CheckResult("GPU", f"{', '.join(present)}, but torch sees none", "warn", advice)
    return CheckResult("GPU", "none, everything runs on the CPU")


def _driver(build: str) -> CheckResult:
    """NVIDIA's driver against the CUDA that torch was built for (NVIDIA, "CUDA Toolkit Release
    Notes", table of minimum driver versions)."""
    cuda = int(build.split()[1].partition(".")[0])
    wanted = _DRIVERS.get(cuda, max(_DRIVERS.values()))
    lines = _ask_nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    version = lines[0].strip() if lines else ""
    if not version.partition(".")[0].isdigit():
        advice = f"Install NVIDIA's driver {wanted} or newer, because this torch is a {build}."
        return CheckResult("NVIDIA driver", "none", "wrong", advice)
    if int(version.partition(".")[0]) < wanted:
        advice = f"Update it to {wanted} or newer, because this torch is a {build}."
        return CheckResult("NVIDIA driver", version, "wrong", advice)
    return CheckResult("NVIDIA driver", f"{version}, for a {build}")


def nvidia_gpus() -> list[str]:
    """The GPUs that the driver names; empty without a driver."""
    return [line.partition(" (UUID")[0] for line in _ask_nvidia_smi("-L") if line.startswith("GPU ")]


def _ask_nvidia_smi(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _port() -> CheckResult:
    serve = ServeConfig()
    where = f"{serve.host}:{serve.port}"
    if port_problem(serve.host, serve.port) is None:
        return CheckResult("serving port", f"{where} is free")
    advice = "Serve elsewhere with `--set serve.port=...` (0: any free)."
    return CheckResult("serving port", f"{where} is in use", "warn", advice)


def _ray_address() -> CheckResult:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return CheckResult("RAY_ADDRESS", "not set")
    advice = "Unset it for a local run, or name the cluster with `--set ray.address=...`."
    return CheckResult("RAY_ADDRESS", address, "warn", advice)


def _amount(check: str, value: float, found: str, bounds: tuple[float, float], advice: str) -> CheckResult:
    """Wrong below the first bound, a warning below the second."""
    if value >= bounds[1]:
        return CheckResult(check, found)
    return CheckResult(check, found, "wrong" if value < bounds[0] else "warn", advice)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
