"""WeightGroup: a process group of one sender (rank 0) and the receivers of its weights.

- It stands apart from every other group of its process: neither DeepSpeed nor vLLM knows of it.
- Members meet at a store that the sender hosts. Each version begins with a roll call there: nothing
  is sent before every receiver is there, and a receiver that is missing holds nobody up for longer
  than the limit.
- The members stay connected until a meeting has another epoch. Whatever fails ends the group at
  this member. Its peers find their connections closed, and the next epoch connects those that are
  left.
- gloo connects CPUs, NCCL connects GPUs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, ProcessGroup, ProcessGroupGloo, Store, TCPStore

from rapo.errors import WeightError
from rapo.records import Meeting

SENDER = 0
#: Between two looks at the roll.
_LOOK_S = 0.01
#: Between two looks at a broadcast of NCCL.
_STEP_S = 0.0005
_GO = b"go"


class WeightGroup:
    """A member of weight groups, one group after the other, on the device of its process. One
    thread uses it, except for `give_up`. Waits end after `timeout_s`.

    Its calls raise `WeightError` where a member is missing, late or gone; the group has then ended
    at this member.
    """

    def __init__(self, timeout_s: float) -> None:
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        self._timeout_s = timeout_s
        self._hosted: TCPStore | None = None
        self._store: Store | None = None
        self._meeting: Meeting | None = None
        self._group: ProcessGroup | None = None
        self._given_up = -1

    def host(self, address: str) -> int:
        """Host the store at which the group of this sender meets; its port."""
        # By itself the store would listen on every interface.
        listening = socket.create_server((address, 0))
        port: int = listening.getsockname()[1]
        self._hosted = TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=self._limit,
            master_listen_fd=listening.detach(),
        )
        return port

    def meet(self, meeting: Meeting, rank: int, version: int) -> None:
        """Answer the roll call for `version`, then connect the members if they are not connected.
        Returns once all are there."""
        self._guarded(lambda: self._meet(meeting, rank, version))

    def broadcast(self, tensor: torch.Tensor) -> None:
        """The sender's `tensor` into those of the receivers."""
        self._guarded(lambda: self._broadcast(tensor))

    def give_up(self, epoch: int) -> None:
        """A member of the group is lost: this member need not wait for it. From any thread.

        What gloo is at goes on to the limit, unless the lost member's connections are closed, as
        those of a dead process are.
        """
        self._given_up = max(self._given_up, epoch)

    def leave(self) -> None:
        """End the group at this member."""
        group, self._group, self._meeting = self._group, None, None
        if group is not None:
            with suppress(RuntimeError):
                group.abort()

    @property
    def _limit(self) -> timedelta:
        return timedelta(seconds=self._timeout_s)

    def _guarded(self, work: Callable[[], object]) -> None:
        """Run `work`; a failure of the store or of the group ends the group."""
        try:
            work()
        except WeightError:
            self.leave()
            raise
        except RuntimeError as error:  # what gloo, NCCL and the store raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        else:
            return
        # Out of the handler: a traceback that is kept would keep the group's connections open.
        self.leave()
        raise WeightError(f"the broadcast of the weights failed: {reason}")

    def _meet(self, meeting: Meeting, rank: int, version: int) -> None:
        if meeting != self._meeting:
            self.leave()
            self._store = self._hosted or TCPStore(
                meeting.address, meeting.port, is_master=False, wait_for_workers=False, timeout=self._limit
            )
        store = self._store
        assert store is not None
        roll = f"{meeting.epoch}/{version}"
        go, here = f"{roll}/go", [f"{roll}/{member}" for member in range(1, meeting.size)]
        try:
            if rank == SENDER:
                self._await(store, go, here, meeting.epoch)
                answer = store.compare_set(go, "", _GO.decode())
            else:
                store.set(here[rank - 1], "here")
                self._await(store, go, [go], meeting.epoch)
                answer = store.get(go)
        except WeightError as error:
            with suppress(RuntimeError):  # the others need not wait for the limit
                store.compare_set(go, "", str(error))
            raise
        if answer != _GO:
            raise WeightError(answer.decode())
        if self._group is None:
            connecting = PrefixStore(f"{meeting.epoch}/group", store)
            self._group = _connect(connecting, rank, meeting.size, self.device, self._limit)
            self._meeting = meeting

    def _broadcast(self, tensor: torch.Tensor) -> None:
        if self._group is None or self._meeting is None:
            raise WeightError("the weight group has ended")
        work = self._group.broadcast(tensor, SENDER, self._limit)
        deadline = time.monotonic() + self._timeout_s
        # NCCL's own wait orders streams and returns at once.
        while self.device.type == "cuda" and not work.is_completed():
            if self._given_up >= self._meeting.epoch or time.monotonic() > deadline:
                raise WeightError(f"the broadcast of the weights did not end within {self._timeout_s:.0f} s")
            time.sleep(_STEP_S)
        work.wait(self._limit)

    def _await(self, store: Store, go: str, keys: list[str], epoch: int) -> None:
        """Wait until the store has `keys`, or somebody has given up, which `go` then tells."""
        deadline = time.monotonic() + self._timeout_s
        while not store.check(keys) and not store.check([go]):
            if self._given_up >= epoch:
                raise WeightError("a receiver of the weights was lost before they were sent")
            if time.monotonic() > deadline:
                missing = sum(not store.check([key]) for key in keys)
                raise WeightError(
                    f"{missing} member(s) did not come to the broadcast of the weights within {self._timeout_s:.0f} s "
                    "(rollout.broadcast_timeout_s)"
                )
            time.sleep(_LOOK_S)


def _connect(store: Store, rank: int, size: int, device: torch.device, limit: timedelta) -> ProcessGroup:
    """Returns once all members are connected."""
    group = ProcessGroup(store, rank, size)
    if device.type == "cuda":
        from torch.distributed import ProcessGroupNCCL

        options = ProcessGroupNCCL.Options()
        # NCCL's watchdog ends the process at this limit. `WeightGroup` ends its waits before.
        options._timeout = 10 * limit
        nccl = ProcessGroupNCCL(store, rank, size, options)
        nccl.eager_connect_single_device(device)
        group._set_default_backend(ProcessGroup.BackendType.NCCL)
        group._register_backend(device, ProcessGroup.BackendType.NCCL, nccl)
    else:
        gloo = ProcessGroupGloo(store, rank, size, limit)
        group._set_default_backend(ProcessGroup.BackendType.GLOO)
        group._register_backend(device, ProcessGroup.BackendType.GLOO, gloo)
    return group
