"""Rollout worker: a vLLM engine that draws groups and predictions from one verified weight version at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import ray

from rapo.config import Config
from rapo.records import ImageRecord, Prediction, WeightManifest


@ray.remote
class RolloutWorker:
    """`start` once, then `generate` and `predict`; `load` moves to another weight version.

    A failed `load` leaves the worker without a version: it then refuses to generate until a load succeeds.
    """

    def __init__(self, name: str, config: Config) -> None:
        self._name = name
        self._config = config
        self._version: int | None = None
        self._sampler: Any = None

    def start(self, model_dir: str, version: int) -> dict[str, Any]:
        """Start the engine on a model folder; what and where this worker is."""
        from rapo.inference.engine import Engine
        from rapo.inference.sampler import GroupSampler

        began = time.perf_counter()
        engine = Engine(model_dir, self._config.rollout.engine, dtype=self._config.policy.dtype)
        self._sampler = GroupSampler(engine, self._config)
        self._version = version
        return {"name": self._name, "node": socket.gethostname(), "pid": os.getpid(),
                "seconds": time.perf_counter() - began}  # fmt: skip

    def load(self, manifest: WeightManifest, *chunks: Any) -> int:
        """Verify and load a weight version; its number. Raises `WeightError` and serves nothing where it does not verify."""
        from rapo.policy.weights import unpack

        self._version = None
        self._sampler.engine.load(unpack(manifest, chunks))
        self._version = manifest.version
        return manifest.version

    def load_folder(self, folder: str, version: int) -> int:
        """Like `load`, from a model folder that this node can read."""
        from rapo.inference.folder import folder_tensors

        self._version = None
        self._sampler.engine.load(folder_tensors(folder))
        self._version = version
        return version

    def generate(self, records: Sequence[ImageRecord], step: int) -> tuple[Any, ...]:
        """`(receipt, group of record 0, group of record 1, ...)`; call with `num_returns = 1 + len(records)`.

        The receipt is small: who waits for it learns of a failure without fetching the groups.
        """
        began = time.perf_counter()
        groups = self._sampler.groups(records, step=step, version=self._require_version())
        return {"version": self._version, "seconds": time.perf_counter() - began}, *groups

    def predict(self, records: Sequence[ImageRecord]) -> list[Prediction]:
        """Greedy predictions for records."""
        return self._sampler.predictions(records, version=self._require_version())

    def _require_version(self) -> int:
        if self._version is None:
            raise RuntimeError(f"rollout worker {self._name} holds no verified weights; load a version first")
        return self._version
