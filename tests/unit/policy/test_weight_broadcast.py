"""Weights broadcast over gloo, between processes that die, stop, come late or not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_members import BUCKET, Answer, Member, share, weights

from rapo.errors import WeightError
from rapo.policy.broadcast import weight_broadcast
from rapo.policy.broadcast.weight_broadcast import fingerprint, send
from rapo.policy.broadcast.weight_group import WeightGroup
from rapo.records import Meeting

LIMIT_S = 3.0
#: An answer that comes at once, on a machine that is busy.
SOON_S = 0.9 * LIMIT_S


def as_bytes(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}


class Sender:
    """Sends from this process; `meeting` tells its members where to come."""

    def __init__(self) -> None:
        self.group = WeightGroup(LIMIT_S)
        self._port = self.group.host("127.0.0.1")

    def meeting(self, epoch: int, receivers: int, senders: int = 1) -> Meeting:
        return Meeting("127.0.0.1", self._port, epoch, senders + receivers, senders)

    def send(self, meeting: Meeting, version: int, tensors: dict[str, torch.Tensor]) -> None:
        send(self.group, meeting, 0, version, tensors.items(), BUCKET)


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.group.leave()


@pytest.fixture
def member() -> Iterator[Callable[[], Member]]:
    made: list[Member] = []

    def make() -> Member:
        made.append(Member(LIMIT_S))
        return made[-1]

    yield make
    for one in made:
        one.end()


def broadcast(sender: Sender, meeting: Meeting, version: int, members: list[Member]) -> list[Answer]:
    for rank, one in enumerate(members, 1):
        one.receive(meeting, rank, version)
    sender.send(meeting, version, weights(version))
    return [one.answer() for one in members]


def test_every_receiver_gets_every_bit_of_each_version_over_the_same_connections(sender, member):
    members = [member(), member()]
    meeting = sender.meeting(1, 2)
    connected = []
    for version in (1, 2, 3):
        assert broadcast(sender, meeting, version, members) == [as_bytes(weights(version))] * 2
        connected.append(sender.group._groups[0])
    assert all(group is connected[0] for group in connected)


def test_a_member_that_comes_late_is_in_the_group_of_the_next_version(sender, member):
    members = [member()]
    assert broadcast(sender, sender.meeting(1, 1), 1, members) == [as_bytes(weights(1))]
    members.append(member())
    assert broadcast(sender, sender.meeting(2, 2), 2, members) == [as_bytes(weights(2))] * 2


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGSTOP"])
def test_a_member_that_is_lost_in_the_middle_costs_one_version(sender, member, signal):
    lost, stays = member(), member()
    meeting = sender.meeting(1, 2)
    lost.receive(meeting, 1, 1, at_tensor=7, do=signal)
    stays.receive(meeting, 2, 1)
    began = time.monotonic()
    with pytest.raises(WeightError, match="broadcast of the weights failed"):
        sender.send(meeting, 1, weights(1))
    answer = stays.answer()
    assert isinstance(answer, str)
    assert time.monotonic() - began < (SOON_S if signal == "SIGKILL" else 2 * LIMIT_S + SOON_S)
    assert broadcast(sender, sender.meeting(2, 1), 2, [stays]) == [as_bytes(weights(2))]


def test_a_member_that_does_not_come_is_waited_for_no_longer_than_the_limit(sender, member):
    here, late = member(), member()
    meeting = sender.meeting(1, 2)
    here.receive(meeting, 1, 1)
    began = time.monotonic()
    with pytest.raises(WeightError, match="did not come"):
        sender.send(meeting, 1, weights(1))
    assert "did not come" in str(here.answer())
    assert LIMIT_S <= time.monotonic() - began < LIMIT_S + SOON_S
    late.receive(meeting, 2, 1)  # what the roll call ended with is there for it to read
    assert "did not come" in str(late.answer())
    assert time.monotonic() - began < LIMIT_S + 2 * SOON_S
    assert broadcast(sender, sender.meeting(2, 2), 2, [here, late]) == [as_bytes(weights(2))] * 2


def test_members_that_are_told_of_a_loss_wait_no_longer(sender, member):
    here = member()
    meeting = sender.meeting(1, 2)
    here.receive(meeting, 1, 1)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender.send, meeting, 1, weights(1))
        here.give_up(1)
        assert "was lost before they were sent" in str(here.answer())
        with pytest.raises(WeightError, match="was lost before they were sent"):
            sent.result(LIMIT_S)
    assert time.monotonic() - began < SOON_S
    assert broadcast(sender, sender.meeting(2, 1), 1, [here]) == [as_bytes(weights(1))]


def test_what_the_sender_raises_ends_the_group_for_all(sender, member):
    here = member()
    meeting = sender.meeting(1, 1)

    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(weights().items())[:9]
        raise WeightError("weight version 1 is gone")

    here.receive(meeting, 1, 1)
    began = time.monotonic()
    with pytest.raises(WeightError, match="is gone"):
        send(sender.group, meeting, 0, 1, broken(), BUCKET)
    assert "broadcast of the weights failed" in str(here.answer())
    assert time.monotonic() - began < SOON_S


def test_bytes_that_change_on_the_way_are_refused(sender, member, monkeypatch):
    here = member()
    meeting = sender.meeting(1, 1)
    true = weight_broadcast.fingerprint
    monkeypatch.setattr(weight_broadcast, "fingerprint", lambda data: true(data ^ (data[:1] * 0 + 1)))
    here.receive(meeting, 1, 1)
    with pytest.raises(WeightError):
        sender.send(meeting, 1, weights(1))
    assert "do not match their fingerprint" in str(here.answer())


def begin(members: list[Member], senders: int, meeting: Meeting, version: int) -> None:
    for number, one in enumerate(members):
        (one.send if number < senders else one.receive)(meeting, number, version)


def test_receivers_get_the_shares_of_all_senders_in_order(member):
    members = [member() for _ in range(4)]
    meeting = Meeting("127.0.0.1", members[0].host(), 1, 4, 2)
    for version in (1, 2):
        begin(members, 2, meeting, version)
        whole = as_bytes(weights(version))
        sent, last, *received = (one.answer() for one in members)
        assert (sent, last, received) == ({}, {}, [whole] * 2)
        assert [list(answer) for answer in received] == [list(whole)] * 2


@pytest.mark.parametrize("at_tensor", [1, 18])
@pytest.mark.parametrize("lost", range(4))
def test_any_member_that_dies_costs_all_one_version_and_those_left_have_a_meeting_of_their_own(member, lost, at_tensor):
    """Members 0 and 1 send. Without one of them the other sends alone, from a store of its own."""
    members = [member() for _ in range(4)]
    meeting = Meeting("127.0.0.1", members[0].host(), 1, 4, 2)
    ways = [one.send if number < 2 else one.receive for number, one in enumerate(members)]
    if lost >= 2:
        at_tensor = 2 * at_tensor  # of both shares
    for number, way in enumerate(ways):
        way(meeting, number, 1, **({"at_tensor": at_tensor, "do": "SIGKILL"} if number == lost else {}))
    left = [one for number, one in enumerate(members) if number != lost]
    answers = [one.answer() for one in left]
    assert not any("sent nothing" in str(answer) for answer in answers), "nobody waits for the limit"
    senders = 2 if lost >= 2 else 1
    assert all(isinstance(answer, str) for answer in answers[senders:]), "refused whole"
    assert any(isinstance(answer, str) for answer in answers[:senders]) or lost == 1
    again = Meeting("127.0.0.1", meeting.port if senders == 2 else left[0].host(), 2, 3, senders)
    begin(left, senders, again, 2)
    answers = [one.answer() for one in left]
    assert answers == [{}] * senders + [as_bytes(weights(2))] * (3 - senders)


def test_a_receiver_that_stops_holds_up_no_sender_that_waits_for_its_turn(member):
    members = [member() for _ in range(4)]
    meeting = Meeting("127.0.0.1", members[0].host(), 1, 4, 2)
    members[3].receive(meeting, 3, 1, at_tensor=3, do="SIGSTOP")
    began = time.monotonic()
    begin(members[:3], 2, meeting, 1)
    assert all(isinstance(one.answer(), str) for one in members[:3])
    assert time.monotonic() - began < 2 * LIMIT_S + SOON_S


def test_a_sender_waits_for_its_turn_as_long_as_the_one_before_it_gets_on(sender, member):
    last, here = member(), member()
    meeting = sender.meeting(1, 1, senders=2)
    last.send(meeting, 1, 1)
    here.receive(meeting, 2, 1)

    def slow() -> Iterator[tuple[str, torch.Tensor]]:
        for number, item in enumerate(share(meeting, 0, 1)):
            if number in (4, 8, 12):
                time.sleep(LIMIT_S / 2)
            yield item

    send(sender.group, meeting, 0, 1, slow(), BUCKET)
    assert last.answer() == {}
    assert here.answer() == as_bytes(weights(1))


def test_a_sender_that_does_not_come_is_waited_for_no_longer_than_the_limit(sender, member):
    here = member()
    meeting = sender.meeting(1, 1, senders=2)
    here.receive(meeting, 2, 1)
    with pytest.raises(WeightError, match="did not come"):
        sender.send(meeting, 1, weights(1))
    assert "did not come" in str(here.answer())


def test_the_store_is_reached_at_its_address_only(sender):
    port = sender.meeting(1, 1).port
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


WORDS = 2 * 1024


@settings(max_examples=int(os.environ.get("RAPO_EXAMPLES", "60")))
@given(
    seed=st.integers(0, 2**31),
    first=st.integers(0, WORDS - 1),
    second=st.integers(0, WORDS - 1),
    change=st.integers(1, 2**32 - 1),
)
def test_a_fingerprint_tells_a_changed_word_and_two_that_changed_places(seed, first, second, change):
    words = torch.randint(-(2**31), 2**31, (WORDS,), dtype=torch.int32, generator=torch.Generator().manual_seed(seed))
    before = fingerprint(words.view(torch.uint8))
    changed = words.clone()
    changed[first] ^= change - 2**32 if change >= 2**31 else change
    assert all(a != b for a, b in zip(before, fingerprint(changed.view(torch.uint8)), strict=True))
    swapped = words.clone()
    swapped[[first, second]] = words[[second, first]]
    assert (fingerprint(swapped.view(torch.uint8)) == before) == torch.equal(swapped, words)


def test_a_fingerprint_is_that_of_all_rows_of_a_large_bucket():
    words = torch.zeros(1024 * 1024 * 2 + 1024, dtype=torch.int32)
    words[-1] = 3
    assert fingerprint(words.view(torch.uint8)) == [3 * 2049, 3 * 1024]
