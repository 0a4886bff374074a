"""Malformed and fuzzed requests against a gateway: no crash, no hang, no growth of memory, always
the right status.

    python -m bench.fuzz_gateway [--cases 12000 | --minutes 60] [--seed 0] [--corpus DIR]

starts a gateway in a process of its own, and behind it, in another, an upstream that decodes images
with `rapo.images.decode` as the deployment does but has no model. `--server HOST:PORT` takes a
running service instead; `--watch PID`, as often as wanted, notes the memory and the CPU time of its
processes. `--corpus` keeps images that are worth it in a folder, from which the next run starts.
Writes `bench/results/fuzz_gateway.json`; exit code 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import socket
import sys
from collections import Counter
from concurrent import futures
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from threading import Timer
from time import monotonic
from typing import Any

import grpc
import numpy as np

from bench.malformed import LIMITS, Case, cases
from bench.support import record
from bench.support.corpus import Corpus
from rapo.errors import ImageError
from rapo.images.decode import decode_image
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import REASON_KEY, SERVICE
from services.gateway.routes import Routes
from services.gateway.server import Gateway, GatewaySettings
from services.names import FIELD_KEY

_MAX_MESSAGE_BYTES = 2 * 2**20
_WORKERS = 8
_HANG_S = 30.0
# Memory is compared with what it was after so many cases: by then every path was taken and caches
# are full.
_WARM_UP = 0.25
_GROWTH_MIB = 48.0
# One image of these sizes takes milliseconds to decode.
_CPU_S = 1.0


class Decoding(scorer_pb2_grpc.AestheticScorerServicer):
    """The deployment without its model: an image that decodes gets a score."""

    def Score(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            image = decode_image(request.image, LIMITS)
        except ImageError as error:
            context.set_trailing_metadata([(REASON_KEY, error.reason), (FIELD_KEY, "image")])
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        score = float(np.asarray(image.resize((1, 1))).mean()) / 255
        return scorer_pb2.ScoreResponse(score=score, model_version="fuzz", request_id=request.request_id)

    def Explain(self, request: Any, context: grpc.ServicerContext) -> Any:
        yield scorer_pb2.ExplainResponse(rationale_delta="light")
        yield scorer_pb2.ExplainResponse(response=self.Score(request, context))

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        return scorer_pb2.GetModelResponse(model_version="fuzz")


@dataclass(frozen=True, slots=True)
class Until:
    """When enough cases were sent: after so many, or at a time of the monotonic clock."""

    cases: float
    time: float = math.inf


@dataclass
class Tally:
    """What came of the cases so far."""

    done: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


def _upstream(pipe: Connection) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(_WORKERS))
    scorer_pb2_grpc.add_AestheticScorerServicer_to_server(Decoding(), server)
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    pipe.recv()
    server.stop(0).wait(5)


def _gateway(pipe: Connection, upstream: int) -> None:
    settings = GatewaySettings(
        host="127.0.0.1",
        port=0,
        upstreams=(f"127.0.0.1:{upstream}",),
        secret="secret",
        routes=Routes("fuzz", {"fuzz": "app"}),
        max_message_bytes=_MAX_MESSAGE_BYTES,
        request_timeout_s=_HANG_S,
    )
    with Gateway(settings) as gateway:
        pipe.send(gateway.port)
        pipe.recv()


async def attack(
    address: str, until: Until, seed: int, tally: Tally, *, lenient: bool = False, measure: Any = None,
    corpus: Corpus | None = None,
) -> None:  # fmt: skip
    """Send cases to `address`, several at a time, and note what was not right in `tally`.

    `lenient` allows for a model behind it: an answer without a score, a full queue, an image too
    large for its context.
    """
    stream = cases(seed, _MAX_MESSAGE_BYTES, corpus)
    rng = Random(seed)
    started = 0

    async def worker(channel: grpc.aio.Channel, blocking: grpc.Channel) -> None:
        nonlocal started
        while started < until.cases and monotonic() < until.time:
            started += 1
            case = next(stream)
            if lenient and case.kind == "oversized":
                continue
            await _try(channel, blocking, case, tally, lenient=lenient)
            if tally.done % 200 == 0:
                _knock(address, rng)
            if measure is not None and tally.done % 500 == 0:
                measure(tally.done)

    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as blocking:
        async with grpc.aio.insecure_channel(address, options=options) as channel, asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(worker(channel, blocking))


async def _try(channel: grpc.aio.Channel, blocking: grpc.Channel, case: Case, tally: Tally, *, lenient: bool) -> None:
    began = monotonic()
    if case.method == "ScoreStream":
        # grpc.aio's client says INTERNAL of its own where a server ends a stream that it is still
        # writing to.
        code, replies, words = await asyncio.to_thread(_stream, blocking, case)
    else:
        code, replies, words = await _call(channel, case)
    seconds = monotonic() - began
    right = set(case.codes)
    if lenient:
        right |= {
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.INVALID_ARGUMENT,
        }
    tally.done += 1
    tally.kinds[case.kind] += 1
    tally.codes[code.name] += 1
    tally.slowest = max(tally.slowest, (round(seconds, 2), f"{case.kind} {case.method[:20]}"))
    if code not in right:
        names = "/".join(sorted(c.name for c in right))
        tally.wrong.append(f"{case.kind} {case.method[:20]}: {code.name} ({words}), not {names}")
    elif seconds > _HANG_S:
        tally.wrong.append(f"{case.kind} {case.method}: took {seconds:.0f} s")
    elif code != grpc.StatusCode.OK or lenient or not case.items:
        return
    elif (said := _outcomes(case, replies)) != case.items:
        tally.wrong.append(f"{case.kind} {case.method}: {said}, not {case.items}")


async def _call(channel: grpc.aio.Channel, case: Case) -> tuple[grpc.StatusCode, list[bytes], str]:
    path, metadata = f"/{SERVICE}/{case.method}", grpc.aio.Metadata(*case.metadata)
    call = channel.unary_stream(path)(case.messages[0], metadata=metadata, timeout=case.timeout_s)
    if case.cancel_after_s is not None:
        asyncio.get_running_loop().call_later(case.cancel_after_s, call.cancel)
    replies: list[bytes] = []
    try:
        async with asyncio.timeout(2 * _HANG_S):
            async for reply in call:
                replies.append(reply)
    except grpc.aio.AioRpcError as error:
        return error.code(), replies, error.details() or ""
    except asyncio.CancelledError:
        return grpc.StatusCode.CANCELLED, replies, ""
    return grpc.StatusCode.OK, replies, ""


def _stream(channel: grpc.Channel, case: Case) -> tuple[grpc.StatusCode, list[bytes], str]:
    call = channel.stream_stream(f"/{SERVICE}/{case.method}")(iter(case.messages), timeout=case.timeout_s)
    if case.cancel_after_s is not None:
        Timer(case.cancel_after_s, call.cancel).start()
    replies: list[bytes] = []
    try:
        replies.extend(call)
    except grpc.RpcError as error:
        return error.code(), replies, error.details() or ""
    return grpc.StatusCode.OK, replies, ""


def _outcomes(case: Case, replies: list[bytes]) -> dict[str, str | bool]:
    """What each image of a good call got, in the form of `Case.items`."""
    if case.method == "Score":
        return {"": bool(scorer_pb2.ScoreResponse.FromString(replies[0]).model_version)} if len(replies) == 1 else {}
    if case.method == "Explain":
        return {"": scorer_pb2.ExplainResponse.FromString(replies[-1]).HasField("response")}
    if case.method == "ScoreBatch":
        results = scorer_pb2.ScoreBatchResponse.FromString(replies[0]).results
        return {str(place): _outcome(result) for place, result in enumerate(results)}
    if case.method == "Rank":
        ranking = scorer_pb2.RankResponse.FromString(replies[0]).ranking
        return {str(item.index): _outcome(item) for item in ranking}
    results = [scorer_pb2.ScoreResult.FromString(reply) for reply in replies]
    found = {result.request_id: _outcome(result) for result in results}
    return found if len(found) == len(results) else {"answered twice": False}


def _outcome(result: Any) -> str | bool:
    if result.HasField("response"):
        return True
    from google.rpc import error_details_pb2

    info = error_details_pb2.ErrorInfo()
    return info.reason if result.error.details[0].Unpack(info) else "no details"


def _knock(address: str, rng: Random) -> None:
    """What is not gRPC at all, straight into the port."""
    host, _, port = address.rpartition(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    frames = preface + b"\0\0\0\x04\0\0\0\0\0" + rng.randbytes(rng.randrange(400))
    said = rng.choice(
        (rng.randbytes(100), b"GET / HTTP/1.1\r\n\r\n", preface + b"\xff" * 30, frames, b"", b"\x16\x03\x01")
    )
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(said)


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, help="default: 12,000, or without end with --minutes")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--corpus", type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", help="host:port of a running service, in place of one started here")
    parser.add_argument("--watch", type=int, action="append", default=[], metavar="PID", help="with --server")
    arguments = parser.parse_args()
    tally, began = Tally(), monotonic()
    corpus = Corpus(arguments.corpus, LIMITS)
    minutes = math.inf if arguments.minutes is None else arguments.minutes
    until = Until(arguments.cases or (12_000 if math.isinf(minutes) else math.inf), began + 60 * minutes)
    if arguments.server:
        memory: dict[str, list[float]] = {str(pid): [] for pid in arguments.watch}

        def measure(done: int) -> None:
            for pid in arguments.watch:
                memory[str(pid)].append(round(_rss_mib(pid), 1))

        before = [_cpu_s(pid) for pid in arguments.watch]
        asyncio.run(
            attack(arguments.server, until, arguments.seed, tally, lenient=True, measure=measure, corpus=corpus)
        )
        spent = [_cpu_s(pid) - cpu_s for pid, cpu_s in zip(arguments.watch, before, strict=True)]
    else:
        memory, spent = _against_own(until, arguments.seed, tally, corpus)
    if corpus.cpu_s[0] > _CPU_S:
        tally.wrong.append(f"an image of the corpus took {corpus.cpu_s[0]} s of CPU time: {corpus.cpu_s[1]}")
    result = {
        "machine": record.machine(),
        "versions": record.versions(["grpcio", "pillow", "protobuf"]),
        "against": "a running service" if arguments.server else "a gateway and an upstream without a model",
        "cases": tally.done,
        "seed": arguments.seed,
        "seconds": round(monotonic() - began, 1),
        "kinds": dict(tally.kinds.most_common()),
        "codes": dict(tally.codes.most_common()),
        "slowest": tally.slowest,
        "rss_mib": memory,
        "cpu_ms_per_call": [round(1000 * cpu_s / max(tally.done, 1), 2) for cpu_s in spent],
        "dearest_image": corpus.cpu_s,
        "corpus": len(corpus.images),
        "wrong": len(tally.wrong),
        "examples": tally.wrong[:20],
    }
    name = "fuzz_service" if arguments.server else "fuzz_gateway"
    record.write_json(name, result)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 1 if tally.wrong else 0


def _against_own(until: Until, seed: int, tally: Tally, corpus: Corpus) -> tuple[dict[str, list[float]], list[float]]:
    context = multiprocessing.get_context("spawn")
    memory: dict[str, list[float]] = {"gateway": [], "upstream": []}
    pipes, processes = [], []
    port = 0
    for target, extra in ((_upstream, ()), (_gateway, ("port",))):
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *([port] if extra else [])), daemon=True)
        process.start()
        if not ours.poll(60):
            raise RuntimeError(f"{target.__name__} did not start within 60 s")
        port = ours.recv()
        pipes.append(ours)
        processes.append(process)

    def measure(done: int) -> None:
        for name, process in zip(("upstream", "gateway"), processes, strict=True):
            memory[name].append(round(_rss_mib(process.pid or os.getpid()), 1))

    try:
        asyncio.run(attack(f"127.0.0.1:{port}", until, seed, tally, measure=measure, corpus=corpus))
        measure(tally.done)
        spent = [_cpu_s(process.pid or os.getpid()) for process in processes]
        for name, process in zip(("upstream", "gateway"), processes, strict=True):
            if not process.is_alive():
                tally.wrong.append(f"the {name} died with exit code {process.exitcode}")
            values = memory[name]
            if values[-1] - values[int(len(values) * _WARM_UP)] > _GROWTH_MIB:
                tally.wrong.append(f"the {name} grew: {values} MiB")
    finally:
        for pipe, process in zip(reversed(pipes), reversed(processes), strict=True):
            if process.is_alive():
                pipe.send(None)
            process.join(30)
    return memory, spent


if __name__ == "__main__":
    sys.exit(main())
