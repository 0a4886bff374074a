"""Partition: shares balanced by tokens, with every group counted."""

from __future__ import annotations

import numpy as np
import pytest
from builders import group, scored
from hypothesis import given
from hypothesis import strategies as st

from rapo.algorithm.partition import part_cost, share_out


def uids(share):
    return [g.group.uid for g in share.groups]


batches = st.lists(
    st.tuples(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.booleans(), st.integers(1, 100)), max_size=20
)


@given(batches, st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_every_useful_group_goes_to_one_rank_and_all_are_counted(rows, ranks, micro, keep_flat):
    groups = [
        scored(group(f"u{i:02d}", lengths=lengths, prompt_tokens=prompt), [float(moves)] * len(lengths))
        for i, (lengths, moves, prompt) in enumerate(rows)
    ]
    shares = share_out(groups, ranks=ranks, micro_batch_groups=micro, keep_flat=keep_flat)
    assert len(shares) == ranks
    assert sorted(u for s in shares for u in uids(s)) == [
        g.group.uid for g, (_, moves, _) in zip(groups, rows, strict=True) if moves or keep_flat
    ]
    for share in shares:
        assert share.completions == sum(len(lengths) for lengths, _, _ in rows)
        assert share.tokens == sum(sum(lengths) for lengths, _, _ in rows)
        assert share.micro_batches == shares[0].micro_batches >= 1
        assert len(share.groups) <= share.micro_batches * micro


def test_micro_batches_are_as_few_as_the_fullest_rank_allows():
    groups = [scored(group(f"u{i}"), [1.0, -1.0]) for i in range(10)]
    assert [s.micro_batches for s in share_out(groups, ranks=2, micro_batch_groups=5)] == [1, 1]
    assert [s.micro_batches for s in share_out(groups, ranks=2, micro_batch_groups=4)] == [2, 2]


def test_loads_are_balanced():
    """The greedy bound: the fullest rank exceeds the emptiest by one group at most."""
    rng = np.random.default_rng(0)
    groups = [scored(group(f"u{i}", lengths=rng.integers(1, 200, 8).tolist()), [1.0] * 8) for i in range(40)]
    loads = [
        sum(part_cost([g], rows=False) for g in s.groups) for s in share_out(groups, ranks=4, micro_batch_groups=8)
    ]
    assert max(loads) - min(loads) <= max(part_cost([g], rows=False) for g in groups)
    assert max(loads) / min(loads) < 1.1


def test_the_longest_group_is_placed_first():
    groups = [scored(group(f"u{i}", lengths=(n,), prompt_tokens=1), [1.0]) for i, n in enumerate((9, 9, 9, 9, 39))]
    assert [len(s.groups) for s in share_out(groups, ranks=2, micro_batch_groups=8)] == [1, 4]


def test_cost_counts_the_prefix_once_or_for_each_row():
    one = scored(group(lengths=(3, 4), prompt_tokens=100), [0.0, 0.0])
    assert (part_cost([one], rows=False), part_cost([one], rows=True)) == (107, 208)


def test_more_ranks_than_groups_leaves_some_without():
    shares = share_out([scored(group("a"), [1.0, -1.0])], ranks=3, micro_batch_groups=4)
    assert [len(s.groups) for s in shares] == [1, 0, 0]
    assert [s.micro_batches for s in shares] == [1, 1, 1]


@pytest.mark.parametrize("keep", [False, True])
def test_a_level_group_is_left_out_but_counted(keep):
    groups = [scored(group("level", lengths=(5, 5)), [0.0, 0.0]), scored(group("a", lengths=(2, 2)), [1.0, -1.0])]
    (share,) = share_out(groups, ranks=1, micro_batch_groups=4, keep_flat=keep)
    assert sorted(uids(share)) == (["0/a", "0/level"] if keep else ["0/a"])
    assert (share.completions, share.tokens) == (4, 14)


def test_the_order_of_arrival_does_not_matter():
    groups = [scored(group(f"u{i}", lengths=(3, 3 + i % 2)), [1.0, -1.0]) for i in range(7)]
    one, other = (share_out(g, ranks=2, micro_batch_groups=2) for g in (groups, groups[::-1]))
    assert [uids(s) for s in one] == [uids(s) for s in other]


@given(batches, st.integers(1, 4), st.integers(1, 6), st.integers(50, 400), st.integers(1, 2), st.booleans())
def test_micro_batches_keep_both_limits(batch, ranks, micro, tokens, splits, rows):
    groups = [
        scored(group(f"u{i:02d}", lengths=lengths, prompt_tokens=prompt), [1.0] * len(lengths))
        for i, (lengths, _, prompt) in enumerate(batch)
    ]
    shares = share_out(groups, ranks=ranks, micro_batch_groups=micro, micro_batch_tokens=tokens, rows=rows)
    for share in shares:
        parts = share.parts(splits)
        assert len(parts) == shares[0].micro_batches * splits
        assert sorted(g.group.uid for part in parts for g in part) == sorted(uids(share))
        for part in parts:
            assert len(part) <= 1 or (len(part) <= micro and part_cost(part, rows=rows) <= tokens)


def test_rows_are_as_wide_as_the_widest_group_beside_them():
    wide = scored(group("wide", lengths=(150, 2), prompt_tokens=600), [1.0, -1.0])
    narrow = [scored(group(f"u{i}", lengths=(6, 6), prompt_tokens=30), [1.0, -1.0]) for i in range(7)]
    assert part_cost([wide, *narrow], rows=True) == 16 * 750
    (share,) = share_out([wide, *narrow], ranks=1, micro_batch_groups=8, micro_batch_tokens=4096, rows=True)
    assert max(part_cost(part, rows=True) for part in share.parts()) <= 4096
    assert share.micro_batches < 5


def test_long_answers_make_more_micro_batches():
    def count(length):
        groups = [scored(group(f"u{i}", lengths=[length] * 4, prompt_tokens=400), [1.0] * 4) for i in range(8)]
        shares = [
            share_out(groups, rows=rows, ranks=2, micro_batch_groups=16, micro_batch_tokens=4096)
            for rows in (False, True)
        ]
        return [share[0].micro_batches for share in shares]

    assert [count(100), count(300), count(1000)] == [[1, 2], [2, 4], [4, 4]]
