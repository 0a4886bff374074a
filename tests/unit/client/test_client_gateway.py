"""Client and gateway together, with a scripted deployment behind them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from serving import Authority, FakeDeployment, gateway_on, settings_for, upstream_of

from rapo.client import AsyncScorerClient, CallError, FieldViolation, Outcome, ScorerClient, ScoreResult
from rapo.v1 import scorer_pb2
from services.gateway.server import Gateway
from services.gateway.tokens import token_line


def scores(outcomes: Iterable[Outcome]) -> list[float | None]:
    return [outcome.result.score if outcome.result is not None else None for outcome in outcomes]


def test_tls_and_a_token(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(token_line("web", "t-web"))
    with gateway_on(FakeDeployment(), certificate=certificate, key=key, tokens=tokens) as gateway:
        with ScorerClient(gateway.address, 10, ca=authority.path, token="t-web") as client:
            assert scores(client.score_many([b"0.5", b"bad", b"0.25"])) == [0.5, None, 0.25]
        with ScorerClient(gateway.address, 10, ca=authority.path, token="t-wec") as client:
            with pytest.raises(CallError) as caught:
                client.score(b"0.5")
            assert (caught.value.code, caught.value.reason) == ("UNAUTHENTICATED", "no_token")


def test_errors_keep_their_details(tmp_path: Path) -> None:
    with gateway_on(FakeDeployment()) as gateway, ScorerClient(gateway.address, 10) as client:
        with pytest.raises(CallError) as caught:
            client.score(b"bad")
        assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "unknown_format")
        assert caught.value.violations == (FieldViolation("image", "not an image"),)
        error = client.score_batch([b"0.5", b"bad"])[1].error
        assert isinstance(error, CallError)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "unknown_format")
        with pytest.raises(CallError) as caught:
            client.score(b"0.5", model_version="v9")
        assert caught.value.code == "NOT_FOUND"


def test_a_client_over_its_share_is_slowed_and_not_failed() -> None:
    with gateway_on(FakeDeployment(), rate=50.0, burst=4) as gateway, ScorerClient(gateway.address, 20) as client:
        assert scores(client.score_many([b"0.5"] * 30)) == [0.5] * 30
        assert scores(client.score_batch([b"0.5"] * 4)) == [0.5] * 4


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    scorer = FakeDeployment()
    refusals = iter([b"busy", b"gone", b"busy"])

    def before(request: scorer_pb2.ScoreRequest) -> None:
        with scorer.lock:
            request.image = next(refusals, request.image)

    scorer.before = before
    with gateway_on(scorer) as gateway, ScorerClient(gateway.address, 20, initial_backoff=0.02) as client:
        assert scores(client.score_many([b"0.5"] * 10)) == [0.5] * 10
        assert len(scorer.seen) == 13


def test_a_ranking_and_an_explanation() -> None:
    async def body(target: str) -> None:
        async with AsyncScorerClient(target, 10) as client:
            ranking = await client.rank([b"0.2", b"0.8", b"bad"])
            assert [outcome.index for outcome in ranking.order] == [1, 0, 2]
            assert ranking.preference[1][0] > 0.9
            parts = [part async for part in client.explain(b"0.5")]
            assert parts[:2] == ["soft ", "light"]
            assert isinstance(parts[2], ScoreResult)
            assert parts[2].score == 0.5

    with gateway_on(FakeDeployment()) as gateway:
        asyncio.run(body(gateway.address))


def test_many_survives_the_gateway_being_replaced() -> None:
    scorer = FakeDeployment()
    scorer.before = lambda request: threading.Event().wait(0.01)
    with upstream_of(scorer) as upstream:
        first = Gateway(settings_for(upstream, grace_s=0.2))
        first.start()
        with ScorerClient(first.address, 20, initial_backoff=0.02, max_backoff=0.2) as client:
            stream = client.score_many(b"0.%02d" % (number % 100) for number in range(150))
            got = list(islice(stream, 20))
            first.stop()
            with Gateway(replace(settings_for(upstream), port=first.port)):
                got += list(stream)
    assert scores(got) == [number % 100 / 100 for number in range(150)]
