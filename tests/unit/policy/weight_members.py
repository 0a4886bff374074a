"""Members of a weight group in processes of their own, which a test commands and kills."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

import numpy as np

from rapo.records import Meeting

#: What a member answers: the tensors that it received, as bytes by name, or its error's text.
Answer = dict[str, bytes] | str

_ANSWER_S = 60.0


class Member:
    """A receiver in a process of its own."""

    def __init__(self, limit_s: float) -> None:
        context = multiprocessing.get_context("forkserver")
        assert isinstance(context, ForkServerContext)
        context.set_forkserver_preload(["rapo.policy.broadcast.weight_broadcast"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, limit_s), daemon=True)
        self._process.start()
        assert self._pipe.poll(_ANSWER_S), "it does not start"
        self._pipe.recv()

    def receive(self, meeting: Meeting, rank: int, version: int, *, at_tensor: int = -1, do: str = "") -> None:
        """Begin to receive a version; at its tensor number `at_tensor` the process gets the signal
        `do`."""
        self._pipe.send((meeting, rank, version, at_tensor, do))

    def give_up(self, epoch: int) -> None:
        self._pipe.send(epoch)

    def answer(self) -> Answer:
        assert self._pipe.poll(_ANSWER_S), "no answer"
        answer: Answer = self._pipe.recv()
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join(_ANSWER_S)


def _serve(pipe: Connection, limit_s: float) -> None:
    import threading

    import torch

    from rapo.errors import WeightError
    from rapo.policy.broadcast.weight_broadcast import receive
    from rapo.policy.broadcast.weight_group import WeightGroup

    torch.set_num_threads(1)
    group = WeightGroup(limit_s)

    def received(meeting: Meeting, rank: int, version: int, at_tensor: int, do: str) -> Iterator[tuple[str, bytes]]:
        for number, (name, tensor) in enumerate(receive(group, meeting, rank, version)):
            if number == at_tensor:
                os.kill(os.getpid(), getattr(signal, do))
            yield name, tensor.reshape(-1).view(torch.uint8).numpy().astype(np.uint8).tobytes()

    def run(command: tuple[Meeting, int, int, int, str]) -> None:
        try:
            pipe.send(dict(received(*command)))
        except WeightError as error:
            pipe.send(str(error))

    pipe.send("ready")
    while True:
        command = pipe.recv()
        if isinstance(command, int):
            group.give_up(command)
        else:
            threading.Thread(target=run, args=(command,), daemon=True).start()
