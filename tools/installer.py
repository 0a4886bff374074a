"""Installer: puts packages into one environment, through uv, or through pip where uv cannot be had.

- Both take the sources that the user configured for pip.
- What they print is passed on without credentials, and without lines that say nothing.
- A failure is an `Outcome` with the tool's own words; `explained` adds which package it was, what
  was asked, and what to do.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.pip_settings import PipSettings, redacted

#: What tells a person how far it is, of what uv prints; of the downloads those from 10 MiB up.
_SHOWN = re.compile(
    r"Resolved|Prepared|Installed|Bytecode compiled|warning:|\s*Building|Downloading .*\(\d\d.*MiB|.*GiB\)"
)
#: pip says so of every package for every `file:` index that does not hold it.
_NOISE = re.compile(r"WARNING: Location '.*' is ignored")
_BEGINS = re.compile(r"\s*(error|ERROR|×)")
_LINES = 12
#: Seconds for one command; gigabytes come over a slow line, too.
_LIMIT_S = 7200.0
_PACKAGE = re.compile(
    r"(?:no version of|Failed to (?:download and build|download|build|prepare|extract)|distribution found for"
    r"|building wheel for|wheels? for|satisfies the requirement|/simple|/whl/cpu)[ `/]+([A-Za-z0-9][\w.+=-]*)"
    r"|([A-Za-z0-9][\w.+=-]*) (?:was not found in|has no wheels)"
)
_NETWORK = re.compile(r"dns error|connect|timed? ?out|certificate|proxy|fetch", re.IGNORECASE)


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it printed."""

    status: int
    output: str

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def reason(self) -> str:
        """The lines that tell of the failure, without credentials."""
        lines = [line for line in self.output.splitlines() if line.strip() and not _NOISE.match(line)]
        first = next((number for number, line in enumerate(lines) if _BEGINS.match(line)), max(0, len(lines) - _LINES))
        return "\n".join(f"    {redacted(line)}" for line in lines[first : first + _LINES])

    @property
    def package(self) -> str | None:
        """The package that it failed at, where the tool names one."""
        found = _PACKAGE.search(self.reason)
        return next(filter(None, found.groups())).rstrip(".") if found else None


class Installer:
    """Installs into the environment of the interpreter `python`, with the versions of
    `constraints`."""

    def __init__(self, python: Path, constraints: Path) -> None:
        self.python = python
        self._constraints = constraints
        self._pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        listed = run([*self._pip, "config", "list"])
        if not listed.ok:
            raise SetupError(
                f"pip cannot read its configuration:\n{listed.reason}\nPut it right, then call make again."
            )
        self.settings = PipSettings.parse(listed.output)
        self._environment = self.settings.uv_environment(os.environ)
        got = run([*self._pip, "install", "-q", "-c", str(constraints), "uv"])
        #: Why there is no uv; empty where there is one.
        self.no_uv = "" if got.ok else f"pip could not install uv:\n{got.reason}"
        #: Why pip installs and not uv; empty where uv does.
        self.by_pip = self.no_uv
        if self.settings.untranslated and not self.no_uv:
            self.by_pip = f"uv has no word for pip's option {', '.join(self.settings.untranslated)}"

    def install(self, *packages: str, without: Path | None = None) -> Outcome:
        """Install from the user's sources, but none of the packages listed in `without`."""
        constrained = ["-c", str(self._constraints), *packages]
        if not self.by_pip:
            excludes = ["--excludes", str(without)] if without else []
            return self._uv(*self.settings.uv_arguments, *excludes, *constrained)
        done = run([*self._pip, "install", "-q", *constrained])
        if done.ok and without is not None:
            return run([*self._pip, "uninstall", "-q", "-y", "-r", str(without)])
        return done

    def install_from_pytorch(self, *packages: str) -> Outcome:
        """Install builds for the CPU from PyTorch's own index, which uv knows, and nothing else."""
        return self._uv("--torch-backend", "cpu", "--no-deps", *packages)

    def _uv(self, *arguments: str) -> Outcome:
        uv = [str(self.python.parent / "uv"), "pip", "install", "--python", str(self.python)]
        # Where Python may not write bytecode, it would compile everything at every start.
        uv += ["--compile-bytecode"] if sys.dont_write_bytecode else []
        return run([*uv, *arguments], self._environment, show=True)

    @property
    def sources(self) -> list[str]:
        """What `install` asks, for a person."""
        return self.settings.sources(self._environment)

    def explained(self, what: str, done: Outcome) -> SetupError:
        """The failure of `install` in words."""
        package = f" at {done.package}" if done.package else ""
        way = "pip" if self.by_pip else "uv"
        return SetupError(
            f"{way} could not install {what}: it failed{package}.\n{done.reason}\n"
            f"Asked: {', '.join(self.sources)}\n{_advice(done)}"
        )


def _advice(done: Outcome) -> str:
    if "No space left" in done.output:
        return "What to do: free some disk space, then call make again. It goes on from here."
    if _NETWORK.search(done.reason):
        return (
            "What to do: see that this source can be reached from here (behind a proxy, set HTTPS_PROXY), or give pip\n"
            "another one (pip config set global.index-url URL). Then call make again. It goes on from here."
        )
    return (
        f"What to do: give pip a source that has it for Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()}\n(pip config set global.extra-index-url URL), or take another Python (make PYTHON=python3.11). "
        "Then call make again."
    )


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, *, show: bool = False) -> Outcome:
    """Run a command to its end; `show` passes on how far it is."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    limit = threading.Timer(_LIMIT_S, process.kill)
    limit.start()
    lines: list[str] = []
    try:
        with process:
            for line in process.stdout or ():
                lines.append(line)
                if show and _SHOWN.match(line):
                    sys.stderr.write(f"  {redacted(line)}")
                    sys.stderr.flush()
    finally:
        limit.cancel()
    return Outcome(process.returncode, "".join(lines))
