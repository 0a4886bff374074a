"""Partition: splits scored groups over learner ranks, so that no rank waits long for another, and a
rank's groups over its micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rapo.records import ScoredGroup


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's share of a batch: its groups, and the counts `completions` and `tokens` of the
    whole batch, by which every rank divides.

    All ranks run `micro_batches` micro-batches, because their collective calls must match. A
    micro-batch without groups contributes nothing. With `by_tokens` micro-batches are alike in
    tokens, else in groups. With `rows` each completion has a prompt of its own, and a micro-batch
    is as wide as its widest group: groups that are alike in width come together.
    """

    groups: tuple[ScoredGroup, ...]
    micro_batches: int
    completions: int
    tokens: int
    by_tokens: bool = False
    rows: bool = False

    def parts(self, splits: int = 1) -> list[Sequence[ScoredGroup]]:
        """The groups of each micro-batch, each in `splits` parts. Parts may be empty."""
        count = self.micro_batches * splits
        return _parts(self.groups, count, by_tokens=self.by_tokens, rows=self.rows)


def part_cost(groups: Sequence[ScoredGroup], *, rows: bool) -> int:
    """The number of tokens that the learner computes for the groups of a micro-batch: each prefix
    once, each completion once. In `rows` the prefix comes with each completion, and all are padded
    to the widest prompt and the longest completion."""
    if not groups:
        return 0
    lengths = [len(ids) for one in groups for ids in one.group.token_ids]
    prompts = [one.group.prompt_tokens for one in groups]
    return len(lengths) * (max(prompts) + max(lengths)) if rows else sum(prompts) + sum(lengths)


def _parts(groups: Sequence[ScoredGroup], count: int, *, by_tokens: bool, rows: bool) -> list[Sequence[ScoredGroup]]:
    if by_tokens and not rows:
        return balanced(groups, count, rows=rows)

    def width(one: ScoredGroup) -> int:  # so that padding is short
        return one.group.prompt_tokens + (max(map(len, one.group.token_ids)) if rows else 0)

    ordered = sorted(groups, key=width)
    bounds = [round(i * len(ordered) / count) for i in range(count + 1)]
    return [ordered[a:b] for a, b in pairwise(bounds)]


def balanced(groups: Sequence[ScoredGroup], count: int, *, rows: bool) -> list[Sequence[ScoredGroup]]:
    """`groups` in `count` parts of about as many tokens, counted for each group by itself: the
    longest group first, each to the part with the fewest tokens so far."""
    parts: list[list[ScoredGroup]] = [[] for _ in range(count)]
    loads = [0] * count
    costs = [(part_cost([one], rows=rows), one) for one in groups]
    for cost, scored in sorted(costs, key=lambda pair: (-pair[0], pair[1].group.uid)):
        lightest = loads.index(min(loads))
        parts[lightest].append(scored)
        loads[lightest] += cost
    return list(parts)


def share_out(
    groups: Sequence[ScoredGroup],
    *,
    ranks: int,
    micro_batch_groups: int,
    micro_batch_tokens: int | None = None,
    keep_flat: bool = False,
    rows: bool = False,
) -> list[Share]:
    """One share per rank, `balanced` by the tokens that the learner computes, in `rows` or packed.

    A micro-batch holds at most `micro_batch_groups` groups and `micro_batch_tokens` tokens; a
    longer group has one of its own. A group whose advantages are all zero has no policy gradient
    and is left out, unless `keep_flat` (because another part of the loss acts on it). It still
    counts in `completions` and `tokens`.
    """
    completions = sum(len(g.advantages) for g in groups)
    tokens = sum(len(ids) for g in groups for ids in g.group.token_ids)
    useful = [g for g in groups if keep_flat or np.any(g.advantages)]
    bins = balanced(useful, ranks, rows=rows)
    micro_batches = max(1, math.ceil(max(len(b) for b in bins) / micro_batch_groups))
    if micro_batch_tokens is not None:
        micro_batches = max(_fewest(b, micro_batches, micro_batch_groups, micro_batch_tokens, rows=rows) for b in bins)
    by_tokens = micro_batch_tokens is not None
    return [Share(tuple(b), micro_batches, completions, tokens, by_tokens, rows) for b in bins]


def _fewest(groups: Sequence[ScoredGroup], least: int, most_groups: int, most_tokens: int, *, rows: bool) -> int:
    """The fewest micro-batches, from `least` on, that keep both limits."""

    def fits(part: Sequence[ScoredGroup]) -> bool:
        return len(part) <= 1 or (len(part) <= most_groups and part_cost(part, rows=rows) <= most_tokens)

    count = least
    while not all(fits(part) for part in _parts(groups, count, by_tokens=True, rows=rows)):
        count += 1
    return count
