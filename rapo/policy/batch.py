"""GroupBatch: groups as padded tensors, prompts padded on the left and completions on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from rapo.families.inputs import Prepared


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """G images with K completions each, as tensors.

    `prompt_ids` `(G, P)` are left-padded as `prompt_mask` says, `completion_ids` `(G, K, C)`
    right-padded as `completion_mask` says. `images` are the tensors of each image, and
    `token_types` `(G, P)` marks of the prompts' tokens by name (`rapo.families.inputs.Prepared`).
    `answer_places` `(A,)` are the places of answers' tokens among the completion tokens; None where
    their characters are not asked for.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    images: tuple[Mapping[str, torch.Tensor], ...]
    token_types: Mapping[str, torch.Tensor]
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    answer_places: torch.Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> GroupBatch:
        """The batch on `device`, its images in `dtype` where they are floating-point."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

        return replace(
            self,
            prompt_ids=self.prompt_ids.to(device),
            prompt_mask=self.prompt_mask.to(device),
            images=tuple({name: moved(tensor) for name, tensor in image.items()} for image in self.images),
            token_types={name: tensor.to(device) for name, tensor in self.token_types.items()},
            completion_ids=self.completion_ids.to(device),
            completion_mask=self.completion_mask.to(device),
            answer_places=None if self.answer_places is None else self.answer_places.to(device),
        )


def as_tensors(prepared: Prepared) -> dict[str, torch.Tensor]:
    """The tensors of an image, for its family's `merge`."""
    return {name: torch.from_numpy(array) for name, array in prepared.tensors.items()}


def collate(prepared: Sequence[Prepared], completions: Sequence[Sequence[NDArray[np.integer]]], pad: int) -> GroupBatch:
    """Pad G prepared images and their K completions (token ids, each at least one long) into one
    batch."""
    count, width = len(prepared), max(len(item.prompt_ids) for item in prepared)
    group_size = len(completions[0])
    # At least two: a batch of one-token completions would skip a pass that other ranks make, and
    # under ZeRO-3 the calls of all ranks must match.
    length = max(2, *(len(ids) for group in completions for ids in group))
    prompt_ids = np.full((count, width), pad, dtype=np.int64)
    prompt_mask = np.zeros((count, width), dtype=np.int64)
    completion_ids = np.full((count, group_size, length), pad, dtype=np.int64)
    completion_mask = np.zeros((count, group_size, length), dtype=bool)
    token_types = {name: np.zeros((count, width), np.int64) for name in prepared[0].token_types}
    for g, (item, group) in enumerate(zip(prepared, completions, strict=True)):
        prompt_ids[g, width - len(item.prompt_ids) :] = item.prompt_ids
        prompt_mask[g, width - len(item.prompt_ids) :] = 1
        for name, marks in item.token_types.items():
            token_types[name][g, width - len(marks) :] = marks
        for k, ids in enumerate(group):
            completion_ids[g, k, : len(ids)] = ids
            completion_mask[g, k, : len(ids)] = True
    return GroupBatch(
        prompt_ids=torch.from_numpy(prompt_ids),
        prompt_mask=torch.from_numpy(prompt_mask),
        images=tuple(as_tensors(item) for item in prepared),
        token_types={name: torch.from_numpy(marks) for name, marks in token_types.items()},
        completion_ids=torch.from_numpy(completion_ids),
        completion_mask=torch.from_numpy(completion_mask),
    )


def pack_rows(values: Sequence[Sequence[NDArray[np.floating]]], mask: torch.Tensor) -> torch.Tensor:
    """Per-token values of G x K completions, as flat float32 `(tokens,)` in the order of the tokens
    that `mask` selects.

    Raises `ValueError` where there are not as many values as tokens.
    """
    flat = np.concatenate([np.asarray(row, dtype=np.float32) for group in values for row in group])
    if len(flat) != int(mask.sum()):
        raise ValueError(f"{len(flat)} per-token values for {int(mask.sum())} completion tokens")
    return torch.from_numpy(flat)
