"""Members of weight groups in processes of their own, which a test commands and kills."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

import torch

from rapo.errors import WeightError
from rapo.policy.broadcast.weight_broadcast import receive, send
from rapo.policy.broadcast.weight_group import WeightGroup
from rapo.records import Meeting

#: What a receiver answers: its tensors, as bytes by name, or its error's text; a sender has none.
Answer = dict[str, bytes] | str

_ANSWER_S = 60.0
BUCKET = 64 * 2**10


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of several dtypes and shapes, in about 40 buckets."""
    generator = torch.Generator().manual_seed(seed)
    made = {f"layer.{i}": torch.randn((64, 256), generator=generator) for i in range(40)}
    made["half"] = torch.randn((33, 7), generator=generator).to(torch.bfloat16)
    made["scalar"] = torch.randn((), generator=generator)
    made["turned"] = torch.randn((300, 500), generator=generator).T  # larger than a bucket, not contiguous
    return made


def share(meeting: Meeting, member: int, version: int) -> list[tuple[str, torch.Tensor]]:
    """What a sender sends of `weights(version)`."""
    items = list(weights(version).items())
    bounds = [len(items) * i // meeting.senders for i in range(meeting.senders + 1)]
    return items[bounds[member] : bounds[member + 1]]


class Member:
    """A sender or receiver in a process of its own."""

    def __init__(self, limit_s: float) -> None:
        context = multiprocessing.get_context("forkserver")
        assert isinstance(context, ForkServerContext)
        context.set_forkserver_preload(["rapo.policy.broadcast.weight_broadcast"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, limit_s), daemon=True)
        self._process.start()
        assert self._pipe.poll(_ANSWER_S), "it does not start"
        self._pipe.recv()

    def host(self) -> int:
        """Host the store of the next meetings; its port."""
        self._pipe.send(("host",))
        assert self._pipe.poll(_ANSWER_S), "no port"
        port: int = self._pipe.recv()
        return port

    def receive(self, meeting: Meeting, member: int, version: int, *, at_tensor: int = -1, do: str = "") -> None:
        """Begin to receive a version; at its tensor number `at_tensor` the process gets the signal
        `do`."""
        self._pipe.send(("receive", meeting, member, version, at_tensor, do))

    def send(self, meeting: Meeting, member: int, version: int, *, at_tensor: int = -1, do: str = "") -> None:
        """Begin to send a share of a version; the rest as in `receive`."""
        self._pipe.send(("send", meeting, member, version, at_tensor, do))

    def give_up(self, epoch: int) -> None:
        self._pipe.send(("give_up", epoch))

    def answer(self) -> Answer:
        assert self._pipe.poll(_ANSWER_S), "no answer"
        answer: Answer = self._pipe.recv()
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join(_ANSWER_S)


def _serve(pipe: Connection, limit_s: float) -> None:
    torch.set_num_threads(1)
    group = WeightGroup(limit_s)

    def watched(tensors: Iterable[tuple[str, torch.Tensor]], at: int, do: str) -> Iterator[tuple[str, torch.Tensor]]:
        for number, item in enumerate(tensors):
            if number == at:
                os.kill(os.getpid(), getattr(signal, do))
            yield item

    def run(way: str, meeting: Meeting, member: int, version: int, at: int, do: str) -> None:
        try:
            if way == "send":
                tensors = watched(share(meeting, member, version), at, do)
                send(group, meeting, member, version, tensors, BUCKET)
                pipe.send({})
            else:
                tensors = watched(receive(group, meeting, member, version), at, do)
                pipe.send({name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors})
        except WeightError as error:
            pipe.send(str(error))

    pipe.send("ready")
    while True:
        what, *arguments = pipe.recv()
        if what == "give_up":
            group.give_up(*arguments)
        elif what == "host":
            pipe.send(group.host("127.0.0.1"))
        else:
            threading.Thread(target=run, args=(what, *arguments), daemon=True).start()
