"""Rollout worker: a vLLM engine that samples groups and predicts scores from verified weights."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray

from actors.chunk_fetch import fetched
from actors.messages import GroupReceipt, ProcessInfo
from rapo.config import Config
from rapo.errors import ImageError
from rapo.records import Chunk, Group, ImageRecord, Meeting, Prediction, WeightManifest
from rapo.storage.local_copy import local_copy
from rapo.util.devices import require_device
from rapo.util.garbage import collector_off

if TYPE_CHECKING:
    import torch
    from ray import ObjectRef

    from rapo.inference.engine_thread import EngineThread
    from rapo.inference.sampler import GroupSampler
    from rapo.inference.types import ReadoutRequest, ReadoutResult
    from rapo.policy.broadcast.weight_group import WeightGroup

T = TypeVar("T")


class RolloutWorker:
    """`start` once, then any number of calls at a time: each `generate` joins the engine's
    continuous batch.

    A failed `load` leaves the worker without a version. It then refuses to generate until a load
    succeeds.
    """

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"max_concurrency": 1000}

    def __init__(self, name: str, config: Config) -> None:
        self._name = name
        self._config = config
        self._engine_thread: EngineThread[ReadoutRequest, ReadoutResult] | None = None
        self._group_sampler: GroupSampler | None = None
        self._weight_group: WeightGroup | None = None
        # Images are decoded beside the engine's steps, one at a time: the engine has the cores.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    @property
    def _engine(self) -> EngineThread[ReadoutRequest, ReadoutResult]:
        return _started(self._engine_thread, self._name)

    @property
    def _sampler(self) -> GroupSampler:
        return _started(self._group_sampler, self._name)

    async def hello(self) -> ProcessInfo:
        """Answers as soon as the process runs."""
        return ProcessInfo(socket.gethostname(), os.getpid(), ray.get_runtime_context().get_node_id())

    async def start(self, model_dir: str, version: int) -> None:
        """Start the engine on a model folder, a path or a URL, as weight version `version`."""
        # In a thread: importing vLLM takes long, and this process has to answer meanwhile.
        self._engine_thread, self._group_sampler = await asyncio.to_thread(self._open, model_dir, version)

    def _open(self, model_dir: str, version: int) -> tuple[EngineThread[ReadoutRequest, ReadoutResult], GroupSampler]:
        """The engine's thread once its engine runs, and the sampler."""
        with collector_off():
            from rapo.inference.engine_thread import EngineThread
            from rapo.inference.readout_engine import ReadoutEngine
            from rapo.inference.sampler import GroupSampler
            from rapo.policy.broadcast.weight_group import WeightGroup

            settings = self._config.rollout
            require_device(settings.gpus, "rollout.gpus")
            folder = str(local_copy(model_dir, self._config.storage.scratch))
            thread = EngineThread(
                lambda: ReadoutEngine(
                    folder,
                    settings.engine,
                    dtype=self._config.policy.dtype,
                    version=version,
                    sleeps=self._config.colocated,
                ),
                continue_over_update=self._config.rapo.in_flight == "continue",
            )
            engine = thread.started.result(timeout=settings.start_timeout_s)
            assert isinstance(engine, ReadoutEngine)
        if settings.weight_transport == "broadcast":
            self._weight_group = WeightGroup(settings.broadcast_timeout_s)
        return thread, GroupSampler(engine.processor, self._config, engine.encode)

    async def ping(self) -> None:
        """Answers as long as the process runs, whatever the engine does."""

    async def load(self, chunks: Sequence[ObjectRef[Chunk]], *manifests: WeightManifest) -> int:
        """Verify and load a weight version, which each of the `manifests` is a part of; the version
        held then. Raises `WeightError`, and serves nothing, where it does not verify.

        `chunks` are refs: the engine's thread fetches one at a time, when it loads. A version that
        a newer one overtakes before that costs nothing.
        """
        from rapo.policy.weight_packing import unpack

        manifest = WeightManifest.joined(manifests)

        def read() -> Iterator[tuple[str, torch.Tensor]]:
            # Copied from only; a test holds that the engine leaves the store's pages as they are.
            return unpack(manifest, fetched(manifest.version, chunks, self._config.rollout.load_timeout_s), views=True)

        return await asyncio.wrap_future(self._engine.load(read, manifest.version))

    async def receive(self, version: int, meeting: Meeting, member: int) -> int:
        """Like `load`, as a member of the meeting that receives the version together."""
        from rapo.policy.broadcast.weight_broadcast import receive

        group = _started(self._weight_group, self._name)
        return await asyncio.wrap_future(self._engine.load(lambda: receive(group, meeting, member, version), version))

    async def give_up(self, epoch: int) -> None:
        """A member of the group of this epoch is lost, so that its `receive` cannot succeed."""
        _started(self._weight_group, self._name).give_up(epoch)

    async def load_folder(self, folder: str, version: int) -> int:
        """Like `load`, from a model folder: a path that this node can read, or a URL."""
        from rapo.inference.folder_weights import folder_tensors

        folder = str(await asyncio.to_thread(local_copy, folder, self._config.storage.scratch))
        return await asyncio.wrap_future(self._engine.load(lambda: folder_tensors(folder), version))

    async def sleep(self) -> None:
        """Give up the engine's memory, once no call is in flight. It holds no version then, and
        wakes with the next `load`."""
        await asyncio.wrap_future(self._engine.sleep())

    @ray.method(num_returns=2)
    async def generate(self, record: ImageRecord, data: NDArray[np.uint8], step: int) -> tuple[GroupReceipt, Group]:
        """The group for a record and its encoded bytes, and a receipt: an object each, so that a
        caller learns of the group without fetching it."""
        began = time.perf_counter()
        sampler, engine = self._sampler, self._engine
        record = dataclasses.replace(record, data=data.tobytes(), path=None)
        image = await asyncio.get_running_loop().run_in_executor(self._decoder, sampler.prepare, record)
        result = await _result(record, engine.add(image.encoded, sampler.training, sampler.seed(record, step)))
        group = sampler.group(record, step, image, result.completions)
        receipt = GroupReceipt(
            version=group.weight_version,
            tokens=sum(len(ids) for ids in group.token_ids),
            seconds=time.perf_counter() - began,
            busy_seconds=engine.busy_seconds,
            worker=self._name,
        )
        return receipt, group

    async def predict(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Predictions for records, in order, by `evaluate.readout`."""
        sampler, engine, loop = self._sampler, self._engine, asyncio.get_running_loop()
        images = [await loop.run_in_executor(self._decoder, sampler.prepare, record) for record in records]
        answers = [
            _result(record, engine.add(image.encoded, sampler.predicting, sampler.seed(record, 0)))
            for record, image in zip(records, images, strict=True)
        ]
        return [
            sampler.prediction(record, result)
            for record, result in zip(records, await asyncio.gather(*answers), strict=True)
        ]


async def _result(record: ImageRecord, future: Future[ReadoutResult]) -> ReadoutResult:
    """The result of a request. Raises `ImageError` where the engine refuses the image: the fault is
    the request's, and the worker stays."""
    try:
        return await asyncio.wrap_future(future)
    except ValueError as error:
        raise ImageError(f"the engine refuses the image {record.uid}: {error}", reason="refused") from error


def _started(part: T | None, name: str) -> T:
    if part is None:
        raise RuntimeError(f"{name} was not started")
    return part
