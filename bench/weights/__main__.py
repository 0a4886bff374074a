"""Weights through the object store: publish and pull against a plain memory copy of the same bytes.

    python -m bench.weights [--megabytes 10 100 1000] [--chunk-mib 256] [--rounds 5]

A publisher packs float32 tensors of a transformer's shapes into the object store, with the code of
the learner; pullers fetch the chunks one at a time, verify and copy every tensor into memory that
they hold, as a rollout worker does, but without an engine. The copy that they are compared with is
`Tensor.copy_` between the publisher's own tensors, one thread, warm memory.

Then three pullers load while one of them is stopped (SIGSTOP), over two versions: the others must
not notice. Memory is that of the process's own pages (RssAnon), sampled; pages of the object store
that it maps are counted apart (RssShmem).

Expectation (2 cores): a copy makes 8 to 10 GB/s. Publishing reads for the checksum (20 GB/s) and
writes once, into pages that the kernel has to map: 0.4 to 0.6 of a copy. Pulling reads twice and
writes once: 0.6 to 0.7, without verifying 0.9. Extra private memory: none on either side, beside
the last tensor of a chunk. Beside a stopped puller: the same seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from bench.support import record

_PACKAGES = ("torch", "ray", "xxhash", "numpy")
_LIMIT_S = 300.0
_MIB = 2**20


def shapes(nbytes: int) -> list[tuple[str, tuple[int, int]]]:
    """Names and shapes of float32 matrices that together have about `nbytes`: a vocabulary of an
    eighth, then layers."""
    hidden = 1024 if nbytes > 200 * 10**6 else 256
    found = [("embed", (max(1, nbytes // 8 // 4 // hidden), hidden))]
    left = nbytes - nbytes // 8
    for layer in range(10**6):
        for name, rows in (("qkv", 3 * hidden), ("o", hidden), ("up", 4 * hidden), ("down", 4 * hidden), ("norm", 1)):
            rows = min(rows, left // 4 // hidden)
            if rows == 0:
                return found
            found.append((f"layers.{layer}.{name}", (rows, hidden)))
            left -= rows * hidden * 4
    return found


class Memory:
    """Peak private and shared pages of a process above what it had at the start, in MiB, sampled
    every few milliseconds."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._stop = threading.Event()
        self._start = self._read()
        self._peak = self._start
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _read(self) -> tuple[float, float]:
        kib = dict(line.split(":")[:2] for line in self._status.read_text().splitlines())
        return tuple(int(kib[name].split()[0]) / 1024 for name in ("RssAnon", "RssShmem"))  # type: ignore[return-value]

    def _watch(self) -> None:
        while not self._stop.wait(0.003):
            self._peak = tuple(max(pair) for pair in zip(self._peak, self._read(), strict=True))  # type: ignore[assignment]

    def extra(self) -> tuple[float, float]:
        """Stop; `(private, shared)` MiB."""
        self._stop.set()
        self._thread.join(timeout=5.0)
        return self._peak[0] - self._start[0], self._peak[1] - self._start[1]


