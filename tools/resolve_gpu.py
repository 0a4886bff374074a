"""Resolver: checks that the extra `gpu` can be installed, on a machine that cannot use it.

    python -m tools.resolve_gpu

- uv resolves the extra for Linux on x86-64 and each Python of `PYTHONS`. Nothing is installed.
- Versions are those of `constraints/gpu.txt`. A package that this file does not pin is an error,
  because two installations on two days would differ.
- Only the user's package index is asked. Where it does not answer, or where there is no uv, the
  check says so and ends with status 0, because nothing is known against the extra; with `--strict`
  that is an error as well.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from tools.installer import Outcome, run
from tools.pip_settings import PipSettings
from tools.torch_cpu import ROOT

CONSTRAINTS = ROOT / "constraints" / "gpu.txt"
PYTHONS = ("3.11", "3.12", "3.13")
#: glibc 2.28 is what the wheels of torch and vLLM are built for.
PLATFORM = "x86_64-manylinux_2_28"
#: Every virtual environment brings its own.
_UNPINNED = frozenset({"pip", "setuptools", "wheel"})
#: uv's words where the index does not answer, where uv is offline, and where pip's settings name no
#: index.
_UNREACHABLE = re.compile(
    r"Failed to fetch|dns error|tcp connect|Connection refused|timed out|[Nn]etwork (?:connectivity is|was) disabled"
    r"|not found in the provided package locations"
)


class Unchecked(Exception):
    """Nothing could be found out; the message says why."""


def problem(python: str) -> str | None:
    """Why the extra cannot be installed for a version of Python; None where it can.

    Raises `Unchecked`.
    """
    done = _compile(python)
    if done.ok:
        return unpinned(done.output, CONSTRAINTS.read_text(encoding="utf-8"))
    if _UNREACHABLE.search(done.output):
        raise Unchecked(f"the package index did not answer:\n{done.reason}")
    return f"the extra gpu does not resolve for Python {python} with {CONSTRAINTS.name}:\n{done.reason}"


def unpinned(resolved: str, constraints: str) -> str | None:
    """Which packages of a resolution have no version of their own in the constraints."""
    missing = sorted(_names(resolved) - _names(constraints) - _UNPINNED)
    return f"constraints/gpu.txt does not pin {', '.join(missing)}" if missing else None


def _names(lines: str) -> set[str]:
    found = (re.match(r"[A-Za-z0-9][\w.-]*(?===)", line) for line in lines.splitlines())
    return {re.sub(r"[-_.]+", "-", match.group()).lower() for match in found if match}


def _compile(python: str) -> Outcome:
    here = Path(sys.executable)
    uv = here.parent / "uv"
    if not uv.is_file():  # then pip has installed
        raise Unchecked(f"there is no {uv}")
    listed = run([str(here), "-m", "pip", "--disable-pip-version-check", "config", "list"])
    settings = PipSettings.parse(listed.output if listed.ok else "")
    command = [str(uv), "pip", "compile", "-q", "--no-header", "--no-annotate", *settings.uv_arguments]
    command += [str(ROOT / "pyproject.toml"), "--extra", "gpu", "--extra", "dev", "-c", str(CONSTRAINTS)]
    command += ["--python-version", python, "--python-platform", PLATFORM]
    return run(command, settings.uv_environment(os.environ))


def main(arguments: list[str] | None = None) -> int:
    """Check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="an index that does not answer is an error")
    strict = parser.parse_args(arguments).strict
    for python in PYTHONS:
        try:
            wrong = problem(python)
        except Unchecked as error:
            sys.stderr.write(f"extra gpu: NOT CHECKED, because {error}\n")
            return 1 if strict else 0
        if wrong is not None:
            sys.stderr.write(f"extra gpu: {wrong}\n")
            return 1
    sys.stderr.write(f"extra gpu: resolves for {PLATFORM} and Python {', '.join(PYTHONS)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
