"""Rollout worker: a vLLM engine that draws groups and predictions as they are asked for, from
verified weights only."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.chunks import fetched
from rapo.config import Config
from rapo.records import Group, ImageRecord, Prediction, WeightManifest


@ray.remote(max_concurrency=1000)
class RolloutWorker:
    """`start` once, then any number of calls at a time: each `generate` joins the engine's
    continuous batch.

    A failed `load` leaves the worker without a version: it then refuses to generate until a load
    succeeds.
    """

    def __init__(self, name: str, config: Config) -> None:
        self._name = name
        self._config = config
        self._loop: Any = None
        self._sampler: Any = None
        # Images are decoded beside the engine's steps, one at a time: the engine has the cores.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    async def hello(self) -> dict[str, Any]:
        """Where this worker is; answers as soon as its process runs."""
        return {"node": socket.gethostname(), "pid": os.getpid()}

    async def start(self, model_dir: str, version: int) -> dict[str, Any]:
        """Start the engine on a model folder; how long that took."""
        began = time.perf_counter()
        # In a thread: importing vLLM takes long, and this process has to answer meanwhile.
        SamplingEngine, EngineThread, GroupSampler = await asyncio.to_thread(_parts)
        settings = self._config.rollout
        self._loop = EngineThread(
            lambda: SamplingEngine(model_dir, settings.engine, dtype=self._config.policy.dtype, version=version),
            continue_over_update=self._config.rapo.in_flight == "continue",
        )
        engine = await asyncio.wrap_future(self._loop.started)
        self._sampler = GroupSampler(engine.processor, self._config)
        return {"name": self._name, "seconds": time.perf_counter() - began}

    async def ping(self) -> None:
        """Answers as long as the process runs, whatever the engine does."""

    async def load(self, manifest: WeightManifest, chunks: Sequence[Any]) -> int:
        """Verify and load a weight version; the version held then. Raises `WeightError` and serves
        nothing where it does not verify.

        `chunks` are refs: the engine's thread fetches one at a time, when it loads. A version that
        is overtaken before costs nothing.
        """
        from rapo.policy.weights import unpack

        def read() -> Iterator[Any]:
            # Copied from only; a test holds that the engine leaves the store's pages as they are.
            return unpack(manifest, fetched(manifest.version, chunks, self._config.rollout.load_timeout_s), views=True)

        return await asyncio.wrap_future(self._loop.load(read, manifest.version))

    async def load_folder(self, folder: str, version: int) -> int:
        """Like `load`, from a model folder that this node can read."""
        from rapo.inference.folder_weights import folder_tensors

        return await asyncio.wrap_future(self._loop.load(lambda: folder_tensors(folder), version))

    @ray.method(num_returns=2)
    async def generate(self, record: ImageRecord, data: NDArray[np.uint8], step: int) -> tuple[dict[str, Any], Group]:
        """`(receipt, group)` for a record and its encoded bytes, an object each: who waits for the
        receipt learns of the group without fetching it.

        The receipt: `version` of the oldest token, `tokens` drawn, `seconds` from request to group,
        `busy_seconds`, how long the engine has worked since it was made, and `worker`, who drew it.
        """
        began = time.perf_counter()
        sampler = self._sampler
        record = dataclasses.replace(record, data=data.tobytes(), path=None)
        encoded = await asyncio.get_running_loop().run_in_executor(self._decoder, sampler.encode, record)
        drawn = await asyncio.wrap_future(self._loop.add(encoded, sampler.training, sampler.seed(record, step)))
        group = sampler.group(record, step, encoded, drawn)
        receipt = {
            "version": group.weight_version,
            "tokens": sum(len(ids) for ids in group.token_ids),
            "seconds": time.perf_counter() - began,
            "busy_seconds": self._loop.busy_seconds,
            "worker": self._name,
        }
        return receipt, group

    async def predict(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Greedy predictions for records."""
        sampler, loop = self._sampler, asyncio.get_running_loop()
        encoded_images = [await loop.run_in_executor(self._decoder, sampler.encode, record) for record in records]
        drawn = [asyncio.wrap_future(self._loop.add(encoded, sampler.greedy, 0)) for encoded in encoded_images]
        return [sampler.prediction(r, c[0]) for r, c in zip(records, await asyncio.gather(*drawn), strict=True)]


def _parts() -> tuple[Any, Any, Any]:
    from rapo.inference.engine_thread import EngineThread
    from rapo.inference.sampler import GroupSampler
    from rapo.inference.sampling_engine import SamplingEngine

    return SamplingEngine, EngineThread, GroupSampler
