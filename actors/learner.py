"""Learner rank: one process of the DeepSpeed world that trains the policy."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import ray
from numpy.typing import NDArray

from actors import run_files
from actors.messages import RankFigures, RankInfo
from rapo.algorithm.partition import Share
from rapo.config import Config
from rapo.errors import WeightError
from rapo.policy.meeting import host, listen, reach
from rapo.records import Chunk, Meeting, WeightManifest
from rapo.util.devices import require_device
from rapo.util.file_manifest import Entries
from rapo.util.garbage import collector_off
from rapo.util.progress import Progress

if TYPE_CHECKING:
    from rapo.policy.broadcast.weight_group import WeightGroup
    from rapo.policy.state import StateFiles
    from rapo.policy.trainer import PolicyTrainer


class Learner:
    """Rank `rank` of the learner. Rank 0 tells where the ranks meet (`rendezvous`), then all
    `start` together.

    Calls run one after the other, except that `send` and `publish` of a snapshot, `state` of a copy
    and `write_state` run beside the next steps, and `ping` beside anything.
    """

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {
        "concurrency_groups": {"publish": 1, "state": 1, "disk": 1, "health": 1}
    }

    def __init__(self, rank: int, config: Config) -> None:
        self._rank = rank
        self._config = config
        self._started: PolicyTrainer | None = None
        self._weight_group: WeightGroup | None = None
        self._progress = Progress()
        self._listener: socket.socket | None = None

    @property
    def _trainer(self) -> PolicyTrainer:
        if self._started is None:
            raise RuntimeError(f"learner rank {self._rank} was not started")
        return self._started

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a port on it, at which this process listens from now on."""
        self._listener = listen(ray.util.get_node_ip_address())
        address, port = self._listener.getsockname()[:2]
        return address, port

    def start(self, model_dir: str, address: str, port: int, splits: int) -> RankInfo:
        """Join the other ranks and load the model of a folder or a URL. Each micro-batch is
        computed in `splits` parts."""
        with collector_off():
            from rapo.policy.distributed import Rank, join_world

            settings = self._config.learner
            require_device(settings.gpus, "learner.gpus")
            limit = settings.step_timeout_s
            meeting = reach(address, port, limit) if self._listener is None else host(self._listener, limit)
            join_world(Rank(self._rank, settings.workers, settings.threads, limit), meeting)
            from rapo.policy.trainer import PolicyTrainer

            here = run_files.folder_here(model_dir, self._config.storage.scratch)
            trainer = PolicyTrainer(
                str(here), self._config, world=settings.workers, splits=splits, progress=self._progress
            )
        self._started = trainer
        return RankInfo(
            self._rank,
            socket.gethostname(),
            os.getpid(),
            trainer.published_chunks,
            trainer.packing_fallback,
            trainer.state_bytes,
            self._host_weights(),
            ray.get_runtime_context().get_node_id(),
            os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        )

    def _host_weights(self) -> tuple[str, int] | None:
        if self._config.rollout.weight_transport != "broadcast":
            return None
        from rapo.policy.broadcast.weight_group import WeightGroup

        self._weight_group = WeightGroup(self._config.rollout.broadcast_timeout_s)
        if self._rank != 0:
            return None
        address = ray.util.get_node_ip_address()
        return address, self._weight_group.host(address)

    def step(self, share: Share, uids: Sequence[str], *images: NDArray[np.uint8]) -> RankFigures:
        """One optimiser step on this rank's share; `images` are the encoded images of `uids`, those
        of its groups."""
        began = time.perf_counter()
        encoded = {uid: data.tobytes() for uid, data in zip(uids, images, strict=True)}
        totals = self._trainer.step(share, encoded)
        if self._config.rapo.max_staleness > 0:
            self._trainer.snapshot(self._trainer.version)
        return RankFigures.of(totals, time.perf_counter() - began)

    @ray.method(concurrency_group="publish")
    def publish(self, version: int) -> Iterator[Chunk | WeightManifest]:
        """Chunks, then the manifest, of this rank's share of a version that was snapshot; call with
        `num_returns = chunks + 1`."""
        yield from self._trainer.publish(version)

    def publish_now(self, version: int) -> Iterator[Chunk | WeightManifest]:
        """The same of the current weights, in turn with the steps. Under ZeRO-3 ranks without a
        share must `gather` meanwhile."""
        with self._progress.working():
            yield from self._trainer.publish(version)

    @ray.method(concurrency_group="publish")
    def send(self, version: int, meeting: Meeting, member: int) -> str | None:
        """Broadcast this rank's share of a version that was snapshot to the workers that come to
        `meeting`. What went wrong, None where nothing did: those workers find that out by
        themselves."""
        return self._send(version, meeting, member)

    def send_now(self, version: int, meeting: Meeting, member: int) -> str | None:
        """The same of the current weights, in turn with the steps. Under ZeRO-3 ranks without a
        share must `gather` meanwhile."""
        return self._send(version, meeting, member)

    def _send(self, version: int, meeting: Meeting, member: int) -> str | None:
        from rapo.policy.broadcast.weight_broadcast import send

        if self._weight_group is None:
            raise RuntimeError(f"learner rank {self._rank} broadcasts no weights")
        tensors = self._trainer.weights(version, on_host=False)
        # Another look would gather on, with ranks that wait for this one's last bucket.
        share = itertools.islice(tensors, self._trainer.published_tensors)
        wrong = None
        try:
            send(self._weight_group, meeting, member, version, share, self._config.learner.chunk_mib * 2**20)
        except WeightError as error:
            wrong = str(error)
        for _ in tensors:  # the other ranks gather to the end
            pass
        return wrong

    def gather(self, version: int) -> None:
        """Take part in the others' `publish_now` or `send_now`."""
        with self._progress.working():
            for _ in self._trainer.weights(version):
                pass

    @ray.method(concurrency_group="health")
    def ping(self) -> float:
        """Answers as long as the process runs: how long it has been at its present micro-batch, in
        seconds; 0 without one."""
        return self._progress.stalled_s

    def park(self) -> None:
        """Move this rank's tensors to the host's memory, until a call needs them."""
        with self._progress.working():
            self._trainer.park()

    def copy_state(self) -> int:
        """Copy this rank's training state, all ranks together; the copy's number (see `state`). The
        next step may run as soon as the copy is made."""
        with self._progress.working():
            return self._trainer.copy_state()

    @ray.method(concurrency_group="state")
    def state(self, copied: int) -> tuple[int, StateFiles]:
        """A copied state, beside the steps that follow: the copy's number and the files, an object
        each (`num_returns=2`)."""
        return copied, self._trainer.pack_state(copied)

    @ray.method(concurrency_group="disk")
    def write_state(self, folder: str, files: StateFiles) -> Entries:
        """Write this rank's `state` into a folder that all ranks share, beside the steps that
        follow; the files, which are then on the disk."""
        return run_files.write_state(folder, files)

    def restore(self, *parts: StateFiles) -> int:
        """Go on from this rank's `state` and, on other ranks than 0, rank 0's as well; the number
        of steps it holds."""
        self._trainer.unpack_state(*parts)
        return self._trainer.version

    def load_state(self, folder: str, *, universal: bool) -> int:
        """Go on from a folder or a URL; the number of steps that its state holds."""
        with run_files.state_here(folder, self._config.storage.scratch) as here:
            self._trainer.load_state(here, universal=universal)
        return self._trainer.version

    def convert_state(self, folder: str, target: str, timeout_s: float) -> None:
        """Rewrite the state of all ranks in a folder that this node can read, for a world of any
        size and ZeRO stage."""
        run_files.convert_state(folder, target, timeout_s)

    def save_model(self, folder: str, source: str, *parts: WeightManifest | Chunk) -> None:
        """Write a weight version, `parts` of which are its manifests and chunks, as a model folder
        that transformers and vLLM load; it appears whole or not at all."""
        run_files.save_model(folder, source, *parts)
