"""Draws groups and predictions from an engine, and turns them into records."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from rapo.answer import parse_answer
from rapo.cache import BytesLRU
from rapo.config import Config
from rapo.images import decode_image, read_image_bytes
from rapo.inference.engine import Engine, Sampling
from rapo.records import Group, ImageRecord, Prediction
from rapo.seeds import derive_seed

_CACHE_BYTES = 512 * 2**20


class GroupSampler:
    """`engine` with the run's sampling settings. Seeds come from (run seed, image uid, step, k)."""

    def __init__(self, engine: Engine, config: Config) -> None:
        self.engine = engine
        self._config = config
        limit = config.policy.max_completion_tokens
        self._training = Sampling(config.rapo.completions, config.rapo.sampling.temperature, limit)
        self._images: BytesLRU[Image.Image] = BytesLRU(_CACHE_BYTES, lambda image: image.width * image.height * 3)
        self._greedy = Sampling(1, 0.0, limit, logprobs=False)

    def _image(self, record: ImageRecord) -> Image.Image:
        """The record's picture at the model's own size, decoded once while it is kept."""
        limits = self._config.image
        return self._images.get(
            record.uid, lambda: self.engine.processor.fit(decode_image(read_image_bytes(record, limits), limits))
        )

    def groups(self, records: Sequence[ImageRecord], *, step: int, version: int) -> list[Group]:
        images = [self._image(r) for r in records]
        seeds = [derive_seed(self._config.run.seed, r.uid, step) for r in records]
        drawn = self.engine.generate(images, self._training, seeds)
        processor = self.engine.processor
        groups = []
        for record, image, completions in zip(records, images, drawn, strict=True):
            token_ids = tuple(c.token_ids for c in completions)
            groups.append(
                Group(
                    uid=f"{step}/{record.uid}",
                    image_uid=record.uid,
                    dataset=record.dataset,
                    target=record.score,
                    target_std=record.std,
                    step=step,
                    weight_version=version,
                    prompt_tokens=processor.prompt_length(image),
                    token_ids=token_ids,
                    logprobs=tuple(c.logprobs for c in completions if c.logprobs is not None),
                    texts=tuple(processor.decode(ids) for ids in token_ids),
                    finish_reasons=tuple(c.finish_reason for c in completions),
                )
            )
        return groups

    def predictions(self, records: Sequence[ImageRecord], *, version: int) -> list[Prediction]:
        images = [self._image(r) for r in records]
        drawn = self.engine.generate(images, self._greedy, [0] * len(images))
        predictions = []
        for record, completions in zip(records, drawn, strict=True):
            text = self.engine.processor.decode(completions[0].token_ids)
            answer = parse_answer(text, truncated=completions[0].finish_reason == "length")
            predictions.append(
                Prediction(
                    uid=record.uid,
                    dataset=record.dataset,
                    target=record.score,
                    score=answer.score,
                    text=text,
                    reason=answer.reason,
                    readout="greedy",
                    weight_version=version,
                )
            )
        return predictions
