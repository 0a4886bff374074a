"""Cluster check: what the nodes of a cluster lack for a run, and where its roles would go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.cli.nodes.placement import place
from cluster.cli.nodes.probe import Look, Node, probe_nodes, shared_files
from cluster.remote.needs import Need, needs_of
from rapo.config import Config
from rapo.errors import ConfigError
from rapo.storage.urls import is_url, whole_url

_LIMIT_S = 60.0
_SKEW_S = 2.0
_DISK_MIB = 10 * 1024
#: Ray's object store lies in shared memory, and on the disk where that is smaller.
_SHM_SHARE = 0.95


def check_cluster(config: Config, out: Path | None) -> tuple[list[str], list[str]]:
    """What is there, a line per node and role, and what is wrong. Connects to `ray.address`.

    Raises `ConfigError` without an address, `ResourceError` where no cluster answers.
    """
    if config.ray.address is None:
        raise ConfigError('--cluster needs ray.address: "auto" on a node of the cluster, or host:port of its head')
    from cluster.remote.ray_session import ray_session

    # The nodes of a run at a URL see nothing of its local folder.
    folders = [] if out is None or is_url(out) else [out.resolve()]
    with ray_session(config), shared_files(folders) as files:
        nodes = probe_nodes(_look(config, out, files), _LIMIT_S)
    return list(lines_of(config, nodes)), list(problems_of(config, nodes))


def _look(config: Config, out: Path | None, files: dict[str, str]) -> Look:
    asked = (config.aescot.teacher, config.aescot.judge)
    models = {config.policy.model, *(one.model for one in asked if one.kind == "vllm" and one.model)}
    urls = {whole_url(path) for path in (out, *models) if path is not None and is_url(path)}
    configs = {model: Path(model) / "config.json" for model in models - {"embedded"} if not is_url(model)}
    sizes = {model: path.stat().st_size for model, path in configs.items() if path.is_file()}
    return Look(files, sizes, sorted(urls))


def lines_of(config: Config, nodes: Sequence[Node]) -> Iterator[str]:
    """What is there, and where each role would go."""
    for node in nodes:
        gpus = f", {node.amount('GPU'):g} GPUs" if node.amount("GPU") else ""
        store = node.amount("object_store_memory") / 2**30
        shown = (f"; {key}={value}" for key, value in node.labels.items() if not key.startswith("ray.io/node-"))
        size = f"{node.amount('CPU'):g} CPUs{gpus}, object store of {store:.1f} GiB"
        yield f"node       {node.name}: {size}{''.join(shown)}"
    for stage, needs in _stages(config).items():
        for need, placed in place(needs, nodes):
            where = ", ".join(f"{count} on {address}" for address, count in placed.items() if address) or "nowhere"
            yield f"{stage:<10} {need}: {where}"


def problems_of(config: Config, nodes: Sequence[Node]) -> Iterator[str]:
    """What is wrong, with what to do."""
    for node in nodes:
        if node.facts is None:
            yield f"{node.name} runs no task within {_LIMIT_S:.0f} s: see its raylet's log, or drain the node"
    yield from _versions(nodes)
    for node in nodes:
        yield from _node_problems(node)
    for stage, needs in _stages(config).items():
        for need, placed in place(needs, nodes):
            if without := placed[""]:
                yield (
                    f"{stage}: {without} of {need} find no room: add nodes{_with_labels(need.labels)}, or ask for fewer or "
                    "smaller ones; an autoscaler may still add them"
                )


def _stages(config: Config) -> dict[str, Sequence[Need]]:
    # An evaluation takes no more than the training before it.
    return {stage: needs for stage, needs in needs_of(config).items() if stage != "evaluate"}


def _with_labels(labels: object) -> str:
    return f" with the labels {labels}" if labels else ""


def _versions(nodes: Sequence[Node]) -> Iterator[str]:
    answered = [node for node in nodes if node.facts is not None]
    names = sorted({name for node in answered if node.facts for name in node.facts.versions})
    for name in names:
        found = {node.name: node.facts.versions.get(name, "none") for node in answered if node.facts}
        if len(set(found.values())) > 1:
            (usual, _), *_ = Counter(found.values()).most_common()
            others = ", ".join(f"{version} on {address}" for address, version in found.items() if version != usual)
            yield f"{name} is {usual} on most nodes, and {others}: install the same everywhere"


def _node_problems(node: Node) -> Iterator[str]:
    facts = node.facts
    if facts is None:
        return
    for what, why in facts.missing.items():
        where = "give it access and the credentials" if is_url(what) else "mount it at the same path"
        yield f"{node.name}: {what}: {why}; {where}"
    if node.skew_s > _SKEW_S:
        yield f"{node.name}: its clock differs by at least {node.skew_s:.0f} s; run NTP there"
    if facts.disk_mib < _DISK_MIB:
        yield f"{node.name}: {facts.disk_mib} MiB are free in its temporary folder; free {_DISK_MIB} MiB"
    store = node.amount("object_store_memory") / 2**20
    if facts.shm_mib is not None and store * _SHM_SHARE > facts.shm_mib:
        yield (
            f"{node.name}: /dev/shm has {facts.shm_mib} MiB, less than the object store's {store:.0f}: it would lie on the "
            "disk; enlarge /dev/shm (docs/kubernetes.md), or start Ray with a smaller --object-store-memory"
        )
