"""ImportCheck: imports the heavy packages in a process of their own.

- A package that crashes or hangs ends that process and nothing else.
- What was found before a crash is kept: the process writes a line per package at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

from cluster.remote.ray_session import QUIET_ENVIRONMENT
from rapo.inference.environment import engine_environment

#: Seconds for all imports together; a cold disk makes them slow.
LIMIT_S = 240.0
_MARK = "rapo-probe "

_CODE = f"""
import importlib, json, sys

def torch_facts(torch):
    build = torch.version.cuda and "CUDA " + torch.version.cuda or torch.version.hip and "ROCm " + torch.version.hip or "CPU"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(i) for i in range(count)]
    return {{"build": build + " build", "devices": ["%s, %.0f GiB" % (p.name, p.total_memory / 2**30) for p in found]}}

def vllm_facts(vllm):
    from vllm.platforms import current_platform
    if not current_platform.device_type:
        raise RuntimeError("vLLM finds no device here that this build of it can use")
    return {{"build": "runs on " + current_platform.device_type}}

def torchvision_facts(torchvision):
    import torchvision.transforms.v2
    return {{}}

for name, facts_of in (("torch", torch_facts), ("torchvision", torchvision_facts), ("vllm", vllm_facts)):
    try:
        module = importlib.import_module(name)
        facts = {{"version": str(module.__version__), **facts_of(module)}}
    except Exception as error:
        facts = {{"error": type(error).__name__ + ": " + " ".join(str(error).split())[:200]}}
    sys.stdout.write({_MARK!r} + json.dumps({{name: facts}}) + "\\n")
    sys.stdout.flush()
"""


@dataclass(frozen=True, slots=True)
class ImportedPackage:
    """What a package says of itself, or the `error` of its import."""

    version: str = ""
    build: str = ""
    devices: list[str] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Imports:
    """Packages by name. `ended` says why one may be absent."""

    packages: dict[str, ImportedPackage]
    ended: str = ""


def import_packages(code: str = _CODE, limit_s: float = LIMIT_S) -> Imports:
    """Import torch, torchvision and vLLM in a fresh interpreter for at most `limit_s` seconds."""
    # The engine's variables keep vLLM quiet; their threads and cache size do not matter here.
    environment = os.environ | QUIET_ENVIRONMENT | engine_environment(1, 1.0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        return Imports(_packages(error.stdout or b""), f"not imported within {limit_s:.0f} s")
    ended = (
        f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with status {done.returncode}"
    )
    return Imports(_packages(done.stdout), f"the import {ended}" if done.returncode else "not imported")


def _packages(output: bytes) -> dict[str, ImportedPackage]:
    found: dict[str, ImportedPackage] = {}
    for line in output.decode("utf-8", "replace").splitlines():
        if line.startswith(_MARK) and line.endswith("}}"):  # a line cut by a kill is not whole
            facts = json.loads(line.removeprefix(_MARK))
            found |= {name: ImportedPackage(**package) for name, package in facts.items()}
    return found
