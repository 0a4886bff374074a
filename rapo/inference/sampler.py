"""GroupSampler: turns image records into engine requests, and completions into groups and
predictions."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray
from cachetools import LRUCache

from rapo.answers.parse import parse_answer
from rapo.config import Config
from rapo.images.decode import decode_image, read_image_bytes
from rapo.inference.image_inputs import encode_image
from rapo.answers.answer_tokens import OPEN, answer_tokens
from rapo.inference.types import Completion, EncodedImage, ReadoutRequest, ReadoutResult, SamplingSpec
from rapo.aescot.measure import measure
from rapo.algorithm.answer_path import follows_path
from rapo.policy.processing import PolicyProcessor
from rapo.records import DIMENSIONS, AnswerNodes, Group, ImageRecord, Prediction
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
        self._answers = config.rapo.loss.answer != "sampled"
        self.training = ReadoutRequest(
            SamplingSpec(config.rapo.completions, config.rapo.sampling.temperature, limit, characters=self._answers)
        )
        self.greedy = ReadoutRequest(SamplingSpec(1, 0.0, limit, logprobs=False), tree=True)
        tokenizer = processor.tokenizer
        self._tokens = answer_tokens(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
        self._measured: dict[str, NDArray[np.float64]] = {}
        self._encoded: LRUCache[str, EncodedImage] = LRUCache(_CACHE_BYTES, lambda encoded: encoded.patches.nbytes)
        self._lock = threading.Lock()

    def encode(self, record: ImageRecord) -> EncodedImage:
        """The record's image, encoded; the last 512 MiB of them are kept. Call it from any thread.

        Raises `ImageError` where the image is not usable.
        """
        limits = self._config.image

        def make() -> EncodedImage:
            image = decode_image(read_image_bytes(record, limits), limits)
            if self._config.rapo.reward.weight_grounded and record.uid not in self._measured:
                values = measure(np.asarray(image))
                self._measured[record.uid] = np.array([values[name] for name in DIMENSIONS])
            return encode_image(self._processor, image, record.uid)

        with self._lock:
            return get_or_make(self._encoded, record.uid, make)

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
            answers=tuple(self._answer(c) for c in completions) if self._answers else None,
            measured=self._measured.get(record.uid),
        )

    def _answer(self, completion: Completion) -> AnswerNodes | None:
        """The path of a completion's answer, None where it has none of the form 0.de."""
        assert completion.characters is not None
        ids = completion.token_ids.tolist()
        written = [self._tokens.character(i) or " " for i in ids]
        text = "".join(written)
        at = text.rfind("0.")
        if at < 0 or not follows_path(text[at : at + 4].strip()):
            return None
        before = self._processor.decode(completion.token_ids[max(0, at - 12) : at])
        if not before.endswith(OPEN):
            return None
        return AnswerNodes(at, text[at : at + 4], completion.characters[at : at + 4])

    def prediction(self, record: ImageRecord, result: ReadoutResult) -> Prediction:
        """The prediction that a readout holds."""
        completion = result.completions[0]
        text = self._processor.decode(completion.token_ids)
        answer = parse_answer(text, truncated=completion.finish_reason == "length")
        if result.tree is not None:
            expected = result.tree.expectation()
            return Prediction(
                uid=record.uid,
                dataset=record.dataset,
                target=record.score,
                score=expected.mean,
                text=text,
                readout="expected",
                weight_version=int(completion.versions.min()),
            )
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
