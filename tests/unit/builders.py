"""Builders: small images, groups and scored groups for tests."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from safetensors.numpy import save

from rapo.records import Group, ImageRecord, ScoredGroup

if TYPE_CHECKING:
    import torch

#: The texts, besides the prompt, that the tiny model's tokenizer is built from.
CLAUSES = ("the light is even; ", "a balanced composition; ", "colors are dull; ")


def make_image(width: int = 84, height: int = 84, seed: int = 0) -> Image.Image:
    """Noise, so that no two images look alike to a model."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels, "RGB")


def png(width: int = 84, height: int = 84, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    make_image(width, height, seed).save(stream, "PNG")
    return stream.getvalue()


def safetensors_bytes(*names: str) -> bytes:
    """A file of weights with a tensor `(2, 3)` under each name."""
    return save({name: np.ones((2, 3), np.float32) for name in names or ("weight",)})


def gathered(tensors: Iterable[tuple[str, torch.Tensor | None]]) -> dict[str, torch.Tensor]:
    """What `rapo.policy.weight_packing.model_tensors` yields, where every tensor is on this
    rank."""
    found = {}
    for name, tensor in tensors:
        assert tensor is not None, name
        found[name] = tensor
    return found


def record(uid: str, dataset: str = "scenes", score: float = 0.5) -> ImageRecord:
    return ImageRecord(uid, dataset, "train", score, score, (0.0, 1.0), data=b"")


def group(
    uid: str = "u",
    *,
    lengths: Sequence[int] = (3, 3),
    texts: Sequence[str] | None = None,
    finish: Sequence[str] | None = None,
    target: float = 0.5,
    target_std: float | None = None,
    prompt_tokens: int = 10,
    token_ids: Sequence[Sequence[int]] | None = None,
    logprobs: Sequence[Sequence[float]] | None = None,
    dataset: str = "scenes",
) -> Group:
    """A group whose completions have `lengths`, or exactly these tokens, texts and log-probs."""
    ids = token_ids if token_ids is not None else [[20 + i for i in range(n)] for n in lengths]
    values = logprobs if logprobs is not None else [[-1.0] * len(row) for row in ids]
    return Group(
        uid=f"0/{uid}",
        image_uid=uid,
        dataset=dataset,
        target=target,
        target_std=target_std,
        step=0,
        weight_version=0,
        prompt_tokens=prompt_tokens,
        token_ids=tuple(np.asarray(row, dtype=np.int32) for row in ids),
        logprobs=tuple(np.asarray(row, dtype=np.float32) for row in values),
        texts=tuple(texts if texts is not None else [""] * len(ids)),
        finish_reasons=tuple(finish if finish is not None else ["stop"] * len(ids)),
    )


def scored(made: Group, advantages: Sequence[float]) -> ScoredGroup:
    zeros = np.zeros(len(advantages))
    return ScoredGroup(made, zeros, zeros, np.asarray(advantages, dtype=np.float64))
