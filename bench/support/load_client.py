"""A load generator of its own process: closed loop (so many callers, each waiting for its answer)
or open loop (so many calls a second, whatever comes back). It speaks to the gateway over gRPC and
to vLLM's own server over HTTP, without repeats.

    python -m bench.support.load_client --target grpc://127.0.0.1:50051 --images FOLDER
        --closed 8 --seconds 10

prints one line of JSON. `bench.serving_load` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from rapo.answers.prompts import SCORE_PROMPT
from rapo.v1 import scorer_pb2, scorer_pb2_grpc

#: Sends one image; the status, and how many tokens were written.
Call = Callable[[bytes], Awaitable[tuple[str, int]]]

_DEADLINE_S = 10.0


class GrpcTarget:
    def __init__(self, address: str, readout: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)])
        self._score = scorer_pb2_grpc.AestheticScorerStub(self._channel).Score
        self._readout = scorer_pb2.Readout.Value(f"READOUT_{readout.upper()}")
        self._metadata = metadata

    async def call(self, image: bytes) -> tuple[str, int]:
        request = scorer_pb2.ScoreRequest(image=image, readout=self._readout)
        try:
            reply = await self._score(request, timeout=_DEADLINE_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            return error.code().name, 0
        return "OK", reply.timings.completion_tokens

    async def close(self) -> None:
        await self._channel.close()


class HttpTarget:
    """vLLM's chat completions: the same prompt, greedy, the same limit."""

    def __init__(self, address: str, model: str, max_tokens: int) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_DEADLINE_S)
        )
        self._errors = (aiohttp.ClientError, TimeoutError)
        self._url, self._model, self._max_tokens = f"http://{address}/v1/chat/completions", model, max_tokens

    async def call(self, image: bytes) -> tuple[str, int]:
        url = "data:image/jpeg;base64," + base64.b64encode(image).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": SCORE_PROMPT}]
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        try:
            async with self._session.post(self._url, json=body) as reply:
                answer = await reply.json()
                return ("OK" if reply.status == 200 else str(reply.status)), answer.get("usage", {}).get(
                    "completion_tokens", 0
                )
        except self._errors as error:
            return type(error).__name__, 0

    async def close(self) -> None:
        await self._session.close()


async def closed_loop(call: Call, images: list[bytes], callers: int, seconds: float) -> list[tuple[str, float, int]]:
    """`(status, seconds, tokens)` of every call that began within `seconds`."""
    done: list[tuple[str, float, int]] = []
    order = iter(range(sys.maxsize))
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            status, tokens = await call(images[next(order) % len(images)])
            done.append((status, time.perf_counter() - began, tokens))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return done


async def open_loop(call: Call, images: list[bytes], rate: float, seconds: float) -> list[tuple[str, float, int]]:
    """The same for calls at random moments, `rate` a second on average; the wait for a late loop
    counts."""
    done: list[tuple[str, float, int]] = []
    draw = random.Random(0)
    under_way = set()

    async def one(image: bytes, due: float) -> None:
        status, tokens = await call(image)
        done.append((status, time.perf_counter() - due, tokens))

    due = time.perf_counter()
    end, number = due + seconds, 0
    while (due := due + draw.expovariate(rate)) < end:
        await asyncio.sleep(max(due - time.perf_counter(), 0.0))
        task = asyncio.create_task(one(images[number % len(images)], due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        number += 1
    await asyncio.gather(*under_way)
    return done


def summary(done: list[tuple[str, float, int]], seconds: float) -> dict[str, Any]:
    good = np.array([took for status, took, _ in done if status == "OK" and took <= _DEADLINE_S])
    quantiles = np.quantile(good, (0.5, 0.99)) * 1000 if len(good) else (None, None)
    return {
        "calls": len(done),
        "statuses": dict(Counter(status for status, _, _ in done)),
        "goodput_per_s": len(good) / seconds,
        "p50_ms": quantiles[0],
        "p99_ms": quantiles[1],
        "tokens": float(np.mean([tokens for status, _, tokens in done if status == "OK"])) if len(good) else None,
    }


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    scheme, _, address = arguments.target.partition("://")
    images = [path.read_bytes() for path in sorted(arguments.images.glob("*.jpg"))]
    images = images[arguments.skip % len(images) :] + images[: arguments.skip % len(images)]
    metadata = tuple(tuple(item.split("=", 1)) for item in arguments.metadata)
    target: Any = (
        GrpcTarget(address, arguments.readout, metadata)
        if scheme == "grpc"
        else HttpTarget(address, arguments.model, arguments.max_tokens)
    )
    try:
        began = time.perf_counter()
        if arguments.rate:
            done = await open_loop(target.call, images, arguments.rate, arguments.seconds)
            # What came in late counts for the time in which it was asked for.
            return {"offered_per_s": arguments.rate, **summary(done, arguments.seconds)}
        done = await closed_loop(target.call, images, arguments.closed, arguments.seconds)
        return {"callers": arguments.closed, **summary(done, time.perf_counter() - began)}
    finally:
        await target.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="grpc://host:port or http://host:port")
    parser.add_argument("--images", type=Path, required=True, help="folder of *.jpg")
    parser.add_argument("--skip", type=int, default=0, help="images to begin after, so that runs share none")
    parser.add_argument("--closed", type=int, default=0, help="callers")
    parser.add_argument("--rate", type=float, default=0.0, help="calls a second, instead of callers")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--readout", default="greedy")
    parser.add_argument("--model", default="scorer", help="as vLLM's server calls it")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--metadata", action="append", default=[], help="key=value, gRPC only")
    sys.stdout.write(json.dumps(asyncio.run(run(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
