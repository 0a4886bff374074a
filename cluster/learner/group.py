"""LearnerGroup: the DeepSpeed ranks, started, stepped and published together.

Calls that wait are generators (`cluster.remote.waiting`): `drive` or `finish` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import ray

from actors import run_files
from actors.learner import Learner
from actors.messages import RankFigures, RankInfo
from actors.state_copy import copy_on
from cluster.remote.actors import Launch, Launcher
from cluster.remote.heartbeat import Heartbeat
from cluster.remote.needs import bundle
from cluster.remote.placement import SharedRoom, await_placement, place, release, request_placement
from cluster.remote.waiting import Waiting, wait, wait_each
from cluster.remote.weight_source import Broadcast, Receivers, WeightVersion
from rapo.algorithm.partition import Share
from rapo.config import Config
from rapo.records import Chunk, Meeting, WeightManifest
from rapo.util.file_manifest import Entries

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from ray import ObjectRef
    from ray.actor import ActorHandle, ActorMethod

    from rapo.policy.state import StateFiles

T = TypeVar("T")

#: Refs to encoded images, by uid.
ImageRefs = Mapping[str, "ObjectRef[NDArray[np.uint8]]"]
#: A receipt and a ref to the files of one rank's training state.
RankState = tuple["ObjectRef[int]", "ObjectRef[StateFiles]"]


class LearnerGroup:
    """Ranks as Ray actors, which `launch` starts: they live and die together. `close` ends them. In
    a colocated run they are placed in `room`.

    `where` says at which URL the ranks find a folder of the run. What they make is then written by
    this process's node. Without it all of their nodes must see the run's folder.
    """

    def __init__(
        self,
        config: Config,
        launch: Launch = Launcher(Learner),
        room: SharedRoom | None = None,
        where: Callable[[Path], Path] | None = None,
    ) -> None:
        self._config = config
        self._where = where or Path
        self._node = None if where is None else ray.get_runtime_context().get_node_id()
        settings = config.learner
        environment = {"OMP_NUM_THREADS": str(settings.threads), "HF_HUB_OFFLINE": "1"}
        environment |= config.ray.environment("learner", settings.gpus)
        options: dict[str, object] = {
            "num_cpus": settings.cpus,
            "num_gpus": settings.gpus if room is None else room.rank_gpus,
            "runtime_env": {"env_vars": environment},
        }
        own = [bundle(settings.cpus, settings.gpus)] * settings.workers
        self._own = None if room else request_placement("learner", own, settings.labels, settings.placement)
        self._placement = room.group if room else self._own
        self._room = room
        bundles = range(settings.workers) if room is None else map(room.bundle_of, range(settings.workers))
        self._ranks: list[ActorHandle] = [
            launch(rank, config, options=options | place(self._placement, index, settings.labels))
            for rank, index in enumerate(bundles)
        ]
        self._names = [f"learner rank {rank}" for rank in range(settings.workers)]
        self._heartbeat = Heartbeat({}, settings.hang_timeout_s)
        self._publishing: list[tuple[str, ObjectRef]] = []
        #: What the ranks said of themselves when they were ready.
        self.ranks: list[RankInfo] = []

    def start(self, model_dir: Path, splits: int = 1) -> list[ObjectRef[RankInfo]]:
        """Begin to start all ranks on a model folder; the refs to wait for (see `ready`). Each
        micro-batch is computed in `splits` parts.

        Raises `RoleError` where the cluster has no room for all of them.
        """
        limit, room = self._config.learner.start_timeout_s, self._config.learner.place_timeout_s
        keys = "learner.workers, learner.cpus and learner.gpus, or change learner.placement"
        await_placement(self._placement, role="learner ranks", keys=keys, timeout_s=room)
        meeting: ObjectRef[tuple[str, int]] = self._ranks[0].rendezvous.remote()
        address, port = wait(meeting, role=self._names[0], timeout_s=limit)
        there = str(self._where(model_dir))
        return [rank.start.remote(there, address, port, splits) for rank in self._ranks]

    def ready(self, started: Sequence[ObjectRef[RankInfo]]) -> Waiting[list[RankInfo]]:
        settings = self._config.learner
        ranks = yield from wait_each(started, roles=self._names, timeout_s=settings.start_timeout_s)
        self._names = [f"learner rank {rank.rank} on {rank.node}" for rank in ranks]
        actors = dict(zip(self._names, self._ranks, strict=True))
        self._heartbeat = Heartbeat(actors, settings.hang_timeout_s, settings.progress_timeout_s)
        self.ranks = ranks
        if self._room is not None:
            self._room.settle(ranks)
        return ranks

    def _each(self, calls: Sequence[ObjectRef[T]], names: Sequence[str] | None = None) -> Waiting[list[T]]:
        """The answers of the ranks (of `names`, where these are given); a rank that hangs is found
        before the time limit is."""
        limit = self._config.learner.step_timeout_s
        roles = self._names[: len(calls)] if names is None else names
        return self._heartbeat.watch(wait_each(calls, roles=roles, timeout_s=limit))

    def step(self, shares: Sequence[ObjectRef[Share]], images: Sequence[ImageRefs]) -> Waiting[dict[str, float]]:
        """One optimiser step. `shares` has a ref for each rank, `images` those that it needs."""
        calls = [
            rank.step.remote(share, list(needed), *needed.values())
            for rank, share, needed in zip(self._ranks, shares, images, strict=True)
        ]
        return merge_figures((yield from self._each(calls)))

    def park(self) -> Waiting[None]:
        """Have all ranks leave their GPUs, after what they were asked for before. They come back
        with the next call that needs them there."""
        yield from self._each([rank.park.remote() for rank in self._ranks])

    def states(self) -> list[RankState]:
        """Each rank's training state after the last step. The next step waits until it is copied,
        and runs while the copies go to the object store."""
        copies: list[ObjectRef[int]] = [rank.copy_state.remote() for rank in self._ranks]
        return [
            cast("RankState", tuple(rank.state.options(num_returns=2).remote(copied)))
            for rank, copied in zip(self._ranks, copies, strict=True)
        ]

    def copies(self, states: Sequence[RankState]) -> list[RankState]:
        """The ranks' `states` once more, each on the next node of ranks; empty where they have one
        node. Steps may go on meanwhile."""
        nodes = list(dict.fromkeys(rank.node_id for rank in self.ranks))
        if len(nodes) < 2:
            return []
        following = dict(zip(nodes, [*nodes[1:], nodes[0]], strict=True))
        return [copy_on(following[rank.node_id], *state) for rank, state in zip(self.ranks, states, strict=True)]

    def restore(self, states: Sequence[ObjectRef[StateFiles]]) -> Waiting[int]:
        """Have all ranks go on from `states` (of as many ranks); the number of steps that these
        hold."""
        # Some files are written by rank 0 only, and all ranks need them.
        parts = [(states[0],) if rank == 0 else (states[0], states[rank]) for rank in range(len(self._ranks))]
        calls = [rank.restore.remote(*own) for rank, own in zip(self._ranks, parts, strict=True)]
        steps: list[int] = yield from self._each(calls)
        return steps[0]

    def write_state(self, folder: Path, states: Sequence[RankState]) -> Waiting[Entries]:
        """Write the ranks' `states` into `folder`; its files. Steps may go on meanwhile."""
        # Ray sends a call when it has what it is given, and the calls of steps only behind it.
        yield from self._each([receipt for receipt, _ in states])
        calls: list[ObjectRef[Entries]] = [
            self._write(rank.write_state, run_files.write_state)(str(folder), files)
            for rank, (_, files) in zip(self._ranks, states, strict=True)
        ]
        parts = yield from self._each(calls)
        return {name: entry for part in parts for name, entry in part.items()}

    def load_state(self, folder: Path, *, universal: bool = False) -> Waiting[int]:
        """Have all ranks go on from a folder that `write_state` wrote; the number of steps it
        holds."""
        there = str(self._where(folder))
        steps: list[int] = yield from self._each(
            [rank.load_state.remote(there, universal=universal) for rank in self._ranks]
        )
        return steps[0]

    def convert_state(self, folder: Path, target: Path) -> Waiting[None]:
        """Rewrite a saved state under `target`, for any number of ranks and any ZeRO stage. A rank
        does it, which has the memory for it, where its node sees the folder."""
        convert = self._write(self._ranks[0].convert_state, run_files.convert_state)
        yield from self._each([convert(str(folder), str(target), self._config.learner.step_timeout_s)])

    def publish(self, version: int, receivers: Receivers | None = None, *, beside: bool = True) -> WeightVersion:
        """Have the weights of the last step published as `version`, and sent to `receivers` first;
        returns at once, the refs fill up chunk by chunk.

        With `rapo.max_staleness` > 0 the next step runs beside it (see `published`), unless
        `beside` is false.
        """
        beside = beside and self._config.rapo.max_staleness > 0
        self._publishing = []
        broadcast = self._send(version, receivers, beside=beside) if receivers is not None else None
        manifests: list[ObjectRef[WeightManifest]] = []
        chunks: list[ObjectRef[Chunk]] = []
        for rank, info in zip(self._ranks, self.ranks, strict=True):
            if info.chunks:
                method: ActorMethod = rank.publish if beside else rank.publish_now
                refs: Sequence[ObjectRef] = method.options(num_returns=info.chunks + 1).remote(version)
                chunks += refs[:-1]
                manifests.append(refs[-1])
            elif not beside:
                self._gather(version, info.rank)
        return WeightVersion(version, tuple(manifests), tuple(chunks), broadcast)

    def _send(self, version: int, receivers: Receivers, *, beside: bool) -> Broadcast:
        store = self.ranks[0].weight_store
        if store is None:
            raise RuntimeError("this learner broadcasts no weights")
        senders = [info.rank for info in self.ranks if info.chunks]
        meeting = Meeting(*store, receivers.epoch, len(senders) + len(receivers.workers), len(senders))
        for rank, name in enumerate(self._names):
            if rank in senders:
                method: ActorMethod = self._ranks[rank].send if beside else self._ranks[rank].send_now
                self._publishing.append((name, method.remote(version, meeting, senders.index(rank))))
            elif not beside:
                self._gather(version, rank)
        return Broadcast(meeting, receivers)

    def _gather(self, version: int, rank: int) -> None:
        """Under ZeRO-3 the ranks gather each parameter together."""
        if self._config.learner.zero_stage == 3:
            self._publishing.append((self._names[rank], self._ranks[rank].gather.remote(version)))

    def published(self, weights: WeightVersion) -> Waiting[None]:
        """Wait until all of a version is in the object store, and its broadcast has ended. Raises
        `RoleError` where publishing failed."""
        publishers = [name for name, info in zip(self._names, self.ranks, strict=True) if info.chunks]
        pending = [*zip(publishers, weights.manifests, strict=True), *self._publishing]
        self._publishing = []
        yield from self._each([call for _, call in pending], [name for name, _ in pending])

    def save_model(self, folder: Path, source: Path, weights: WeightVersion) -> Waiting[None]:
        """Write a version as a model folder; configuration and processor come from `source`."""
        save = self._write(self._ranks[0].save_model, run_files.save_model)
        yield from self._each([save(str(folder), str(source), *weights.manifests, *weights.chunks)])

    def _write(self, by_rank: ActorMethod, on_driver: Callable[..., object]) -> Callable[..., ObjectRef]:
        """What writes into the run's folder: a rank, or a task on this process's node."""
        return by_rank.remote if self._node is None else run_files.on_node(self._node, on_driver)

    def close(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []
        if self._room is not None:
            self._room.settle(())
        release(self._own)
        self._own = self._placement = None


def merge_figures(parts: Sequence[RankFigures]) -> dict[str, float]:
    """The step's figures: means per token of the ranks' sums; `loss`, `grad_norm` and
    `learning_rate` as they are.

    `skipped` counts updates that were left out, and is missing where there are none.
    `mismatch_kl` is a mean over the tokens of the learner's own version, and missing where there
    are none; `fresh` is their share. `learner_busy_s` is the mean of the ranks' working time.
    """
    tokens = max(1.0, sum(part.tokens for part in parts))
    fresh = sum(part.fresh_tokens for part in parts)
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.token_sums.items():
            sums[name] = sums.get(name, 0.0) + value
    merged = {name: value / tokens for name, value in sums.items()}
    merged["loss"] = sum(part.loss for part in parts)
    if fresh:
        merged["mismatch_kl"] = sum(part.mismatch_kl for part in parts) / fresh
    merged["fresh"] = fresh / tokens
    merged["learner_busy_s"] = sum(part.busy_seconds for part in parts) / len(parts)
    if parts[0].grad_norm is not None:
        merged["grad_norm"] = parts[0].grad_norm
    merged["learning_rate"] = parts[0].learning_rate
    if parts[0].skipped:
        merged["skipped"] = parts[0].skipped
    return merged
