"""GroupSampler: turns image records into engine requests, and results into groups and
predictions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from rapo.aescot.measure import measure
from rapo.algorithm.answer_path import LENGTH, path_nodes
from rapo.answers.answer_tokens import OPEN
from rapo.config import Config
from rapo.errors import ImageError
from rapo.families.inputs import EncodedImage
from rapo.images.decode import decode_image
from rapo.inference.reading import NoScore, ReadoutPlan
from rapo.inference.types import Completion, ReadoutRequest, ReadoutResult, SamplingSpec
from rapo.policy.processing import PolicyProcessor
from rapo.records import DIMENSIONS, AnswerNodes, Group, ImageRecord, Prediction
from rapo.util.cache import get_or_make
from rapo.util.seeds import derive_seed

_CACHE_BYTES = 512 * 2**20
#: Tokens before an answer that surely hold its opening tag.
_TAG_TOKENS = 12


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """An encoded image, and its measures `(5,)` in the order of `DIMENSIONS`, None where the reward
    does not ask for them."""

    encoded: EncodedImage
    measured: NDArray[np.float64] | None


class GroupSampler:
    """A run's sampling: `training` and `predicting` are what to request of the engine.

    `encode` is the engine's `encode`, for images under their uids. Seeds depend on (run seed, image
    uid, step, k), never on the worker.
    """

    def __init__(
        self, processor: PolicyProcessor, config: Config, encode: Callable[[NDArray[np.uint8], str], EncodedImage]
    ) -> None:
        self._processor = processor
        self._encode = encode
        self._config = config
        limit, rapo = config.policy.max_completion_tokens, config.rapo
        self._answers = rapo.reads_answers
        self.training = ReadoutRequest(
            SamplingSpec(rapo.completions, rapo.sampling.temperature, limit, symbols=self._answers)
        )
        evaluate = config.evaluate
        self._plan = ReadoutPlan(evaluate.readout, limit, evaluate.samples, rapo.sampling.temperature)
        self.predicting = self._plan.request()
        self._ready: LRUCache[str, ReadyImage] = LRUCache(_CACHE_BYTES, lambda image: image.encoded.nbytes)
        self._lock = threading.Lock()

    def prepare(self, record: ImageRecord) -> ReadyImage:
        """The record's image, encoded; the last 512 MiB of them are kept. Call it from any thread.

        Raises `ImageError` where the image is not usable.
        """
        with self._lock:
            return get_or_make(self._ready, record.uid, lambda: self._prepare(record))

    def _prepare(self, record: ImageRecord) -> ReadyImage:
        limits = self._config.image
        if record.data is None:  # a path is the driver's, and may mean nothing here
            raise ImageError(f"the image {record.uid} came without its bytes", reason="missing")
        pixels = np.array(decode_image(record.data, limits))
        measured = None
        if self._config.rapo.measures_images:
            values = measure(pixels)
            measured = np.array([values[name] for name in DIMENSIONS])
        return ReadyImage(self._encode(pixels, record.uid), measured)

    def seed(self, record: ImageRecord, step: int) -> int:
        """The seed of the first completion; completion k is sampled with this seed plus k."""
        return derive_seed(self._config.run.seed, record.uid, step)

    def group(self, record: ImageRecord, step: int, image: ReadyImage, completions: Sequence[Completion]) -> Group:
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
            prompt_tokens=len(image.encoded.prompt_ids),
            token_ids=token_ids,
            logprobs=tuple(c.logprobs for c in completions if c.logprobs is not None),
            texts=tuple(self._processor.decode(ids) for ids in token_ids),
            finish_reasons=tuple(c.finish_reason for c in completions),
            token_versions=versions if mixed else None,
            answers=tuple(self._answer(c) for c in completions) if self._answers else None,
            measured=image.measured,
        )

    def _answer(self, completion: Completion) -> AnswerNodes | None:
        """The last answer of two decimals in a completion, None where there is none behind its
        tag."""
        tokens = self._processor.answer_tokens
        pieces = [tokens.text(token_id) or " " for token_id in completion.token_ids.tolist()]
        starts = [start for start in range(len(pieces) - 1) if pieces[start] in {"0", "1"} and pieces[start + 1] == "."]
        if not starts or completion.symbols is None:
            return None
        start, end = starts[-1], starts[-1] + tokens.length
        text = "".join(pieces[start:end])
        if len(text) != LENGTH or not path_nodes(text):
            return None
        before = completion.token_ids[max(0, start - _TAG_TOKENS) : start]
        if not self._processor.decode(before).endswith(OPEN):
            return None
        return AnswerNodes(start, text, completion.symbols[start:end])

    def prediction(self, record: ImageRecord, result: ReadoutResult) -> Prediction:
        """The prediction that a result holds."""
        plan = self._plan
        text, version = "", None
        if result.completions:
            completion = result.completions[0]
            text = self._processor.decode(completion.token_ids)
            version = int(completion.versions.min()) if completion.versions.size else None
        try:
            reading = plan.read(result, self._processor.decode)
        except NoScore as error:
            return Prediction(record.uid, record.dataset, record.score, None, text, error.reason, plan.readout, version)
        return Prediction(
            uid=record.uid,
            dataset=record.dataset,
            target=record.score,
            score=reading.score,
            text=text,
            readout=plan.readout,
            weight_version=version,
            std=reading.std,
            forced=reading.forced,
        )
