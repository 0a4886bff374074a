"""The network's part of a plan: which bytes cross which link, and what bounds a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from rapo.config import load_config
from rapo.plan.cards import CARDS
from rapo.plan.estimate import Estimate, estimate
from rapo.plan.network import PAYLOAD, PULL, PUT, Network, by_broadcast, through_store
from rapo.records import MAX_SENDERS

ROOT = Path(__file__).resolve().parents[3]
H100 = CARDS["H100-80"]
VERSION = 16.6e9
SEVEN = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SEVEN))
    return tmp_path


def plan(folder: Path, network: Network, *overrides: str) -> Estimate:
    config = load_config(ROOT / "configs" / "gpu-8x8.toml", [f"policy.model={folder}", *overrides])
    return estimate(config, H100, 300, network)


def seconds(found: Estimate) -> dict[str, float]:
    return {part.name: part.seconds for part in found.parts}


def test_a_link_carries_its_speed_less_what_frames_take():
    assert Network(gbit=100).rate == pytest.approx(12.5e9 * 0.9415, rel=1e-3)
    assert Network(gbit=400).rate == pytest.approx(16 * Network(gbit=25).rate)


@pytest.mark.parametrize(
    ("learner", "others", "receivers"),
    [
        (4, 4, 0),  # all on one node
        (4, 8, 1),  # four workers beside the ranks
        (8, 8, 1),
        (32, 32, 4),
        (12, 12, 2),  # the second node has ranks and workers
        (2, 0.5, 0),
    ],
)
def test_nodes_that_pull_are_those_with_workers_beside_the_publishers(learner, others, receivers):
    assert Network(8).receivers(learner, others) == receivers
    assert Network(8).receivers(learner, others, shared=True) == Network(8).nodes(learner) - 1


def test_through_the_store_a_publishers_link_carries_its_share_for_each_node():
    network = Network(gbit=25)
    four, many = (through_store(VERSION, 1, n, network, H100, 1, put=True) for n in (4, 32))
    assert four.sent == 4 * VERSION
    assert four.bound == many.bound == "the link of a node of ranks"
    assert many.seconds == pytest.approx(8 * four.seconds)
    shared = through_store(VERSION, 8, 32, network, H100, 1, put=True)
    assert (shared.sent, shared.bound) == (four.sent, four.bound)
    fast = through_store(VERSION, 1, 1, Network(gbit=100), H100, 1, put=True)
    assert (fast.bound, fast.seconds) == ("copying into the object store", pytest.approx(VERSION / PUT))


def test_through_the_store_a_fast_network_leaves_the_copies():
    fast = through_store(VERSION, 1, 32, Network(gbit=10_000), H100, 1, put=True)
    assert fast.bound == "copying into the object store"
    without = through_store(VERSION, 1, 1, Network(gbit=400), H100, 1, put=False)
    own = VERSION / Network(gbit=400).rate + VERSION / PULL + VERSION / H100.host_link
    assert (without.bound, without.seconds) == ("transfer and loading of a worker", pytest.approx(own))
    local = through_store(VERSION, 1, 0, Network(gbit=1e-3), H100, 1, put=False)
    assert local.seconds == pytest.approx(VERSION / PULL + VERSION / H100.host_link), "nothing crosses a link"


def test_a_broadcast_takes_as_long_for_many_nodes_as_for_one():
    network = Network(gbit=100)
    one, many = (by_broadcast(VERSION, 1, n, network, H100, put=True) for n in (1, 32))
    assert one.seconds == many.seconds == pytest.approx(VERSION * 8 / 100e9 / PAYLOAD)
    assert many.sent == VERSION
    local = by_broadcast(VERSION, 1, 0, network, H100, put=True)
    assert (local.sent, local.bound) == (0.0, "the ranks' links to their hosts")
    assert by_broadcast(VERSION, 1, 0, network, H100, put=False).bound == "links between GPUs"


def test_slower_links_make_steps_longer_and_are_named(folder):
    steps = {gbit: plan(folder, Network(8, gbit)) for gbit in (10, 25, 100, 400)}
    times = [found.step_seconds for found in steps.values()]
    assert times == sorted(times, reverse=True)
    slow = {part.name: part.bound for part in steps[10].parts}
    assert (slow["learner"], slow["delivery"]) == ("links between nodes", "transfer and loading of a worker")
    assert {part.name: part.bound for part in steps[400].parts}["learner"] == "arithmetic"


def test_what_ranks_gather_and_reduce_follows_from_the_zero_stage(folder):
    """Of V bytes of weights and 2 V of gradients in float32, with m micro-batches: 3 m V + 2 m V at
    stage 3, V + 2 m V at 2, V + 2 V at 1; all of it but one rank's share."""
    path = "gathers and reductions, into each node of ranks"
    version = 2 * 8_292_166_656 * 31 / 32
    for stage, versions in ((3, 2 * 5), (2, 1 + 2 * 2), (1, 3)):
        found = plan(folder, Network(), f"learner.zero_stage={stage}", "learner.freeze_vision=false")
        assert found.traffic[path] == pytest.approx(versions * version)


