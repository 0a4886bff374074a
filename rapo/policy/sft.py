"""SupervisedTrainer: one rank of the cold start, fine-tuning on critiques. No Ray.

With `coldstart.answer = "soft_label"` the tokens of the score learn a distribution around it
(`rapo.algorithm.soft_label`) instead of that one number, node by node on its path through the tree
of answers. All other tokens are trained alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rapo.algorithm.soft_label import joined_labels, soft_labels
from rapo.answers.answer_tokens import AnswerTokens
from rapo.answers.parse import format_completion
from rapo.answers.readout import NODES
from rapo.config import Config
from rapo.errors import ConfigError
from rapo.families.inputs import Prepared
from rapo.images.decode import decode_image
from rapo.policy.batch import collate
from rapo.policy.distributed import (
    OptimizerSettings,
    accumulate,
    checkpoint_activations,
    device,
    freeze_vision,
    torch_dtype,
    wrap,
)
from rapo.policy.example_batches import split_by_tokens, split_evenly
from rapo.policy.forward import GroupPolicy
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model
from rapo.policy.weight_packing import model_tensors
from rapo.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Example:
    """The inputs of one critique: the prepared image and the target's token ids `(tokens,)`, which
    end with the `score` in [0, 1]."""

    prepared: Prepared
    target: NDArray[np.int64]
    score: float

    @property
    def nbytes(self) -> int:
        return self.prepared.nbytes + self.target.nbytes


class SupervisedTrainer:
    """Trains the policy of `model_dir` to write critique and score.

    The process group must exist. `batch_per_rank` is the number of examples of a step on one of
    `world` ranks.
    """

    def __init__(self, model_dir: str, config: Config, *, world: int) -> None:
        self._config = config
        settings = config.coldstart
        self.processor = PolicyProcessor(
            model_dir, min_pixels=config.policy.min_pixels, max_pixels=config.policy.max_pixels
        )
        self._answers = self.processor.answer_tokens if settings.answer == "soft_label" else None
        symbols = self._answers.read if self._answers is not None else ()
        policy = GroupPolicy(load_model(model_dir, config.policy.dtype), [], packing=settings.packing, symbols=symbols)
        if settings.freeze_vision:
            freeze_vision(policy)
        if settings.gradient_checkpointing:
            checkpoint_activations(policy)
        optimizer = OptimizerSettings(
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            zero_stage=settings.zero_stage,
            steps=settings.steps,
            warmup_steps=settings.warmup_steps,
            schedule="cosine",
            offload=settings.offload,
        )
        self.engine = wrap(policy.to(device()), optimizer, dtype=config.policy.dtype)
        self.batch_per_rank = max(1, settings.batch_size // world)

    def example(self, image: bytes, critique: str, score: float) -> Example:
        """The example of an encoded image, its critique and its score in [0, 1].

        Raises `ImageError` where the image does not decode, and `ConfigError` where the configured
        lengths do not hold the example.
        """
        target = self.processor.encode_completion(format_completion(critique, score))
        example = Example(self.processor.prepare(decode_image(image, self._config.image)), target, score)
        longest, room = self._config.policy.max_completion_tokens, self._config.rollout.engine.max_model_len
        if len(target) > longest:
            raise ConfigError(
                f"a critique with its score has {len(target)} tokens, policy.max_completion_tokens is {longest}: every such "
                "answer would be cut and have no score. Raise it."
            )
        if len(example.prepared.prompt_ids) + longest > room:
            raise ConfigError(
                f"a prompt with its image has {len(example.prepared.prompt_ids)} tokens and the answer may have {longest}: "
                f"rollout.engine.max_model_len = {room} does not hold both. Raise it{self._or_shrink()}."
            )
        return example

    def _or_shrink(self) -> str:
        return ", or lower policy.max_pixels" if self.processor.family.limits_pixels else ""

    def step(self, examples: Sequence[Example]) -> float:
        """One optimiser step on this rank's examples; their mean negative log-likelihood per target
        token, in nats."""
        settings, tokens = self._config.coldstart, sum(len(e.target) for e in examples)
        parts: Sequence[Sequence[int]]
        if settings.micro_batch_tokens is None:
            parts = split_evenly(len(examples), settings.micro_batch_size)
        else:
            lengths = [len(e.prepared.prompt_ids) + len(e.target) for e in examples]
            parts = split_by_tokens(
                lengths,
                settings.micro_batch_size,
                settings.micro_batch_tokens,
                padded=self.engine.module.packing == "rows",
            )
        chosen = [[examples[index] for index in part] for part in parts]
        most = max(sum(len(e.target) for e in part) for part in chosen)
        self.engine.module.head_calls = self.engine.module.agreed_head_calls(most)
        return sum(accumulate(self.engine, [partial(self._loss, part, tokens) for part in chosen]))

    def _loss(self, examples: Sequence[Example], tokens: int) -> torch.Tensor:
        """The summed loss of a micro-batch over the token count of the whole batch."""
        batch = collate(
            [e.prepared for e in examples], [[e.target] for e in examples], self.processor.tokenizer.pad_token_id
        )
        labels = torch.zeros(0)
        if self._answers is not None:
            places, labels = soft_targets(examples, self._answers, self._config.coldstart.answer_std)
            batch = replace(batch, answer_places=places)
        batch = batch.to(device(), torch_dtype(self._config.policy.dtype))
        log_probs, _, symbols = self.engine(batch)
        if batch.answer_places is None or symbols is None:
            return -log_probs.sum() / tokens
        others = log_probs.index_fill(0, batch.answer_places, 0.0)
        return -(others.sum() + (labels.to(symbols.device) * symbols).sum()) / tokens

    def tensors(self) -> Iterator[tuple[str, torch.Tensor | None]]:
        """The trained parameters (see `rapo.policy.weight_packing.model_tensors`). Call it on all
        ranks together."""
        return model_tensors(self.engine.module.model)


def soft_targets(examples: Sequence[Example], answers: AnswerTokens, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The places int64 `(L E,)` of the scores' tokens among the target tokens of E examples, L
    each, and the soft labels float32 `(L E, S)` of width `std` of `AnswerTokens.read` at each."""
    make = joined_labels if answers.pairs else soft_labels
    labels = make([example.score for example in examples], std)
    places, rows, begin = [], [], 0
    for example, label in zip(examples, labels, strict=True):
        text = f"{example.score:.2f}"
        ids = np.asarray(answers.written(text)[: answers.length])
        starts = np.flatnonzero((sliding_window_view(example.target, len(ids)) == ids).all(axis=1))
        places.append(begin + starts[-1] + np.arange(len(ids)))
        rows.append(label[[NODES.index(text[:place]) for place in range(len(ids))]])
        begin += len(example.target)
    return torch.from_numpy(np.concatenate(places)), torch.from_numpy(np.concatenate(rows)).float()


def endless(epochs: Iterable[Iterable[Example]], size: int, budget_bytes: int, seed: int) -> Iterator[list[Example]]:
    """Batches of `size` examples, without end.

    Each item of `epochs` is one pass over the examples. If the first pass fits into `budget_bytes`,
    its examples are kept and reshuffled by `seed`; otherwise each pass is read, and batches may
    span two passes.
    """
    kept: list[Example] | None = []
    used, batch = 0, []
    stream = iter(epochs)
    while True:
        for example in next(stream):
            if kept is not None:
                used += example.nbytes
                if used <= budget_bytes:
                    kept.append(example)
                else:
                    kept = None
            batch.append(example)
            if len(batch) == size:
                yield batch
                batch = []
        if kept is not None:
            yield from _reshuffled(kept, size, seed)


def _reshuffled(examples: list[Example], size: int, seed: int) -> Iterator[list[Example]]:
    epoch, batch = 0, []
    while True:
        epoch += 1
        order = np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(len(examples))
        for index in order:
            batch.append(examples[index])
            if len(batch) == size:
                yield batch
                batch = []
