"""Two ranks on CPUs whose work differs, for `test_two_ranks`.

    python two_ranks.py MODEL OUT

Each rank writes OUT/rank-N.pt: what its steps did, and the weights after them. The process imports
torch once and forks into the ranks.
"""

from __future__ import annotations

import copy
import os
import socket
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 10.0
#: Tokens of a piece of logits. The groups have 12 tokens each.
PIECE = 5
FINE = (
    *("rapo.warmup_steps=0", "rapo.schedule=constant", "learner.max_grad_norm=1e9", "rapo.learning_rate=1e-3"),
    *("learner.workers=2", "learner.chunk_mib=1"),
)
COLD = ("coldstart.zero_stage=3", "coldstart.micro_batch_tokens=90", "coldstart.batch_size=6")
#: Critiques of each rank's examples: those of the second need more micro-batches.
CRITIQUES = (("dim", "soft", "flat"), ("strong colors, but the horizon leans",) * 3)


def meet(rank: int, listener: socket.socket) -> None:
    from rapo.policy.distributed import Rank, join_world
    from rapo.policy.meeting import host, reach

    address, port = listener.getsockname()[:2]
    if rank == 0:
        meeting = host(listener, TIMEOUT_S)
    else:
        listener.close()
        meeting = reach(address, port, TIMEOUT_S)
    join_world(Rank(rank, 2, threads=1, timeout_s=TIMEOUT_S), meeting)


def head_calls(policy: Any) -> list[int]:
    """Counts the calls of the head from now on: one number for each forward pass."""
    counts: list[int] = []
    policy.register_forward_pre_hook(lambda module, inputs: counts.append(0))

    def count(module: Any, inputs: Any) -> None:
        counts[-1] += 1

    policy.model.get_output_embeddings().register_forward_pre_hook(count)
    return counts


def rapo_steps(rank: int, model: str) -> dict[str, Any]:
    """Two steps: all groups are the first rank's, in micro-batches of three and of one."""
    from builders import gathered
    from test_trainer import ADVANTAGES, IMAGES, batch_of_groups

    from rapo.algorithm.partition import Share
    from rapo.config import load_config
    from rapo.policy.trainer import PolicyTrainer

    made = PolicyTrainer(model, load_config(None, [*FINE, "learner.zero_stage=3"]), world=2)
    counts = head_calls(made.engine.module)
    groups = batch_of_groups()
    own = tuple(groups) if rank == 0 else ()
    figures = []
    for micro_batches in (3, 2):
        share = Share(own, micro_batches, 3 * len(ADVANTAGES), 12 * len(ADVANTAGES))
        figures.append(made.step(share, IMAGES if own else {}))
    from rapo.policy.weight_packing import model_tensors

    tensors = model_tensors(made.engine.module.model, copies=True)
    weights = gathered(tensors) if rank == 0 else dict.fromkeys(name for name, _ in tensors)
    result = {"calls": list(counts), "figures": figures, "weights": weights, "sent": sent(rank, made)}
    return result | {"published": published(made)}


def sent(rank: int, made: Any) -> dict[str, Any]:
    """What a receiver gets of the current weights, which both ranks gather parameter by parameter
    and send in many buckets; on the first rank."""
    from threading import Thread
    from types import SimpleNamespace
    from unittest.mock import patch

    import torch

    from actors.learner import Learner
    from rapo.policy import weight_packing
    from rapo.policy.broadcast.weight_broadcast import receive
    from rapo.policy.broadcast.weight_group import WeightGroup
    from rapo.records import Meeting

    config: Any = SimpleNamespace(learner=SimpleNamespace(chunk_mib=2**-6))
    learner = Learner(rank, config)
    learner._started = made
    learner._weight_group = WeightGroup(SEND_TIMEOUT_S)
    told = [learner._weight_group.host("127.0.0.1") if rank == 0 else None]
    torch.distributed.broadcast_object_list(told)
    assert told[0] is not None
    meeting = Meeting("127.0.0.1", told[0], epoch=1, size=3, senders=2)
    received: dict[str, Any] = {}

    def take() -> None:
        tensors = receive(WeightGroup(SEND_TIMEOUT_S), meeting, 2, made.version)
        received.update((name, tensor.clone()) for name, tensor in tensors)

    receiver = Thread(target=take, daemon=True)
    if rank == 0:
        receiver.start()
    with patch.object(weight_packing, "GATHER_BYTES", 1):
        wrong = learner.send_now(made.version, meeting, rank)
    assert wrong is None, wrong
    if rank == 0:
        receiver.join(TIMEOUT_S)
    return received


def published(made: Any) -> list[list[Any]]:
    """This rank's share of the version after the last step: of the weights as they are, and of a
    snapshot that another step does not change."""
    from test_trainer import IMAGES, batch_of_groups

    from rapo.algorithm.partition import Share

    version = made.version
    now = copy.deepcopy(list(made.publish(version)))
    made.snapshot(version)
    made.step(Share(tuple(batch_of_groups("a")), 1, 6, 24), IMAGES)
    return [now, list(made.publish(version))]


def resumed(rank: int, model: str, folder: Path) -> dict[str, Any]:
    """A step of each of two trainers: one whose state was copied before it and written after it,
    and one that has loaded what both ranks wrote. And what the first publishes then."""
    import torch
    from builders import gathered
    from test_trainer import IMAGES, batch_of_groups

    from rapo.algorithm.partition import Share
    from rapo.config import load_config
    from rapo.policy.state import write_state
    from rapo.policy.trainer import PolicyTrainer
    from rapo.policy.weight_packing import model_tensors

    config = load_config(None, [*FINE, "learner.zero_stage=2"])
    own = tuple(batch_of_groups("ab" if rank == 0 else "c"))
    share = Share(own, 2, 9, 36)
    made = PolicyTrainer(model, config, world=2)
    made.step(share, IMAGES)
    number = made.copy_state()
    after = made.step(share, IMAGES)
    write_state(folder, made.pack_state(number))
    torch.distributed.barrier()
    again = PolicyTrainer(model, config, world=2)
    again.load_state(folder)
    figures = [after, again.step(share, IMAGES)]
    weights = gathered(model_tensors(made.engine.module.model, copies=True))
    return {"figures": figures, "weights": weights, "published": published(made)}


def cold_steps(rank: int, model: str) -> list[float]:
    from test_trainer import IMAGES

    from rapo.config import load_config
    from rapo.policy.sft import SupervisedTrainer

    made = SupervisedTrainer(model, load_config(None, COLD), world=2)
    examples = [made.example(image, text, 0.5) for image, text in zip(IMAGES.values(), CRITIQUES[rank], strict=False)]
    return [made.step(examples) for _ in range(2)]


def run(rank: int, model: str, out: Path, listener: socket.socket) -> None:
    import torch

    from rapo.models.completeness import read_config
    from rapo.policy import forward

    meet(rank, listener)
    forward._LOGIT_ELEMENTS = PIECE * read_config(model).get_text_config().vocab_size
    result = {
        "rapo": rapo_steps(rank, model),
        "cold": cold_steps(rank, model),
        "resumed": resumed(rank, model, out / "state"),
    }
    torch.save(result, out / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def main() -> None:
    model, out = sys.argv[1], Path(sys.argv[2])
    from rapo.policy.distributed import prepare_process
    from rapo.policy.meeting import listen

    listener = listen("127.0.0.1")
    prepare_process(threads=1)
    import deepspeed  # noqa: F401 - once for both ranks

    import rapo.policy.trainer  # noqa: F401

    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(1, model, out, listener)
            status = 0
        finally:
            os._exit(status)
    run(0, model, out, listener)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
