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
    tokens, else in groups.
    """

    groups: tuple[ScoredGroup, ...]
    micro_batches: int
    completions: int
    tokens: int
    by_tokens: bool = False

    def parts(self, splits: int = 1) -> list[Sequence[ScoredGroup]]:
        """The groups of each micro-batch, each in `splits` parts. Parts may be empty."""
        count = self.micro_batches * splits
        if self.by_tokens:
            return balanced(self.groups, count)
        ordered = sorted(self.groups, key=lambda g: g.group.prompt_tokens)  # so that padding is short
        bounds = [round(i * len(ordered) / count) for i in range(count + 1)]
        return [ordered[a:b] for a, b in pairwise(bounds)]


def group_cost(scored: ScoredGroup) -> int:
    """The number of tokens that the learner computes for a group: the prefix once, each completion
    once."""
    return scored.group.prompt_tokens + sum(len(ids) for ids in scored.group.token_ids)


def balanced(groups: Sequence[ScoredGroup], count: int) -> list[Sequence[ScoredGroup]]:
    """`groups` in `count` parts of about as many tokens: the longest group first, each to the part
    with the fewest tokens so far."""
    parts: list[list[ScoredGroup]] = [[] for _ in range(count)]
    loads = [0] * count
    for scored in sorted(groups, key=lambda g: (-group_cost(g), g.group.uid)):
        lightest = loads.index(min(loads))
        parts[lightest].append(scored)
        loads[lightest] += group_cost(scored)
    return list(parts)


def share_out(
    groups: Sequence[ScoredGroup],
    *,
    ranks: int,
    micro_batch_groups: int,
    micro_batch_tokens: int | None = None,
    keep_flat: bool = False,
) -> list[Share]:
    """One share per rank, `balanced` by token count.

    A micro-batch holds at most `micro_batch_groups` groups and `micro_batch_tokens` tokens; a
    longer group has one of its own. A group whose advantages are all zero has no policy gradient
    and is left out, unless `keep_flat` (because another part of the loss acts on it). It still
    counts in `completions` and `tokens`.
    """
    completions = sum(len(g.advantages) for g in groups)
    tokens = sum(len(ids) for g in groups for ids in g.group.token_ids)
    useful = [g for g in groups if keep_flat or np.any(g.advantages)]
    bins = balanced(useful, ranks)
    micro_batches = max(1, math.ceil(max(len(b) for b in bins) / micro_batch_groups))
    if micro_batch_tokens is not None:
        micro_batches = max(_fewest(b, micro_batches, micro_batch_groups, micro_batch_tokens) for b in bins)
    by_tokens = micro_batch_tokens is not None
    return [Share(tuple(b), micro_batches, completions, tokens, by_tokens) for b in bins]


def _fewest(groups: Sequence[ScoredGroup], least: int, most_groups: int, most_tokens: int) -> int:
    """The fewest micro-batches, from `least` on, that keep both limits."""

    def fits(part: Sequence[ScoredGroup]) -> bool:
        return len(part) <= 1 or (len(part) <= most_groups and sum(map(group_cost, part)) <= most_tokens)

    count = least
    while not all(fits(part) for part in balanced(groups, count)):
        count += 1
    return count
