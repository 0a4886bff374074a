"""The group of learner ranks: started together, stepped together, published as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.learner import Learner
from cluster.remote.heartbeat import Heartbeat
from cluster.remote.waiting import wait, wait_each
from cluster.remote.weights import WeightVersion
from rapo.config import Config
from rapo.util.file_manifest import Entries

#: What else is looked after during a wait; it is given the refs that are pending, and returns soon.
Meanwhile = Callable[[Sequence[Any]], None]

_POLL_S = 2.0

#: Figures that every rank computes alike; the rest are sums over a rank's own tokens.
_SAME_ON_ALL = ("grad_norm", "learning_rate")


class LearnerGroup:
    """DeepSpeed ranks as Ray actors, of the class `learner`: they live and die together. `close`
    ends them."""

    def __init__(self, config: Config, learner: Any = Learner) -> None:
        self._config = config
        settings = config.learner
        environment = {"OMP_NUM_THREADS": str(settings.threads), "HF_HUB_OFFLINE": "1"}
        self._ranks = [
            learner.options(
                num_cpus=settings.cpus, num_gpus=settings.gpus, runtime_env={"env_vars": environment}
            ).remote(rank, config)
            for rank in range(settings.workers)
        ]
        self._names = [f"learner rank {rank}" for rank in range(settings.workers)]
        self._heartbeat = Heartbeat({}, settings.hang_timeout_s)
        self._chunks = 0
        self._gathering: list[Any] = []
        self.facts: list[dict[str, Any]] = []

    def start(self, model_dir: Path) -> list[Any]:
        """Begin to start all ranks on a model folder; the refs to wait for (see `ready`)."""
        limit = self._config.learner.start_timeout_s
        address, port = wait(self._ranks[0].rendezvous.remote(), role=self._names[0], timeout_s=limit)
        return [rank.start.remote(str(model_dir), address, port) for rank in self._ranks]

    def ready(self, started: Sequence[Any], meanwhile: Meanwhile | None = None) -> list[dict[str, Any]]:
        limit = self._config.learner.start_timeout_s
        facts = wait_each(started, roles=self._names, timeout_s=limit, meanwhile=meanwhile)
        self._names = [f"learner rank {fact['rank']} on {fact['node']}" for fact in facts]
        self._heartbeat = Heartbeat(
            dict(zip(self._names, self._ranks, strict=True)), self._config.learner.hang_timeout_s
        )
        self._chunks = facts[0]["chunks"]
        self.facts = facts
        return facts

    def _each(self, calls: Sequence[Any], meanwhile: Meanwhile | None = None) -> list[Any]:
        """The ranks' answers; a rank that hangs is found before the limit is."""

        def watch(pending: Sequence[Any]) -> None:
            self._heartbeat.check()
            if meanwhile is not None:
                meanwhile(pending)
            else:
                ray.wait(list(pending), num_returns=1, timeout=_POLL_S)

        limit = self._config.learner.step_timeout_s
        return wait_each(calls, roles=self._names[: len(calls)], timeout_s=limit, meanwhile=watch)

    def step(
        self,
        shares: Sequence[Any],
        images: Sequence[dict[str, Any]],
        meanwhile: Meanwhile | None = None,
    ) -> dict[str, float]:
        """One optimiser step. `shares` are refs, one per rank; `images` refs by uid, those that
        each rank needs."""
        calls = [
            rank.step.remote(share, list(wanted), *wanted.values())
            for rank, share, wanted in zip(self._ranks, shares, images, strict=True)
        ]
        return merge_metrics(self._each(calls, meanwhile))

    def states(self) -> list[tuple[Any, Any]]:
        """A receipt and a ref to the training state after the last step, of each rank; both are
        there before the next step ends."""
        return [tuple(rank.state.options(num_returns=2).remote()) for rank in self._ranks]

    def restore(self, states: Sequence[Any], meanwhile: Meanwhile | None = None) -> int:
        """Have all ranks go on from `states` (of as many ranks); the number of steps that these
        hold."""
        # What only rank 0 has written, all need.
        parts = [(states[0],) if rank == 0 else (states[0], states[rank]) for rank in range(len(self._ranks))]
        calls = [rank.restore.remote(*own) for rank, own in zip(self._ranks, parts, strict=True)]
        return int(self._each(calls, meanwhile)[0])

    def save_state(self, folder: Path) -> Entries:
        """Write the training state of all ranks into `folder`, which every rank's node must see;
        its files."""
        written = self._each([rank.save_state.remote(str(folder)) for rank in self._ranks])
        return {name: entry for part in written for name, entry in part.items()}

    def load_state(self, folder: Path, *, universal: bool = False) -> int:
        """Have all ranks go on from a folder that `save_state` wrote; the number of steps it
        holds."""
        return int(self._each([rank.load_state.remote(str(folder), universal=universal) for rank in self._ranks])[0])

    def publish(self, version: int, *, beside: bool = True) -> WeightVersion:
        """Have the weights of the last step published as `version`; returns at once, the refs fill
        up chunk by chunk.

        With `rapo.max_staleness` > 0 the next step runs `beside` it (see `published`), unless that
        is not wanted.
        """
        count = self._chunks + 1
        if beside and self._config.rapo.max_staleness > 0:
            refs = self._ranks[0].publish.options(num_returns=count).remote(version)
        else:
            refs = self._ranks[0].publish_now.options(num_returns=count).remote(version)
            if self._config.learner.zero_stage == 3:  # the ranks gather each parameter together
                self._gathering = [rank.gather.remote(version) for rank in self._ranks[1:]]
        return WeightVersion(version, refs[-1], tuple(refs[:-1]))

    def published(self, weights: WeightVersion, meanwhile: Meanwhile | None = None) -> None:
        """Wait until all of a version is in the object store. Raises `RoleError` where publishing
        failed."""
        calls, self._gathering = [weights.manifest, *self._gathering], []
        self._each(calls, meanwhile)

    def save_model(self, folder: Path, source: Path, weights: WeightVersion) -> None:
        """Write a version as a model folder; configuration and processor come from `source`."""
        self._each([self._ranks[0].save_model.remote(str(folder), str(source), weights.manifest, *weights.chunks)])

    def close(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []


def merge_metrics(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Per-token means from the ranks' sums; `loss`, `grad_norm` and `learning_rate` as they are.

    `mismatch_kl` is a mean over the tokens of the learner's own version, and missing where there
    are none; `fresh` is their share. `learner_busy_s` is what the ranks worked, on average.
    """
    sums: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums.get(key, 0.0) + value
    tokens, fresh = max(1.0, sums.pop("tokens", 0.0)), sums.pop("fresh_tokens", 0.0)
    mismatch, busy = sums.pop("mismatch_kl", 0.0), sums.pop("busy_seconds", 0.0)
    merged = {key: value / tokens for key, value in sums.items() if key not in (*_SAME_ON_ALL, "loss")}
    merged["loss"] = sums.get("loss", 0.0)
    if fresh:
        merged["mismatch_kl"] = mismatch / fresh
    merged |= {"fresh": fresh / tokens, "learner_busy_s": busy / len(parts)}
    merged |= {key: parts[0][key] for key in _SAME_ON_ALL if key in parts[0]}
    return merged
