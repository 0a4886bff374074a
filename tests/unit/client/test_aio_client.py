"""AsyncScorerClient: it behaves as the blocking client, over the same scripted service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from fake_scorer import FakeScorer, busy, serving, status
from google.rpc import code_pb2

from rapo.client import AsyncScorerClient, CallError, Outcome, ScoreResult
from rapo.errors import ImageError


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def target(scorer: FakeScorer) -> Iterator[str]:
    with serving(scorer) as target:
        yield target


T = TypeVar("T")


def run(target: str, body: Callable[[AsyncScorerClient], Awaitable[T]], timeout: float = 10.0) -> T:
    async def main() -> T:
        async with AsyncScorerClient(target, timeout, initial_backoff=0.01, max_backoff=0.05) as client:
            return await asyncio.wait_for(body(client), 30)

    return asyncio.run(main())


def scores(outcomes: list[Outcome]) -> list[float | None]:
    return [outcome.result.score if outcome.result is not None else None for outcome in outcomes]


def test_calls_give_the_same_typed_results(target: str, scorer: FakeScorer, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("42")

    async def body(client: AsyncScorerClient) -> None:
        scorer.failures = [busy(), status(code_pb2.UNAVAILABLE, "not now", "stopping")]
        result = await client.score(path, native_scale="ava")
        assert (result.score, result.std, result.native_score) == (0.42, 0.1, pytest.approx(4.78))
        assert (await client.model()).models == ("v7", "v6")
        batch = await client.score_batch([b"1", b"bad", tmp_path / "gone.jpg"])
        assert scores(list(batch)) == [0.01, None, None]
        assert isinstance(batch[2].error, ImageError)
        ranking = await client.rank([b"20", b"80"])
        assert [outcome.index for outcome in ranking.order] == [1, 0]
        parts = [part async for part in client.explain(b"42")]
        assert parts[:2] == ["soft ", "light"]
        assert isinstance(parts[2], ScoreResult)
        with pytest.raises(CallError, match="not an image"):
            await client.score(b"bad")

    run(target, body)


def test_many_keeps_the_order_over_broken_streams(target: str, scorer: FakeScorer) -> None:
    scorer.breaks = [3, 0, 7]
    scorer.failures = [busy()]
    scorer.delay_s = 0.002

    async def body(client: AsyncScorerClient) -> list[Outcome]:
        return [outcome async for outcome in client.score_many(str(i).encode() for i in range(40))]

    assert scores(run(target, body)) == [i / 100 for i in range(40)]
    assert scorer.streams == 4


def test_images_may_come_asynchronously_and_are_not_read_ahead(target: str, scorer: FakeScorer) -> None:
    taken = count()

    async def images() -> AsyncIterator[bytes]:
        while True:
            yield str(next(taken)).encode()

    async def body(client: AsyncScorerClient) -> list[Outcome]:
        stream = client.stream(images(), in_flight=2)
        got = [await anext(stream) for _ in range(10)]
        await stream.aclose()
        return got

    got = run(target, body)
    assert all(outcome.result is not None and outcome.result.score == outcome.index / 100 for outcome in got)
    assert next(taken) <= 10 + 2 + 2
    assert scorer.most_running <= 2


def test_a_cancelled_call_ends_at_once(target: str, scorer: FakeScorer) -> None:
    scorer.delay_s = 2.0

    async def body(client: AsyncScorerClient) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.score(b"42"), 0.2)
        with pytest.raises(CallError, match="none of 1 images"):
            _ = [outcome async for outcome in client.score_many([b"1"])]

    run(target, body, timeout=1.0)
