"""Budget: what requests in flight may cost together, and what ends them."""

from __future__ import annotations

import asyncio

import pytest

from rapo.chat.spending import BudgetSpent, Spending
from rapo.chat.types import Usage


def test_cost_is_by_million_tokens() -> None:
    assert Spending(2.0, 8.0, None).usage(500_000, 250_000) == Usage(500_000, 250_000, 3.0)
    assert Spending(None, None, None).usage(5, 5).cost == 0


def test_requests_in_flight_never_hold_more_than_the_budget_together() -> None:
    spending = Spending(1.0, 1.0, budget=0.010)
    flying = most = asked = 0.0

    async def ask() -> bool:
        nonlocal flying, most, asked
        try:
            async with spending.reserve(1500, 500) as held:  # may cost 0.002, and costs 0.0005
                flying += held.most.cost
                most = max(most, flying + spending.used.cost)
                await asyncio.sleep(0.001)
                flying -= held.most.cost
                held.used = spending.usage(400, 100)
                asked += 1
        except BudgetSpent:
            return False
        return True

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(ask() for _ in range(60)))

    done = asyncio.run(all_of_them())
    assert most <= 0.010 + 1e-12
    # What the reservations left free was used: the last one began with 0.002 left.
    assert 16 <= sum(done) <= 17
    assert spending.used.cost == pytest.approx(sum(done) * 0.0005)


def test_what_was_spent_before_counts() -> None:
    async def ask(spent: float) -> None:
        async with Spending(1.0, 1.0, budget=1.0, spent=spent).reserve(1000, 0):
            pass

    asyncio.run(ask(0.99))
    with pytest.raises(BudgetSpent, match=r"0\.9995 of 1,"):
        asyncio.run(ask(0.9995))


def test_a_request_that_fails_gives_its_reservation_back() -> None:
    spending = Spending(1.0, 1.0, budget=0.001)

    async def ask(error: Exception | None) -> None:
        async with spending.reserve(1000, 0):
            if error is not None:
                raise error

    with pytest.raises(OSError, match="broken"):
        asyncio.run(ask(OSError("broken")))
    asyncio.run(ask(None))
    assert spending.used == Usage()
