"""GroupSampler: turns image records into engine requests, and completions into groups and
predictions."""

from __future__ import annotations

import threading

import numpy as np
from cachetools import LRUCache

from rapo.answers.parse import parse_answer
from rapo.config import Config
from rapo.images.decode import decode_image, read_image_bytes
from rapo.inference.image_inputs import encode_image
from rapo.inference.types import Completion, EncodedImage, SamplingSpec
from rapo.policy.processing import PolicyProcessor
from rapo.records import Group, ImageRecord, Prediction
from rapo.util.cache import get_or_make
from rapo.util.seeds import derive_seed

_CACHE_BYTES = 512 * 2**20


class GroupSampler:
    """A run's sampling: `training` and `greedy` are what to request of the engine.

    Seeds depend on (run seed, image uid, step, k), never on the worker.
    """

    def __init__(self, processor: PolicyProcessor, config: Config) -> None:
        self._processor = processor
        self._config = config
        limit = config.policy.max_completion_tokens
        self.training = SamplingSpec(config.rapo.completions, config.rapo.sampling.temperature, limit)
        self.greedy = SamplingSpec(1, 0.0, limit, logprobs=False)
        self._encoded: LRUCache[str, EncodedImage] = LRUCache(_CACHE_BYTES, lambda encoded: encoded.patches.nbytes)
        self._lock = threading.Lock()

    def encode(self, record: ImageRecord) -> EncodedImage:
        """The record's image, encoded; the last 512 MiB of them are kept. Call it from any thread.

        Raises `ImageError` where the image is not usable.
        """
        limits = self._config.image
        with self._lock:
            return get_or_make(
                self._encoded,
                record.uid,
                lambda: encode_image(
                    self._processor, decode_image(read_image_bytes(record, limits), limits), record.uid
                ),
            )

    def seed(self, record: ImageRecord, step: int) -> int:
        """The seed of the first completion; completion k is sampled with this seed plus k."""
        return derive_seed(self._config.run.seed, record.uid, step)

    def group(self, record: ImageRecord, step: int, encoded: EncodedImage, completions: list[Completion]) -> Group:
        """The group of a record's completions in `step`."""
        token_ids = tuple(c.token_ids for c in completions)
        versions = tuple(c.versions for c in completions)
        oldest = min(int(v.min()) for v in versions)
        mixed = any(np.any(v != oldest) for v in versions)
        return Group(
            uid=f"{step}/{record.uid}",
            image_uid=record.uid,
            dataset=record.dataset,
            target=record.score,
            target_std=record.std,
            step=step,
            weight_version=oldest,
            prompt_tokens=len(encoded.prompt_ids),
            token_ids=token_ids,
            logprobs=tuple(c.logprobs for c in completions if c.logprobs is not None),
            texts=tuple(self._processor.decode(ids) for ids in token_ids),
            finish_reasons=tuple(c.finish_reason for c in completions),
            token_versions=versions if mixed else None,
        )

    def prediction(self, record: ImageRecord, completion: Completion) -> Prediction:
        """The prediction that a greedy completion holds."""
        text = self._processor.decode(completion.token_ids)
        answer = parse_answer(text, truncated=completion.finish_reason == "length")
        return Prediction(
            uid=record.uid,
            dataset=record.dataset,
            target=record.score,
            score=answer.score,
            text=text,
            reason=answer.reason,
            readout="greedy",
            weight_version=int(completion.versions.min()),
        )
