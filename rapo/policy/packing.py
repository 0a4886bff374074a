"""Packing: groups as one ragged sequence, with each image's prefix once and no padding.

- A flat sequence of T tokens holds the G prefixes and behind them the G x K completions, each
  without its last token, which predicts nothing.
- Every layer except attention treats each token alone, and so works on exactly these T tokens.
- Attention (`rapo.policy.attention`) reads the layout and lets a completion see its own prefix and
  itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from rapo.policy.batch import GroupBatch


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths in a flat sequence, and how they lie in a padded grid `(rows,
    width)`.

    `slots` `(tokens,)` are the indices of the grid's cells that hold a token, in flat order; None
    where every cell does.
    """

    rows: int
    width: int
    slots: torch.Tensor | None

    @staticmethod
    def of(lengths: torch.Tensor) -> Ragged:
        """The grid of rows of `lengths` `(rows,)`, on the device of the sequence."""
        width = int(lengths.max())
        if bool((lengths == width).all()):
            return Ragged(len(lengths), width, None)
        mask = torch.arange(width, device=lengths.device) < lengths[:, None]
        return Ragged(len(lengths), width, mask.flatten().nonzero()[:, 0])

    def pad(self, flat: torch.Tensor) -> torch.Tensor:
        """`(tokens, ...)` to `(rows, width, ...)`, zero where there is no token."""
        if self.slots is None:
            return flat.unflatten(0, (self.rows, self.width))
        grid = flat.new_zeros(self.rows * self.width, *flat.shape[1:]).index_copy(0, self.slots, flat)
        return grid.unflatten(0, (self.rows, self.width))

    def unpad(self, grid: torch.Tensor) -> torch.Tensor:
        """`(rows, width, ...)` to `(tokens, ...)`."""
        flat = grid.flatten(0, 1)
        return flat if self.slots is None else flat.index_select(0, self.slots)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences one behind the other in a flat sequence, as kernels without padding take them.

    `offsets` int32 `(sequences + 1,)`, on the device of the tokens, are where each begins and where
    the last one ends. `longest` is the length of the longest.
    """

    offsets: torch.Tensor
    longest: int

    @staticmethod
    def of(lengths: torch.Tensor) -> Sequences:
        """Sequences of `lengths` `(sequences,)`, which may be 0."""
        return Sequences(pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)), int(lengths.max()))


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of prefixes and completions in the flat sequence.

    `prefix` has G rows. `completions` has G * K rows, those of one image next to each other; it is
    None where every completion has one token. `prefix_mask` `(G, 1, 1, P)` is False at padding; it
    is None where no prefix is padded.

    The same without padding: `sequences` are the G prefixes and the G * K completions, `prefixes`
    the first of them, and `behind` the completions of each image as one sequence, counted from the
    end of the prefixes.
    """

    group_size: int
    prefix_tokens: int
    prefix: Ragged
    completions: Ragged | None
    prefix_mask: torch.Tensor | None
    sequences: Sequences
    prefixes: Sequences
    behind: Sequences

    @staticmethod
    def of(prompts: torch.Tensor, fed: torch.Tensor) -> Layout:
        """The layout of prompts of `prompts` `(G,)` tokens and of completions of which `fed` `(G,
        K)` tokens are read."""
        own = fed.flatten()
        prefix = Ragged.of(prompts)
        mask = torch.arange(prefix.width, device=prompts.device) < prompts[:, None]
        return Layout(
            group_size=fed.shape[1],
            prefix_tokens=int(prompts.sum()),
            prefix=prefix,
            completions=Ragged.of(own) if int(own.max()) else None,
            prefix_mask=None if prefix.slots is None else mask[:, None, None],
            sequences=Sequences.of(torch.cat([prompts, own])),
            prefixes=Sequences.of(prompts),
            behind=Sequences.of(fed.sum(1)),
        )


@dataclass(frozen=True, slots=True)
class Packed:
    """A `GroupBatch` as one sequence: `ids` `(T,)` and `positions` `(axes, T)`.

    `predictor` `(tokens,)` is the flat index whose hidden state predicts each completion token, in
    the order in which `batch.completion_mask` selects them.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predictor: torch.Tensor
    layout: Layout


def pack_groups(batch: GroupBatch, prompt_positions: torch.Tensor) -> Packed:
    """Pack `batch`; `prompt_positions` `(axes, G, P)` are the rotary positions of its padded
    prompts."""
    group_size = batch.completion_ids.shape[1]
    prompt_mask = batch.prompt_mask.bool()
    prompt_lengths = prompt_mask.sum(1)
    inputs = batch.completion_mask.sum(2) - 1
    layout = Layout.of(prompt_lengths, inputs)
    inputs = inputs.flatten()
    # An image may advance the position by its longer side only, so that the position after a prompt
    # is not its length.
    start = prompt_positions.masked_fill(~prompt_mask, -1).amax(dim=(0, 2)) + 1

    fed = batch.completion_mask.flatten(0, 1)[:, 1:]  # a completion of n tokens contributes its first n - 1
    ids = torch.cat([batch.prompt_ids[prompt_mask], batch.completion_ids.flatten(0, 1)[:, :-1][fed]])
    own = (start.repeat_interleave(group_size)[:, None] + torch.arange(fed.shape[1], device=ids.device))[fed]
    positions = torch.cat([prompt_positions[:, prompt_mask], own.expand(len(prompt_positions), -1)], dim=1)

    # The last token of the prefix predicts the first of a completion; each token predicts the next.
    first = (prompt_lengths.cumsum(0) - 1).repeat_interleave(group_size)
    before = layout.prefix_tokens + inputs.cumsum(0) - inputs
    within = torch.arange(batch.completion_mask.shape[2], device=ids.device)
    grid = torch.where(within == 0, first[:, None], before[:, None] + within - 1)
    return Packed(ids, positions, grid[batch.completion_mask.flatten(0, 1)], layout)
