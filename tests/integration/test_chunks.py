"""Weight chunks through the real object store: one at a time, and nobody waits for a reader that
has stopped."""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import ray

from actors.chunk_fetch import fetched
from cluster.remote.actors import Launcher
from rapo.errors import WeightError
from rapo.records import WeightManifest
from tests.limits import PATIENCE_S

pytestmark = pytest.mark.integration

_SIDE = 512  # a tensor of a MiB: in the object store, not inlined into a message


class Publisher:
    """Packs tensors as a learner does."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"num_cpus": 0}

    def publish(self, version: int, tensors: int) -> Any:
        import torch

        from rapo.policy.weight_packing import pack

        named = [(f"t{number}", torch.full((_SIDE, _SIDE), float(number))) for number in range(tensors)]
        yield from pack(named, version, 2 * _SIDE * _SIDE * 4)


class ChunkReader:
    """Reads as the rollout worker does: a thread beside an event loop."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"num_cpus": 0, "max_concurrency": 4}

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    async def pid(self) -> int:
        return os.getpid()

    async def read(self, manifest: WeightManifest, chunks: Sequence[Any], timeout_s: float) -> tuple[list[str], int]:
        """The names in order, and the most chunks whose memory was referred to when another was
        asked for."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, manifest, chunks, timeout_s)

    def _read(self, manifest: WeightManifest, chunks: Sequence[Any], timeout_s: float) -> tuple[list[str], int]:
        from rapo.policy.weight_packing import unpack

        alive: set[tuple[int, int]] = set()
        held = []

        def watched() -> Any:
            source = fetched(manifest.version, chunks, timeout_s)
            for number in range(len(chunks)):
                held.append(len({chunk for chunk, _ in alive}))
                chunk = next(source)
                for place, part in enumerate(chunk):
                    alive.add((number, place))
                    weakref.finalize(part, alive.discard, (number, place))
                del part
                yield chunk
                del chunk

        names = []
        for name, tensor in unpack(manifest, watched(), views=True):
            assert float(tensor[0, 0]) == float(name[1:])
            names.append(name)
        return names, max(held)


@pytest.fixture(scope="module")
def published(local_ray: None) -> Iterator[Any]:
    publisher: Any = Launcher(Publisher)(options={})
    refs = publisher.publish.options(num_returns=5).remote(3, 8)
    yield refs[-1], refs[:-1]
    ray.kill(publisher)


@pytest.fixture(scope="module")
def reader(local_ray: None) -> Iterator[Any]:
    reader: Any = Launcher(ChunkReader)(options={})
    yield reader
    ray.kill(reader)


def test_a_reader_maps_no_chunk_while_it_fetches_the_next(published: Any, reader: Any) -> None:
    manifest, chunks = published
    names, held = ray.get(reader.read.remote(manifest, chunks, 60.0), timeout=PATIENCE_S)
    assert names == [f"t{number}" for number in range(8)]
    assert held == 0


def test_reading_starts_before_the_last_chunk_is_there_and_a_missing_one_is_named(published: Any, reader: Any) -> None:
    """Were the chunks arguments, the call would wait for all of them; one that never comes would
    have no limit."""

    @ray.remote(num_cpus=0)
    def never() -> list[np.ndarray]:
        import time

        time.sleep(600)
        return []

    manifest, chunks = published
    late = never.remote()
    with pytest.raises(WeightError, match=r"version 3: chunk 3 of 4 did not come within 1 s"):
        ray.get(reader.read.remote(manifest, [*chunks[:3], late], 1.0), timeout=PATIENCE_S)
    ray.cancel(late, force=True)


def test_nobody_waits_for_a_reader_that_has_stopped(published: Any, reader: Any) -> None:
    manifest, chunks = published
    stopped: Any = Launcher(ChunkReader)(options={})
    pid = ray.get(stopped.pid.remote(), timeout=PATIENCE_S)
    os.kill(pid, signal.SIGSTOP)
    try:
        late = stopped.read.remote(manifest, chunks, 60.0)
        names, _ = ray.get(reader.read.remote(manifest, chunks, 60.0), timeout=PATIENCE_S)
        assert len(names) == 8
        assert not ray.wait([late], timeout=0.0)[0]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ray.get(late, timeout=PATIENCE_S)[0] == names  # the driver owns the chunks: they are still there
    ray.kill(stopped)
