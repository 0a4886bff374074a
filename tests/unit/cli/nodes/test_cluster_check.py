"""The check of a cluster's nodes: one planted fault of each kind is named, and nothing else."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli.nodes import check
from cluster.cli.nodes.check import check_cluster, lines_of, problems_of
from cluster.cli.nodes.placement import place
from cluster.cli.nodes.probe import Look, Node, NodeFacts, facts_of, shared_files
from cluster.remote.needs import Need
from rapo.config import Config, load_config
from rapo.config.types import Strategy
from rapo.errors import ConfigError

SPOT = {"ray.io/market-type": "spot"}
GIB = 2**30


@pytest.fixture
def config() -> Config:
    return load_config(
        overrides=[
            "ray.address=auto",
            "rollout.gpus=1",
            'rollout.labels={"ray.io/market-type" = "spot"}',
            "serve.demo_images=0",
        ]
    )


def node(address: str, labels: dict[str, str] | None = None, **amounts: float) -> Node:
    facts = NodeFacts({"python": "3.11.7", "ray": "2.60.0"}, 8192, 50 * 1024, 0.0, {})
    resources = {"CPU": 8.0, "object_store_memory": 4.0 * GIB, **amounts}
    return Node(address, resources, labels or {}, facts)


@pytest.fixture
def nodes() -> list[Node]:
    return [node("10.0.0.1"), node("10.0.0.2"), node("10.0.0.3", SPOT, GPU=2)]


def with_facts(one: Node, **changes: object) -> Node:
    assert one.facts is not None
    return replace(one, facts=replace(one.facts, **changes))  # type: ignore[arg-type]  # fields by name


def test_a_cluster_that_fits_is_described(config: Config, nodes: list[Node]) -> None:
    assert list(problems_of(config, nodes)) == []
    said = "\n".join(lines_of(config, nodes))
    assert "10.0.0.3: 8 CPUs, 2 GPUs, object store of 4.0 GiB; ray.io/market-type=spot" in said
    assert "2 rollout workers (1 CPU, 1 GPU, ray.io/market-type=spot each): 2 on 10.0.0.3" in said
    assert "2 learner ranks (1 CPU each): 2 on 10.0.0.1" in said


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"versions": {"python": "3.11.7", "ray": "2.50.0"}}, "ray is 2.60.0 on most nodes, and 2.50.0 on 10.0.0.2"),
        ({"shm_mib": 64}, "10.0.0.2: /dev/shm has 64 MiB, less than the object store's 4096"),
        ({"disk_mib": 100}, "10.0.0.2: 100 MiB are free"),
        ({"missing": {"/runs": "cannot be seen (No such file or directory)"}}, "10.0.0.2: /runs: cannot be seen"),
        ({"missing": {"s3://b/k": "ACCESS_DENIED"}}, "10.0.0.2: s3://b/k: ACCESS_DENIED; give it access"),
    ],
    ids=["version", "shm", "disk", "path", "bucket"],
)
def test_a_fault_of_a_node_is_named(config: Config, nodes: list[Node], fault: dict[str, object], words: str) -> None:
    nodes[1] = with_facts(nodes[1], **fault)
    (found,) = problems_of(config, nodes)
    assert words in found


def test_a_clock_a_silent_node_and_a_role_without_room_are_named(config: Config, nodes: list[Node]) -> None:
    (skewed,) = problems_of(config, [replace(nodes[0], skew_s=30.0), *nodes[1:]])
    assert "10.0.0.1: its clock differs by at least 30 s" in skewed
    (silent,) = problems_of(config, [nodes[0], replace(nodes[1], facts=None), nodes[2]])
    assert "10.0.0.2 runs no task" in silent
    (crowded,) = problems_of(config, [*nodes[:2], node("10.0.0.3", SPOT, GPU=1)])
    assert "rapo: 1 of 2 rollout workers (1 CPU, 1 GPU, ray.io/market-type=spot each) find no room" in crowded
    (unlabelled,) = problems_of(config, [*nodes[:2], node("10.0.0.3", GPU=2)])
    assert "rapo: 2 of 2 rollout worker" in unlabelled


def test_what_needs_no_labels_leaves_the_labelled_nodes_free(nodes: list[Node]) -> None:
    needs = [Need("any", 8, {"CPU": 1.0}), Need("spot", 8, {"CPU": 1.0}, SPOT)]
    placed = {need.role: dict(where) for need, where in place(needs, [nodes[2], nodes[0]])}
    assert placed == {"spot": {"10.0.0.3": 8}, "any": {"10.0.0.1": 8}}


@pytest.mark.parametrize(
    ("strategy", "count", "placed"),
    [
        ("pack", 10, {"10.0.0.1": 8, "10.0.0.2": 2}),
        ("strict_pack", 8, {"10.0.0.1": 8}),
        ("strict_pack", 9, {"": 9}),
        ("strict_spread", 3, {"10.0.0.1": 1, "10.0.0.2": 1, "10.0.0.3": 1}),
        ("strict_spread", 5, {"10.0.0.1": 1, "10.0.0.2": 1, "10.0.0.3": 1, "": 2}),
    ],
)
def test_ranks_find_room_by_their_strategy(
    nodes: list[Node], strategy: Strategy, count: int, placed: dict[str, int]
) -> None:
    ((_, where),) = place([Need("rank", count, {"CPU": 1.0}, strategy=strategy)], nodes)
    assert {node: number for node, number in where.items() if number} == placed


def test_a_node_looks_for_what_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    with shared_files([tmp_path / "run"]) as files:
        urls = (f"file://{tmp_path}",)
        facts = facts_of(Look(files, {str(tmp_path / "model"): 2}, urls))
        assert facts.missing == {}
        assert facts.versions["ray"]
        assert abs(facts.clock - time.time()) < 5
        (name,) = files
        Path(name).write_text("of another file system")
        wrong = facts_of(
            Look({name: files[name], "/nowhere/mark": "x"}, {str(tmp_path / "model"): 3, "/none": 1}, ("s3://b",))
        )
        assert wrong.missing == {
            str(tmp_path / "run"): "another folder of this name is here",
            "/nowhere": "cannot be seen (No such file or directory)",
            str(tmp_path / "model"): "another model of this name is here",
            "/none": "cannot be seen (No such file or directory)",
            "s3://b": "s3://b: give a bucket and a key, such as s3://bucket/runs/one",
        }
    assert list((tmp_path / "run").iterdir()) == []


def test_the_models_of_all_roles_are_looked_for(
    config: Config, nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    looked: list[Look] = []

    def probe(look: Look, limit_s: float) -> list[Node]:
        looked.append(look)
        return nodes

    monkeypatch.setattr(check, "probe_nodes", probe)
    monkeypatch.setattr("cluster.remote.ray_session.ray_session", lambda config: nullcontext())
    settings = [
        "ray.address=auto",
        f"policy.model={tmp_path}",
        "aescot.teacher.kind=vllm",
        "aescot.teacher.model=s3://bucket/teacher",
        "aescot.judge.kind=openai",
        "aescot.judge.model=a-name",
        "aescot.judge.endpoint.base_url=http://localhost/v1",
    ]
    check_cluster(load_config(overrides=settings), Path("s3://bucket/run"))
    assert looked[0].models == {str(tmp_path): 2}
    assert looked[0].urls == ["s3://bucket/run", "s3://bucket/teacher"]
    assert looked[0].files == {}, "no node needs the local folder of a run at a URL"


def test_without_a_cluster_there_is_nothing_to_look_at() -> None:
    with pytest.raises(ConfigError, match=r"needs ray\.address"):
        check_cluster(load_config(), None)
