"""Roles that sleep instead of computing, for the question what the loop would do on machines of its
own.

The controller, the fleet, the window, the engine loop (and so the order of requests and weight
loads), the reward actor and Ray are the real ones. Engine and learner take the time that `Latency`
says and use no core, as if each had its own machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.learner import Learner
from actors.messages import RankFigures, RankInfo
from actors.rollout import RolloutWorker
from rapo.algorithm.partition import Share
from rapo.answers.parse import format_completion
from rapo.config import Config
from rapo.inference.engine_thread import EngineThread
from rapo.inference.types import Completion, ReadoutRequest, ReadoutResult, SamplingSpec
from rapo.records import Chunk, Group, ImageRecord, TensorSpec, WeightManifest

if TYPE_CHECKING:
    from rapo.policy.state import StateFiles


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds: of one engine step (a token of every running completion), one optimiser step on one
    rank, one weight load and one publish. `tokens` is the mean length of a completion; its log is
    normal with sd `spread`."""

    engine_step: float
    learner_step: float
    load: float
    publish: float
    tokens: float
    spread: float = 0.3


class SimulatedEngine:
    """`EngineLike`: at most `slots` completions at a time, each a token per step."""

    def __init__(self, latency: Latency, slots: int) -> None:
        self.version: int | None = 0
        self._latency = latency
        self._slots = slots
        self._requests: dict[str, list[list[int]]] = {}  # per completion: its length, then the version of each token

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    def add(self, name: str, image: Any, request: ReadoutRequest, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lengths = self._latency.tokens * rng.lognormal(
            -(self._latency.spread**2) / 2, self._latency.spread, request.sampling.completions
        )
        self._requests[name] = [[max(1, round(length))] for length in lengths]

    def cancel(self, name: str) -> None:
        del self._requests[name]

    def step(self) -> list[tuple[str, ReadoutResult]]:
        time.sleep(self._latency.engine_step)
        left, done = self._slots, []
        for name, rows in list(self._requests.items()):
            for row in rows:
                if left and len(row) <= row[0]:
                    row.append(self.version or 0)
                    left -= 1
            if all(len(row) > row[0] for row in rows):
                del self._requests[name]
                done.append((name, ReadoutResult(tuple(completion(row[1:]) for row in rows), None, 0, 0.0, 0.0)))
        return done

    def load(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        time.sleep(self._latency.load)
        self.version = version

    def sleep(self) -> None:
        self.version = None


def completion(versions: list[int]) -> Completion:
    """A completion of a token per entry, each sampled from that version."""
    tokens = np.array(versions, np.int32)
    return Completion(np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.float32), "stop", tokens)


class SimulatedSampler:
    """In place of a `GroupSampler`."""

    def __init__(self, config: Config) -> None:
        limit = config.policy.max_completion_tokens
        self.training = ReadoutRequest(SamplingSpec(config.rapo.completions, 1.0, limit))

    def prepare(self, record: ImageRecord) -> SimpleNamespace:
        return SimpleNamespace(encoded=None)

    def seed(self, record: ImageRecord, step: int) -> int:
        return abs(hash((record.uid, step))) % 2**32

    def group(self, record: ImageRecord, step: int, image: SimpleNamespace, completions: Sequence[Completion]) -> Group:
        rng = np.random.default_rng(self.seed(record, step))
        versions = tuple(c.versions for c in completions)
        return Group(
            uid=f"{step}/{record.uid}",
            image_uid=record.uid,
            dataset=record.dataset,
            target=record.score,
            step=step,
            weight_version=min(int(v.min()) for v in versions),
            prompt_tokens=64,
            token_ids=tuple(c.token_ids for c in completions),
            logprobs=tuple(c.logprobs for c in completions if c.logprobs is not None),
            texts=tuple(format_completion("simulated", float(score)) for score in rng.uniform(size=len(completions))),
            finish_reasons=tuple(c.finish_reason for c in completions),
            token_versions=versions,
        )


def known_latency() -> Latency:
    """What the `LatencyBoard` says now."""
    ref: ray.ObjectRef[Latency] = ray.get_actor("latency").read.remote()
    return ray.get(ref, timeout=60)


class SimulatedWorker(RolloutWorker):
    """A rollout worker around a `SimulatedEngine`; `model_dir` is not read."""

    async def start(self, model_dir: str, version: int) -> None:
        latency = known_latency()
        slots = self._config.rollout.engine.max_num_seqs
        going_on = self._config.rapo.in_flight == "continue"
        thread = EngineThread(lambda: SimulatedEngine(latency, slots), continue_over_update=going_on)
        await asyncio.wrap_future(thread.started)
        self._engine_thread = thread
        # Not one of its subclasses: that would import torch.
        self._group_sampler = SimulatedSampler(self._config)  # type: ignore[assignment]

    async def load(self, chunks: Sequence[ray.ObjectRef[Chunk]], *manifests: WeightManifest) -> int:
        return await asyncio.wrap_future(self._engine.load(list, manifests[0].version))


class SimulatedLearner(Learner):
    """A learner rank that sleeps."""

    def start(self, model_dir: str, address: str, port: int, splits: int) -> RankInfo:
        self._latency = known_latency()
        return RankInfo(self._rank, "simulated", pid=0, chunks=int(self._rank == 0))

    def step(self, share: Share, uids: Sequence[str], *images: NDArray[np.uint8]) -> RankFigures:
        time.sleep(self._latency.learner_step)
        return RankFigures.of({"tokens": 1.0, "learning_rate": 0.0}, self._latency.learner_step)

    @ray.method(concurrency_group="publish")
    def publish(self, version: int) -> Iterator[Chunk | WeightManifest]:
        yield from self.publish_now(version)

    def publish_now(self, version: int) -> Iterator[Chunk | WeightManifest]:
        time.sleep(self._latency.publish)
        yield [np.zeros(4, np.uint8)]
        yield WeightManifest(version, (TensorSpec("w", (1,), "float32", 0, 0, 4, ""),), 1)

    def park(self) -> None:
        return None

    def copy_state(self) -> int:
        return 0

    @ray.method(concurrency_group="state")
    def state(self, copied: int) -> tuple[int, StateFiles]:
        return copied, {}

    def restore(self, *parts: StateFiles) -> int:
        return 0

    def save_model(self, folder: str, source: str, *parts: WeightManifest | Chunk) -> None:
        return None


@ray.remote(num_cpus=0)
class LatencyBoard:
    """Tells the simulated roles, by the name "latency", how long things take."""

    def __init__(self, latency: Latency) -> None:
        self._latency = latency

    def read(self) -> Latency:
        return self._latency

    def write(self, latency: Latency) -> None:
        """For the roles that are started from now on."""
        self._latency = latency
