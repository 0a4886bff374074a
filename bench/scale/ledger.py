"""Ledger: whether a run of the loop has used every group once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cluster.files.jsonl import read_jsonl
from cluster.training.controller import LEDGER


def check_ledger(folder: Path, groups: int) -> None:
    """Raises `AssertionError`, which names tickets, where the ledger in `folder` does not show each
    of `groups` tickets exactly once."""
    used: Counter[int] = Counter()
    for row in read_jsonl(folder / LEDGER):
        tickets = row["used"]
        assert isinstance(tickets, list)
        used.update(ticket for ticket in tickets if isinstance(ticket, int))
    wrong: dict[str, list[int]] = {
        "used more than once": [ticket for ticket, count in used.items() if count > 1],
        "not used": [ticket for ticket in range(groups) if ticket not in used],
        "not of this run": [ticket for ticket in used if ticket not in range(groups)],
    }
    found = [f"{len(tickets)} {what}, among them {tickets[:5]}" for what, tickets in wrong.items() if tickets]
    if found:
        raise AssertionError(f"of {groups} groups in {folder / LEDGER}: {'; '.join(found)}")
