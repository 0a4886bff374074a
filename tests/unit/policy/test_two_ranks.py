"""Ranks whose work differs: their collective calls match, and they meet where the first listens."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import gathered
from test_trainer import batch_of_groups, share, trainer, update

from rapo.policy.meeting import host, listen, reach
from rapo.policy.weight_packing import model_tensors, pack, unpack
from rapo.records import WeightManifest

HERE = Path(__file__).parent
LIMIT_S = 240


@pytest.fixture(scope="module")
def ranks(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two ranks did (`two_ranks.py`). A call without its peer ends in an error of gloo's
    after a minute."""
    out = tmp_path_factory.mktemp("ranks")
    folders = os.pathsep.join(map(str, (HERE, HERE.parent, *filter(None, sys.path))))
    command = [sys.executable, str(HERE / "two_ranks.py"), str(tiny_model), str(out)]
    environment = {**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [torch.load(out / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]


def test_a_rank_without_groups_makes_the_calls_of_one_with_all_of_them(ranks):
    """And each micro-batch calls the head as often, so that DeepSpeed can fetch layers ahead."""
    first, second = (rank["rapo"]["calls"] for rank in ranks)
    assert first == second
    assert len(first) == 3 + 2
    # At most two groups of 12 tokens in pieces of 5, forward and again in the backward pass; and
    # once for the answers' characters.
    assert set(first) == {5 + 5 + 1}


@pytest.mark.usefixtures("world")
def test_ranks_whose_work_differs_make_the_step_of_one_rank(ranks, tiny_model):
    made = trainer(tiny_model, "learner.zero_stage=0")
    before = gathered(model_tensors(made.engine.module.model, copies=True))
    alone, figures = update(made, share(batch_of_groups(), 3), share(batch_of_groups(), 2))
    weights = ranks[0]["rapo"]["weights"]
    together = torch.cat([(weights[name] - before[name]).flatten() for name in before])
    assert alone.norm() > 0
    assert float((alone - together).norm() / alone.norm()) < 1e-2
    losses = [rank["rapo"]["figures"][-1]["loss"] for rank in ranks]
    assert sum(losses) == pytest.approx(figures["loss"], rel=1e-3)
    assert losses[1] == 0.0


def test_ranks_of_a_cold_start_with_answers_of_other_lengths_do_not_wait_for_each_other(ranks):
    for losses in (rank["cold"] for rank in ranks):
        assert losses[1] < losses[0]


def test_ranks_go_on_exactly_from_the_files_that_each_wrote_while_it_trained(ranks):
    for unbroken, resumed in (rank["resumed"]["figures"] for rank in ranks):
        assert resumed == unbroken


@pytest.mark.parametrize("stage", ["rapo", "resumed"])  # of ZeRO: 3 and 2
@pytest.mark.parametrize("way", [0, 1])
def test_ranks_publish_a_share_each_of_the_version_that_one_alone_would_publish(ranks, stage, way):
    wanted = ranks[0][stage]["weights"]
    shares = [rank[stage]["published"][way] for rank in ranks]
    manifest = WeightManifest.joined([share[-1] for share in shares])
    chunks = [chunk for share in shares for chunk in share[:-1]]
    *alone, whole = pack(wanted.items(), manifest.version, 2**20)
    assert manifest == whole, "names, places and checksums"
    assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in alone]
    for name, tensor in unpack(manifest, chunks):
        assert torch.equal(tensor, wanted[name])
    sizes = [share[-1].nbytes for share in shares]
    assert min(sizes) > 0.2 * sum(sizes), "each has about as much"


def test_ranks_send_a_share_each_of_weights_that_they_gather_together(ranks):
    first, second = (rank["rapo"] for rank in ranks)
    assert not second["sent"]
    assert list(first["sent"]) == list(first["weights"])
    assert all(torch.equal(first["sent"][name], tensor) for name, tensor in first["weights"].items())


def test_the_port_of_the_meeting_is_taken_from_when_it_is_told():
    """Between then and the meeting another process may want it."""
    listener = listen("127.0.0.1")
    address, port = listener.getsockname()
    with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        other.bind((address, port))
    meeting = host(listener, 10.0)
    reach(address, port, 10.0).set("version", "1")
    assert meeting.get("version") == b"1"


def test_the_meeting_listens_on_its_own_address_alone():
    listener = listen("127.0.0.1")
    meeting = host(listener, 10.0)
    with socket.socket() as other:
        other.bind(("127.0.0.2", meeting.port))  # taken, if the store listened everywhere
