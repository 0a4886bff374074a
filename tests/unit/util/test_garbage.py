"""No search for garbage while a process starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from rapo.util.garbage import collector_off


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_is_off_within_and_on_after_the_outermost_block() -> None:
    with collector_off():
        with collector_off():
            assert not gc.isenabled()
        assert not gc.isenabled(), "a block within another does not end it"
    assert gc.isenabled()


def test_what_a_block_made_is_not_searched_again() -> None:
    with collector_off():
        made = [[number] for number in range(1000)]
    assert gc.get_freeze_count() >= len(made)
    assert not any(one is made for one in gc.get_objects())


def test_an_error_turns_it_on_again() -> None:
    with pytest.raises(ValueError, match="no model"), collector_off():
        raise ValueError("no model")
    assert gc.isenabled()


def test_who_had_turned_it_off_keeps_it_off() -> None:
    gc.disable()
    with collector_off():
        pass
    assert not gc.isenabled()
