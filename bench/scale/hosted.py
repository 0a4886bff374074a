"""Hundreds of simulated rollout workers in a few processes, for the question what the controller
costs at their number.

`HostedWorkers` takes the place of the launcher: it gives handles with the methods that the fleet
calls. Each call is a real call of a real Ray actor, which hosts many workers and
sleeps instead of computing. So the driver pays what it would pay for as many actors, but for their
connections: it has one to each host.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import ray

from actors.messages import GroupReceipt, ProcessInfo
from bench.support.simulated import SimulatedSampler, completion
from cluster.remote.actors import Launcher
from rapo.config import Config
from rapo.records import Group, ImageRecord, WeightManifest

#: How much slower than others a straggling worker is.
SLOWER = 10.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: `group` is the mean from request to group, its log normal with sd `spread`; `load` a
    weight load; `network` what is added to each call. `tokens` of each completion. Of `slow_every`
    workers one takes `SLOWER` times as long, of 0 none."""

    group: float
    load: float = 0.1
    network: float = 0.0
    spread: float = 0.3
    tokens: int = 32
    slow_every: int = 0

    def group_of(self, worker: int) -> float:
        """The mean of a worker's groups."""
        return self.group * (SLOWER if self.slow_every and worker % self.slow_every == 0 else 1.0)


class Host:
    """Workers that sleep, by number."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"num_cpus": 0, "max_concurrency": 100_000}

    def __init__(self, config: Config, timing: Timing) -> None:
        self._timing = timing
        self._sampler = SimulatedSampler(config)
        self._completions = config.rapo.completions
        self._versions: dict[int, int] = {}
        self._busy: dict[int, float] = {}

    async def hello(self, worker: int) -> ProcessInfo:
        return ProcessInfo(f"host of {os.getpid()}", os.getpid())

    async def start(self, worker: int, model_dir: str, version: int) -> None:
        self._versions[worker] = version

    async def ping(self, worker: int) -> None:
        return None

    async def load(self, worker: int, manifest: WeightManifest, chunks: Sequence[Any]) -> int:
        for chunk in chunks:
            await chunk
        await asyncio.sleep(self._timing.load + self._timing.network)
        self._versions[worker] = max(self._versions[worker], manifest.version)
        return self._versions[worker]

    @ray.method(num_returns=2)
    async def generate(self, worker: int, record: ImageRecord, data: Any, step: int) -> tuple[GroupReceipt, Group]:
        version, timing = self._versions[worker], self._timing
        spread = timing.spread
        rng = np.random.default_rng(self._sampler.seed(record, step) ^ worker)
        seconds = timing.group_of(worker) * float(rng.lognormal(-(spread**2) / 2, spread))
        await asyncio.sleep(seconds + timing.network)
        sampled = [completion([version] * timing.tokens) for _ in range(self._completions)]
        group = self._sampler.group(record, step, self._sampler.prepare(record), sampled)
        self._busy[worker] = self._busy.get(worker, 0.0) + seconds / 4
        receipt = GroupReceipt(
            version=version,
            tokens=timing.tokens * self._completions,
            seconds=seconds,
            busy_seconds=self._busy[worker],
            worker=f"rollout-{worker}",
        )
        return receipt, group


class HostedWorkers:
    """Starts hosted workers, as a `Launcher` starts actors."""

    def __init__(self, timing: Timing, per_host: int) -> None:
        self._timing = timing
        self._per_host = per_host
        self._hosts: dict[Any, int] = {}
        self._number = 0

    def __call__(self, *arguments: object, options: Mapping[str, object]) -> Any:
        """A `Hosted` of `(name, config)`; it has the methods of an actor's handle."""
        _, config = arguments
        assert isinstance(config, Config)
        host = next((host for host, count in self._hosts.items() if count < self._per_host), None)
        if host is None:
            host = Launcher(Host)(config, self._timing, options={})
            self._hosts[host] = 0
        self._hosts[host] += 1
        self._number += 1
        return Hosted(self, host, self._number)

    def preempt(self, share: float) -> int:
        """Kill a share of the hosts at once, as a cloud takes machines back; how many."""
        taken = list(self._hosts)[: round(share * len(self._hosts))]
        for host in taken:
            del self._hosts[host]
            ray.kill(host)
        return len(taken)

    def release(self, host: Any) -> None:
        if host in self._hosts:
            self._hosts[host] -= 1

    def close(self) -> None:
        for host in self._hosts:
            ray.kill(host)
        self._hosts = {}


class Hosted:
    """Handle of one worker."""

    def __init__(self, workers: HostedWorkers, host: Any, number: int) -> None:
        self._workers = workers
        self._host = host
        self._number = number

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._host, name), self._number)

    def end(self) -> None:
        self._workers.release(self._host)


class _Method:
    def __init__(self, method: Any, number: int) -> None:
        self._method = method
        self._number = number

    def remote(self, *arguments: Any) -> Any:
        return self._method.remote(self._number, *arguments)


@contextmanager
def hosted_handles() -> Iterator[None]:
    """Inside, `ray.kill` of a hosted worker's handle ends that worker and not its host."""
    kill = ray.kill

    def end(actor: Any, **options: Any) -> None:
        if isinstance(actor, Hosted):
            actor.end()
        else:
            kill(actor, **options)

    with mock.patch.object(ray, "kill", end):
        yield
