"""CPU build of torch: from the user's sources, and where they hold none, from PyTorch's own index.

- PyPI's torch for Linux is built for CUDA, so the build is named in the version: `+cpu`.
- From PyTorch's index come torch and torchvision alone. Everything else, and what those two need,
  comes from the user's sources.
"""

from __future__ import annotations

import platform
import sys
import tomllib
from pathlib import Path

from tools.installer import Installer, SetupError

ROOT = Path(__file__).resolve().parent.parent


def pinned(name: str) -> str:
    """The requirement of pyproject.toml for a package of the system, such as `torch==2.13.0`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = (r for r in project["optional-dependencies"]["system"] if r.startswith(f"{name}=="))
    return str(requirement)


def install_cpu_torch(installer: Installer) -> None:
    """Raises `SetupError`, which names what was asked, where there is no such build."""
    torch = f"{pinned('torch')}+cpu"
    sys.stderr.write(f"set-up: {torch} from {', '.join(installer.sources)}\n")
    users = installer.install(torch)
    if users.ok:
        return
    asked = [f"  your sources, which are {', '.join(installer.sources)}:\n{users.reason}"]
    if installer.settings.no_index:
        asked.append("  not PyTorch's own index: pip is set to no-index.")
    elif installer.no_uv:
        asked.append(f"  not PyTorch's own index, whose address uv knows: {installer.no_uv}")
    else:
        sys.stderr.write(f"set-up: they hold no {torch}; PyTorch's own index is asked\n")
        pytorchs = installer.install_from_pytorch(torch, pinned("torchvision"))
        if pytorchs.ok:
            return
        asked.append(f"  PyTorch's own index:\n{pytorchs.reason}")
    raise SetupError("\n".join([f"no source has {torch} for {_here()}. Asked:", *asked, _WHAT_TO_DO]))


def _here() -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"


_WHAT_TO_DO = """\
What to do: let this machine reach PyTorch's index (behind a proxy, set HTTPS_PROXY), or give pip a source that has the
wheel, such as a folder that it lies in (pip config set global.find-links FOLDER) or a mirror (pip config set
global.extra-index-url URL). Wheels are made for each Python: another one may do (make PYTHON=python3.11). Then call make
again; it goes on from here. On a machine with an NVIDIA GPU use `make EXTRA=gpu` instead."""
