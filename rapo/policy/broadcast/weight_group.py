"""WeightGroup: a member of the groups that weights are broadcast in, one for each sender with all
receivers.

- They stand apart from every other group of the process: neither DeepSpeed nor vLLM knows of them.
- Members meet at a store that the first sender hosts. Each version begins with a roll call there:
  nothing is sent before every member is there, and one that is missing holds nobody up for longer
  than the limit.
- The senders take turns, in order. NCCL is not safe where a process is in two broadcasts at once.
- The members stay connected until a meeting is another one. Whatever fails ends all groups at this
  member. Its peers find their connections closed, and a sender that waits for its turn finds a note
  in the store. The next epoch connects those that are left.
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

#: The place of the sender in its group.
_ROOT = 0
#: Between two looks at the store.
_LOOK_S = 0.01
#: Between two looks at a broadcast of NCCL.
_STEP_S = 0.0005
_GO = b"go"


class WeightGroup:
    """A member of one meeting after the other, on the device of its process. One thread uses it,
    except for `give_up`. Waits end after `timeout_s`; for its turn a sender waits as long as the
    others need no longer than that for a bucket.

    Its calls raise `WeightError` where a member is missing, late or gone; the groups have then
    ended at this member.
    """

    def __init__(self, timeout_s: float) -> None:
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        self._timeout_s = timeout_s
        self._hosted: TCPStore | None = None
        self._store: Store | None = None
        self._meeting: Meeting | None = None
        self._member = 0
        self._roll = ""  # the prefix of the version's keys in the store
        self._groups: dict[int, ProcessGroup] = {}  # by sender
        self._given_up = -1

    def host(self, address: str) -> int:
        """Host the store at which the members meet; its port."""
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

    def meet(self, meeting: Meeting, member: int, version: int) -> None:
        """Answer the roll call for `version`, then connect the members if they are not connected.
        Returns once all are there."""
        self._guarded(lambda: self._meet(meeting, member, version))

    def broadcast(self, tensor: torch.Tensor, sender: int) -> None:
        """The `tensor` of a sender, which waits for its turn, into those of the receivers."""
        self._guarded(lambda: self._broadcast(tensor, sender))

    def pass_turn(self) -> None:
        """This sender has sent its share of the version."""
        self._guarded(lambda: self._at_store.set(f"{self._roll}/sent/{self._member}", "1"))

    def give_up(self, epoch: int) -> None:
        """A member of the group is lost: this member need not wait for it. From any thread.

        What gloo is at goes on to the limit, unless the lost member's connections are closed, as
        those of a dead process are.
        """
        self._given_up = max(self._given_up, epoch)

    def leave(self) -> None:
        """End the groups at this member; no sender need wait for its turn."""
        self._end()
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(f"{self._roll}/failed", "1")

    def _end(self) -> None:
        groups, self._groups, self._meeting = self._groups, {}, None
        for group in groups.values():
            with suppress(RuntimeError):
                group.abort()

    @property
    def _at_store(self) -> Store:
        assert self._store is not None
        return self._store

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

    def _meet(self, meeting: Meeting, member: int, version: int) -> None:
        if meeting != self._meeting:
            self._end()
            self._store = None
            self._store = self._hosted or TCPStore(
                meeting.address, meeting.port, is_master=False, wait_for_workers=False, timeout=self._limit
            )
        store = self._at_store
        self._member, self._roll = member, f"{meeting.epoch}/{version}"
        go, here = f"{self._roll}/go", [f"{self._roll}/{other}" for other in range(1, meeting.size)]
        try:
            if member == 0:
                self._await(store, go, here, meeting.epoch)
                answer = store.compare_set(go, "", _GO.decode())
            else:
                store.set(here[member - 1], "here")
                self._await(store, go, [go], meeting.epoch)
                answer = store.get(go)
        except WeightError as error:
            with suppress(RuntimeError):  # the others need not wait for the limit
                store.compare_set(go, "", str(error))
            raise
        if answer != _GO:
            raise WeightError(answer.decode())
        if self._meeting is None:
            place, size = max(_ROOT, member - meeting.senders + 1), meeting.size - meeting.senders + 1
            for sender in range(meeting.senders) if place != _ROOT else [member]:
                connecting = PrefixStore(f"{meeting.epoch}/group/{sender}", store)
                self._groups[sender] = _connect(connecting, place, size, self.device, self._limit)
            self._meeting = meeting

    def _broadcast(self, tensor: torch.Tensor, sender: int) -> None:
        if self._meeting is None:
            raise WeightError("the weight group has ended")
        if sender == self._member:
            self._await_turn()
        work = self._groups[sender].broadcast(tensor, _ROOT, self._limit)
        deadline = time.monotonic() + self._timeout_s
        # NCCL's own wait orders streams and returns at once.
        while self.device.type == "cuda" and not work.is_completed():
            if self._given_up >= self._meeting.epoch or time.monotonic() > deadline:
                raise WeightError(f"the broadcast of the weights did not end within {self._timeout_s:.0f} s")
            time.sleep(_STEP_S)
        work.wait(self._limit)
        if sender == self._member:
            self._at_store.add(f"{self._roll}/progress", 1)

    def _await_turn(self) -> None:
        """Wait until the senders before this one have sent, as long as they get on."""
        store, before = self._at_store, f"{self._roll}/sent/{self._member - 1}"
        progress, deadline = -1, 0.0
        while self._member and not store.check([before]):
            if (now := store.add(f"{self._roll}/progress", 0)) != progress:
                progress, deadline = now, time.monotonic() + self._timeout_s
            if store.check([f"{self._roll}/failed"]):
                raise WeightError("the broadcast of the weights failed at another member")
            if time.monotonic() > deadline:
                raise WeightError(f"the senders before this one sent nothing for {self._timeout_s:.0f} s")
            time.sleep(_LOOK_S)

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
