"""The group of learner ranks: started together, stepped together, published as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.learner import Learner
from cluster.waiting import wait, wait_each
from cluster.weights import WeightVersion
from rapo.config import Config
from rapo.errors import RoleError

#: Figures that every rank computes alike; the rest are sums over a rank's own tokens.
_SAME_ON_ALL = ("grad_norm", "learning_rate")


class LearnerGroup:
    """DeepSpeed ranks as Ray actors. `close` ends them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        settings = config.learner
        environment = {"OMP_NUM_THREADS": str(settings.threads), "HF_HUB_OFFLINE": "1"}
        self._ranks = [
            Learner.options(  # type: ignore[attr-defined]
                num_cpus=settings.cpus, num_gpus=settings.gpus, runtime_env={"env_vars": environment}
            ).remote(rank, config)
            for rank in range(settings.workers)
        ]
        self._names = [f"learner rank {rank}" for rank in range(settings.workers)]

    def start(self, model_dir: Path) -> list[Any]:
        """Begin to start all ranks on a model folder; the refs to wait for (see `ready`)."""
        limit = self._config.learner.start_timeout_s
        address, port = wait(self._ranks[0].rendezvous.remote(), role=self._names[0], timeout_s=limit)
        return [rank.start.remote(str(model_dir), address, port) for rank in self._ranks]

    def ready(self, started: Sequence[Any]) -> list[dict[str, Any]]:
        facts = wait_each(started, roles=self._names, timeout_s=self._config.learner.start_timeout_s)
        self._names = [f"learner rank {fact['rank']} on {fact['node']}" for fact in facts]
        return facts

    def step(self, shares: Sequence[Any], images: Any) -> dict[str, float]:
        """One optimiser step. `shares` are refs, one per rank; `images` a ref to the encoded images by uid."""
        calls = [rank.step.remote(share, images) for rank, share in zip(self._ranks, shares, strict=True)]
        parts = wait_each(calls, roles=self._names, timeout_s=self._config.learner.step_timeout_s)
        return merge_metrics(parts)

    def publish(self, version: int) -> WeightVersion:
        """Publish the current weights as `version`; returns when all of it is in the object store."""
        # Under ZeRO-3 the ranks gather each parameter together; otherwise rank 0 has them all.
        ranks = self._ranks if self._config.learner.zero_stage == 3 else self._ranks[:1]
        streams = [rank.publish.options(num_returns="streaming").remote(version) for rank in ranks]
        refs = _drain(streams[0], self._names[0], self._config.learner.step_timeout_s)
        wait(refs[-1], role=self._names[0], timeout_s=self._config.learner.step_timeout_s)
        return WeightVersion(version, refs[-1], tuple(refs[:-1]))

    def save_model(self, folder: Path, source: Path, weights: WeightVersion) -> None:
        """Write a version as a model folder; configuration and processor come from `source`."""
        call = self._ranks[0].save_model.remote(str(folder), str(source), weights.manifest, *weights.chunks)
        wait(call, role=self._names[0], timeout_s=self._config.learner.step_timeout_s)

    def close(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []


def _drain(stream: Any, role: str, timeout_s: float) -> list[Any]:
    """All refs of a streaming call; the last one holds the error where the call failed."""
    refs: list[Any] = []
    while True:
        ready, _ = ray.wait([stream], timeout=timeout_s, fetch_local=False)
        if not ready:
            raise RoleError(f"{role} did not publish within {timeout_s:.0f} s")
        try:
            refs.append(next(stream))
        except StopIteration:
            return refs


def merge_metrics(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Per-token means from the ranks' sums; `loss`, `grad_norm` and `learning_rate` as they are."""
    sums: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums.get(key, 0.0) + value
    tokens = max(1.0, sums.pop("tokens", 0.0))
    merged = {key: value / tokens for key, value in sums.items() if key not in (*_SAME_ON_ALL, "loss")}
    merged["loss"] = sums.get("loss", 0.0)
    merged |= {key: parts[0][key] for key in _SAME_ON_ALL if key in parts[0]}
    return merged
