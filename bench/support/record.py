"""What every benchmark writes down: the machine, the versions, and the result as JSON and as a
Markdown table."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"


def machine() -> dict[str, Any]:
    """Processor model, cores that this process may use, memory in GiB, system and Python."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each distribution; None for one that is not installed."""
    return {package: _version(package) for package in packages}


def write_json(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """`folder/<name>.json` with `result`; its path."""
    return _write(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")


def write_markdown(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = (), folder: Path = RESULTS
) -> Path:
    """`folder/<name>.md`: a title, the table of `rows`, then `notes` as paragraphs; its path."""
    return _write(folder / f"{name}.md", "\n\n".join([f"# {title}", markdown_table(rows), *notes]) + "\n")


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row; the columns are the keys in the order in which they first appear. Numbers
    get three digits."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *[[_cell(row.get(column)) for column in columns] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class CpuPressure:
    """Measures, from its creation on, the share of time in which something on the machine waited
    for a core.

    Near 0: the benchmark had the machine to itself. Where it is high the seconds say little:
    spinning threads lose far more than their share of the cores.
    """

    def __init__(self) -> None:
        self._waited, self._began = _waited_s(), time.monotonic()

    def share(self) -> float | None:
        """Between 0 and 1; None where the kernel does not count it."""
        now = _waited_s()
        if now is None or self._waited is None:
            return None
        return round((now - self._waited) / (time.monotonic() - self._began), 3)


def describe(machine: Mapping[str, Any], versions: Mapping[str, str | None]) -> str:
    """Machine and versions as one sentence, for the notes of a table."""
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    place = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    return f"{place}, Python {machine['python']}; {packages}."


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _processor() -> str:
    """Linux names the model in /proc/cpuinfo only; `platform.processor` is empty or the
    architecture there."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _waited_s() -> float | None:
    """Seconds since boot in which some task waited for a core (Linux's pressure stall
    information)."""
    try:
        some = Path("/proc/pressure/cpu").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None
    return int(some.rpartition("total=")[2]) / 1e6


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
