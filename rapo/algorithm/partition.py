"""Partition: splits scored groups over learner ranks, so that no rank waits long for another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rapo.records import ScoredGroup


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's share of a batch: its groups, and the counts `completions` and `tokens` of the
    whole batch, by which every rank divides.

    All ranks run `micro_batches` micro-batches, because their collective calls must match. A
    micro-batch without groups contributes nothing.
    """

    groups: tuple[ScoredGroup, ...]
    micro_batches: int
    completions: int
    tokens: int


def group_cost(scored: ScoredGroup) -> int:
    """The number of tokens that the learner computes for a group: the prefix once, each completion
    once."""
    return scored.group.prompt_tokens + sum(len(ids) for ids in scored.group.token_ids)


def share_out(
    groups: Sequence[ScoredGroup], *, ranks: int, micro_batch_groups: int, keep_flat: bool = False
) -> list[Share]:
    """One share per rank, balanced by token count: the longest group first, each to the rank with
    the fewest tokens so far.

    A group whose advantages are all zero has no policy gradient and is left out, unless `keep_flat`
    (because another part of the loss acts on it). It still counts in `completions` and `tokens`.
    """
    completions = sum(len(g.advantages) for g in groups)
    tokens = sum(len(ids) for g in groups for ids in g.group.token_ids)
    useful = [g for g in groups if keep_flat or np.any(g.advantages)]
    bins: list[list[ScoredGroup]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for scored in sorted(useful, key=lambda g: (-group_cost(g), g.group.uid)):
        lightest = loads.index(min(loads))
        bins[lightest].append(scored)
        loads[lightest] += group_cost(scored)
    micro_batches = max(1, math.ceil(max(len(b) for b in bins) / micro_batch_groups))
    return [Share(tuple(b), micro_batches, completions, tokens) for b in bins]