class Publisher:
    """Holds tensors and publishes them. With a generator of its own per version, as the learner."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"num_cpus": 0}

    def __init__(self, nbytes: int, chunk_bytes: int) -> None:
        import torch

        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(0)
        self._tensors = [(name, torch.randn(shape, generator=generator)) for name, shape in shapes(nbytes)]
        self._chunk_bytes = chunk_bytes

    def facts(self) -> dict[str, Any]:
        from rapo.policy.weight_packing import chunk_count

        sizes = [tensor.numel() * 4 for _, tensor in self._tensors]
        return {"pid": os.getpid(), "nbytes": sum(sizes), "chunks": chunk_count(sizes, self._chunk_bytes)}

    def copy_s(self, rounds: int) -> float:
        """Seconds of one plain copy of all tensors, the median."""
        import torch

        targets = [torch.zeros_like(tensor) for _, tensor in self._tensors]
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            for target, (_, tensor) in zip(targets, self._tensors, strict=True):
                target.copy_(tensor)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    def publish(self, version: int) -> Iterator[Any]:
        from rapo.policy.weight_packing import pack

        yield from pack(self._tensors, version, self._chunk_bytes)


class Puller:
    """Loads versions in a thread of its own into tensors that it holds."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"num_cpus": 0, "max_concurrency": 8}

    def __init__(self, nbytes: int) -> None:
        import torch

        torch.set_num_threads(1)
        self._held = {name: torch.zeros(shape) for name, shape in shapes(nbytes)}
        self._thread = ThreadPoolExecutor(1)
        self._mapped: list[set[int]] = []  # of each chunk, the tensors whose memory is still referred to
        self._most_mapped = 0

    def pid(self) -> int:
        return os.getpid()

    async def load(self, manifest: Any, chunks: Sequence[Any], verify: bool) -> dict[str, float]:
        """Seconds in the thread and the most chunks that were mapped at a time."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._thread, self._load, manifest, chunks, verify)

    def _load(self, manifest: Any, chunks: Sequence[Any], verify: bool) -> dict[str, float]:
        from actors.chunk_fetch import fetched
        from rapo.policy.weight_packing import unpack

        self._mapped, self._most_mapped = [], 0
        began = time.perf_counter()
        stream = self._counted(fetched(manifest.version, chunks, _LIMIT_S))
        tensors = unpack(manifest, stream, views=True) if verify else unverified(manifest, stream)
        for name, tensor in tensors:
            self._held[name].copy_(tensor)
        del tensor
        return {"seconds": time.perf_counter() - began, "mapped": self._most_mapped}

    def _counted(self, chunks: Iterator[Any]) -> Iterator[Any]:
        for chunk in chunks:
            held = set(range(len(chunk)))
            self._mapped.append(held)
            self._most_mapped = max(self._most_mapped, sum(map(bool, self._mapped)))
            for place, part in enumerate(chunk):
                weakref.finalize(part, held.discard, place)
            del part
            yield chunk
            del chunk


def unverified(manifest: Any, chunks: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    """What `unpack` does, without the checksums: what they cost is the difference."""
    import torch

    by_chunk: dict[int, list[Any]] = {}
    for spec in manifest.tensors:
        by_chunk.setdefault(spec.chunk, []).append(spec)
    for index in range(manifest.chunks):
        chunk = next(chunks)
        for spec in by_chunk[index]:
            data = chunk[spec.place]
            yield spec.name, torch.from_numpy(data).view(getattr(torch, spec.dtype)).reshape(spec.shape)
        del chunk, data


def measure(megabytes: int, chunk_mib: int, rounds: int) -> dict[str, Any]:
    """One size: throughput and memory of both sides, then the seconds of two pullers beside a third
    that is stopped."""
    import ray

    nbytes = megabytes * 10**6
    from cluster.remote.actors import Launcher

    publisher: Any = Launcher(Publisher)(nbytes, chunk_mib * _MIB, options={})
    pullers: list[Any] = [Launcher(Puller)(nbytes, options={}) for _ in range(3)]
    facts: dict[str, int] = ray.get(publisher.facts.remote(), timeout=_LIMIT_S)
    pids: list[int] = ray.get([puller.pid.remote() for puller in pullers], timeout=_LIMIT_S)
    copy_s: float = ray.get(publisher.copy_s.remote(rounds), timeout=_LIMIT_S)
    versions = iter(range(1, 10**6))

    def publish() -> list[Any]:
        refs = publisher.publish.options(num_returns=facts["chunks"] + 1).remote(next(versions))
        ray.wait(refs, num_returns=len(refs), timeout=_LIMIT_S, fetch_local=False)
        return refs

    def pull(which: Sequence[int], refs: list[Any], verify: bool = True) -> tuple[list[Any], float]:
        calls = [pullers[i].load.remote(refs[-1], refs[:-1], verify) for i in which]
        began = time.perf_counter()
        return ray.get(calls, timeout=_LIMIT_S), time.perf_counter() - began

    pull([0], publish())  # warm: imports, the store's first pages
    publish_s, pull_s, bare_s, mapped = [], [], [], 0
    private, shared = [0.0, 0.0], [0.0, 0.0]
    for _ in range(rounds):
        memory = [Memory(facts["pid"]), Memory(pids[0])]
        began = time.perf_counter()
        refs = publish()
        publish_s.append(time.perf_counter() - began)
        (answer,), _ = pull([0], refs)
        pull_s.append(answer["seconds"])
        mapped = max(mapped, answer["mapped"])
        for side, one in enumerate(memory):
            extra = one.extra()
            private[side], shared[side] = max(private[side], extra[0]), max(shared[side], extra[1])
        del refs
        (answer,), _ = pull([0], publish(), verify=False)
        bare_s.append(answer["seconds"])
    beside = _beside_a_stopped_one(publish, pull, pullers, pids)
    for actor in (publisher, *pullers):
        ray.kill(actor)
    rate = {name: facts["nbytes"] / statistics.median(seconds) / 1e9 for name, seconds in
            (("copy", [copy_s]), ("publish", publish_s), ("pull", pull_s), ("unverified", bare_s))}  # fmt: skip
    return {
        "megabytes": megabytes,
        "chunks": facts["chunks"],
        **{f"{name}_gb_per_s": value for name, value in rate.items()},
        "publish_ratio": rate["publish"] / rate["copy"],
        "pull_ratio": rate["pull"] / rate["copy"],
        "unverified_ratio": rate["unverified"] / rate["copy"],
        "publisher_extra_mib": private[0],
        "puller_extra_mib": private[1],
        "publisher_shared_mib": shared[0],
        "puller_shared_mib": shared[1],
        "most_chunks_mapped": mapped,
        **beside,
    }


def _beside_a_stopped_one(publish: Any, pull: Any, pullers: list[Any], pids: list[int]) -> dict[str, float]:
    """Seconds in which two pullers load two versions, without and with a third that was stopped
    while it loaded the first."""
    import ray

    pull([0, 1, 2], publish())
    began = time.perf_counter()
    for _ in range(2):
        pull([0, 1], publish())
    alone = time.perf_counter() - began
    first = publish()
    os.kill(pids[2], signal.SIGSTOP)
    try:
        late = pullers[2].load.remote(first[-1], first[:-1], True)
        began = time.perf_counter()
        pull([0, 1], first)
        pull([0, 1], publish())
        beside = time.perf_counter() - began
    finally:
        os.kill(pids[2], signal.SIGCONT)
    ray.get(late, timeout=_LIMIT_S)  # it gets what it asked for, if late: the driver owns the chunks
    return {"two_versions_s": alone, "beside_a_stopped_s": beside}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--chunk-mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for weights.json and .md")
    arguments = parser.parse_args()
    from cluster.remote.ray_session import ray_session
    from rapo.config import load_config

    store = max(256, 4 * max(arguments.megabytes))
    rows = []
    pressure = record.CpuPressure()
    with ray_session(load_config(None, [f"ray.object_store_mib={store}"])):
        for megabytes in arguments.megabytes:
            rows.append(measure(megabytes, arguments.chunk_mib, arguments.rounds))
            sys.stdout.write(record.markdown_table(rows[-1:]) + "\n")
    machine, versions = record.machine(), record.versions(_PACKAGES)
    result = {"machine": machine, "versions": versions, "cpu_pressure": pressure.share(), "rows": rows}
    record.write_json("weights", result, arguments.out)
    notes = [f"Chunks of {arguments.chunk_mib} MiB.", record.describe(machine, versions)]
    record.write_markdown("weights", "Weights through the object store", rows, notes, arguments.out)


if __name__ == "__main__":
    main()
