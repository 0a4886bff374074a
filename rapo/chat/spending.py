"""Spending: tokens and cost of an endpoint, and the budget that ends them.

- A request reserves what it may cost at most before it is sent, so that requests in flight cannot
  overrun the budget together.
- A request that may have been billed without an answer counts with its reservation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rapo.chat.types import Usage

_MILLION = 1e6


class BudgetSpent(Exception):
    """What is left of the budget is less than one request may cost."""


class Reservation:
    """The most that one request may use, to be replaced by what it used. A request that was never
    sent settles with nothing."""

    def __init__(self, most: Usage) -> None:
        self.most = most
        self.used = Usage()


class Spending:
    """What an endpoint has used so far. `spent` is what earlier processes of the same run have
    spent. Not thread-safe: for one event loop.

    Prices are per million tokens; None counts as 0.
    """

    def __init__(
        self, prompt_price: float | None, completion_price: float | None, budget: float | None, spent: float = 0.0
    ) -> None:
        self._prices = (prompt_price or 0.0, completion_price or 0.0)
        self._budget = budget
        self._earlier = spent
        self._in_flight: dict[int, float] = {}
        self._settled = asyncio.Event()
        self.used = Usage()

    def usage(self, prompt_tokens: int, completion_tokens: int) -> Usage:
        """These tokens with their cost."""
        prompt_price, completion_price = self._prices
        cost = (prompt_tokens * prompt_price + completion_tokens * completion_price) / _MILLION
        return Usage(prompt_tokens, completion_tokens, cost)

    @asynccontextmanager
    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> AsyncIterator[Reservation]:
        """Reserve the tokens for one request, which sets `used` before it ends.

        Waits while only the requests in flight keep the budget from holding one more. Raises
        `BudgetSpent` where none would help.
        """
        held = Reservation(self.usage(prompt_tokens, completion_tokens))
        while not self._fits(held.most.cost):
            if not self._in_flight:
                raise BudgetSpent(self._too_little(held.most.cost))
            self._settled.clear()
            await self._settled.wait()  # bounded: every request in flight has a time limit
        self._in_flight[id(held)] = held.most.cost
        try:
            yield held
        finally:
            del self._in_flight[id(held)]
            self.used += held.used
            self._settled.set()

    def _fits(self, cost: float) -> bool:
        if self._budget is None:
            return True
        return self._earlier + self.used.cost + sum(self._in_flight.values()) + cost <= self._budget

    def _too_little(self, cost: float) -> str:
        spent = self._earlier + self.used.cost
        return (
            f"the budget is spent: {spent:.4f} of {self._budget:g}, and one request may cost {cost:.4f}; raise "
            "endpoint.budget and run the command again"
        )
