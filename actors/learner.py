"""Learner rank: one process of the DeepSpeed world that trains the policy."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from rapo.balance import Share
from rapo.config import Config
from rapo.records import WeightManifest
from rapo.whole import whole_folder


@ray.remote
class Learner:
    """Rank `rank` of the learner. Rank 0 tells where the ranks meet (`rendezvous`), then all `start` together."""

    def __init__(self, rank: int, config: Config) -> None:
        self._rank = rank
        self._config = config
        self._trainer: Any = None

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a free port on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, model_dir: str, address: str, port: int) -> dict[str, Any]:
        from rapo.policy.distributed import Rank, join_world

        settings = self._config.learner
        join_world(Rank(self._rank, settings.workers, settings.threads, address, port, settings.step_timeout_s))
        from rapo.policy.trainer import PolicyTrainer

        self._trainer = PolicyTrainer(model_dir, self._config, world=settings.workers)
        return {"rank": self._rank, "node": socket.gethostname(), "pid": os.getpid()}

    def step(self, share: Share, images: dict[str, bytes]) -> dict[str, float]:
        """One optimiser step on this rank's share; `images` holds at least the images of its groups."""
        wanted = {scored.group.image_uid for scored in share.groups}
        return self._trainer.step(share, {uid: data for uid, data in images.items() if uid in wanted})

    def publish(self, version: int) -> Iterator[Any]:
        """Chunks, then the manifest, of the current weights; call with `num_returns="streaming"` on every rank."""
        yield from self._trainer.publish(version)

    def save_model(self, folder: str, source: str, manifest: WeightManifest, *chunks: Any) -> None:
        """Write a weight version as a model folder that transformers and vLLM load; it appears whole or not at all."""
        from rapo.policy.export import write_model

        with whole_folder(Path(folder)) as aside:
            write_model(aside, Path(source), manifest, chunks)