def test_within_a_node_the_network_does_not_count(folder):
    small = ("learner.workers=4", "rollout.workers=4", "rapo.images_per_step=128")
    slow, fast = (plan(folder, Network(8, gbit), *small) for gbit in (0.1, 400))
    assert slow.step_seconds == fast.step_seconds
    assert (slow.nodes, slow.traffic["weights, out of a node of ranks"]) == (1, 0.0)
    halves = plan(folder, Network(4, 0.1), *small)
    assert (halves.nodes, halves.step_seconds > slow.step_seconds) == (2, True)


def test_the_further_steps_may_lie_apart_the_more_versions_are_under_way(folder):
    light = ("learner.zero_stage=1", "learner.lora.rank=16")  # hardly any gathers, so that weights bound the steps
    one, two, none = (plan(folder, Network(8, 10), *light, f"rapo.max_staleness={ahead}") for ahead in (1, 2, 0))
    assert [found.step_bound for found in (one, two, none)] == ["delivery", "delivery", "a version's round"]
    assert one.step_seconds == pytest.approx(seconds(one)["delivery"])
    assert two.step_seconds == pytest.approx(2 / 3 * one.step_seconds)
    assert two.step_bounds["a version's round"] == pytest.approx(sum(seconds(two).values()) / 3)
    assert none.step_seconds == pytest.approx(sum(seconds(none).values()))


def test_a_broadcast_takes_load_off_the_publishers_link(folder):
    one_node = ("learner.workers=8", "rollout.workers=32")
    store = plan(folder, Network(8, 25), *one_node)
    broadcast = plan(folder, Network(8, 25), *one_node, "rollout.weight_transport=broadcast")
    path = "weights, out of a node of ranks"
    assert {part.name: part.bound for part in store.parts}["delivery"] == "the link of a node of ranks"
    assert store.traffic[path] == pytest.approx(4 * broadcast.traffic[path])
    assert seconds(broadcast)["delivery"] == pytest.approx(seconds(store)["delivery"] / 4)


def test_ranks_on_several_nodes_publish_a_share_each_as_far_as_there_are_chunks(folder):
    path = "weights, out of a node of ranks"
    four, two = (plan(folder, Network(8, 25), f"learner.chunk_mib={size}") for size in (1024, 8192))
    assert four.traffic[path] == pytest.approx(two.traffic[path] / 2) == pytest.approx(2 * 8_292_166_656)
    copy = 2 * 8_292_166_656 / PUT
    assert seconds(two)["weights"] - seconds(four)["weights"] == pytest.approx(copy / 2 - copy / 4)


def test_ranks_on_several_nodes_broadcast_a_share_each_as_far_as_there_are_groups(folder):
    path, by = "weights, out of a node of ranks", "rollout.weight_transport=broadcast"
    ranks = ("learner.workers=64", "rapo.images_per_step=512")
    two, four, eight = (plan(folder, Network(8, 25), by, *r) for r in (("learner.workers=16",), (), ranks))
    assert two.traffic[path] == pytest.approx(2 * 8_292_166_656 / 2)
    assert four.traffic[path] == eight.traffic[path] == pytest.approx(2 * 8_292_166_656 / MAX_SENDERS)
    assert seconds(two)["delivery"] == seconds(eight)["delivery"], "a worker's node gets all of it"
    copy = 2 * 8_292_166_656 / PUT
    assert seconds(two)["weights"] - seconds(four)["weights"] == pytest.approx(copy / 2 - copy / 4, rel=0.1)


def test_the_command_takes_the_links_speed_and_says_it(folder):
    arguments = ["plan", str(ROOT / "configs" / "gpu-8x8.toml"), "--set", f"policy.model={folder}"]
    shown = CliRunner().invoke(app, [*arguments, "--link", "25", "--node-gpus", "4"])
    assert shown.exit_code == 0, shown.output
    assert "16 nodes of 4 GPUs with 25 Gbit/s each" in shown.output
    assert "transfer and loading of a worker" in shown.output
    assert CliRunner().invoke(app, [*arguments, "--link", "0"]).exit_code == 2
