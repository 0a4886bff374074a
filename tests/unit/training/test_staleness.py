"""Admission, staleness and the use of every group exactly once, without Ray."""

from __future__ import annotations

import pytest
from fakes import as_ref
from hypothesis import given
from hypothesis import strategies as st

from cluster.training.staleness import ReadyGroup, StalenessWindow


def ready(ticket: int, version: int, dataset: str = "d") -> ReadyGroup:
    return ReadyGroup(ticket, as_ref(f"group {ticket}"), version, dataset)


def tickets(taken: list[ReadyGroup] | None) -> list[int]:
    assert taken is not None
    return [ready.ticket for ready in taken]


def test_eta_zero_draws_one_batch_at_a_time():
    window = StalenessWindow(3, max_staleness=0, steps=2)
    assert window.admit(0) == [0, 1, 2]
    assert window.admit(0) == []
    for ticket in (2, 0):
        window.put(ready(ticket, 0))
    assert window.take(0) is None
    window.put(ready(1, 0))
    assert tickets(window.take(0)) == [0, 1, 2]
    assert window.admit(0) == []
    assert window.admit(1) == [3, 4, 5]


@pytest.mark.parametrize("eta", [0, 1, 4])
def test_the_source_is_bounded(eta):
    window = StalenessWindow(4, max_staleness=eta, steps=100)
    assert len(window.admit(0)) == 4 * (eta + 1)
    assert window.admit(0) == []
    assert len(window.admit(1)) == 4
    assert len(window.admit(3)) == 8


def test_a_straggler_holds_nobody_up():
    window = StalenessWindow(2, max_staleness=1, steps=3)
    window.admit(0)
    for ticket in (1, 3):
        window.put(ready(ticket, 0))
    assert tickets(window.take(0)) == [1, 3]
    window.put(ready(0, 0))
    assert window.admit(1) == [4, 5]
    window.put(ready(4, 1))
    assert tickets(window.take(1)) == [0, 4]


def test_what_is_too_old_is_dropped_and_drawn_again():
    window = StalenessWindow(2, max_staleness=1, steps=5)
    window.admit(0)
    for ticket in (0, 1):
        window.put(ready(ticket, 0))
    window.take(0)
    window.admit(1)
    window.put(ready(2, 0))
    window.put(ready(4, 1))
    assert window.drop_stale(1) == []
    assert window.drop_stale(2) == [2]
    assert window.dropped == 1
    assert window.take(2) is None
    assert window.admit(2)[0] == 2
    window.put(ready(2, 2))
    assert tickets(window.take(2)) == [2, 4]


def test_a_step_has_one_data_set():
    window = StalenessWindow(2, max_staleness=1, steps=4)
    window.admit(0)
    window.put(ready(0, 0, "a"))
    window.put(ready(2, 0, "b"))
    assert window.take(0) is None
    window.put(ready(3, 0, "b"))
    assert tickets(window.take(0)) == [2, 3]


def test_a_group_is_put_once():
    window = StalenessWindow(1, max_staleness=0, steps=1)
    window.admit(0)
    window.put(ready(0, 0))
    with pytest.raises(ValueError, match="ticket 0 is not running"):
        window.put(ready(0, 0))


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 6), st.randoms(use_true_random=False))
def test_every_ticket_is_used_exactly_once_and_never_too_old(batch, eta, steps, random):
    """Whatever the order in which groups come in, and however late workers take over new
    weights."""
    window = StalenessWindow(batch, eta, steps)
    running: dict[int, int] = {}
    used: list[int] = []
    for step in range(steps):
        while True:
            window.drop_stale(step)
            for ticket in window.admit(step):
                running[ticket] = random.randint(max(0, step - 2), step) if eta else step
            assert len(used) + len(window._ready) + len(running) <= (eta + step + 1) * batch
            taken = window.take(step)
            if taken is not None:
                break
            ticket = random.choice(sorted(running))
            window.put(ready(ticket, running.pop(ticket)))
        assert len(taken) == batch
        assert all(0 <= step - r.version <= eta for r in taken)
        used += [r.ticket for r in taken]
    assert sorted(used) == list(range(batch * steps))
