"""VerdictLog: the verdicts of a judge model in a run, so that none is paid for twice.

- A row holds the verdicts of one call by key, and what they used.
- Rows stay when a run goes back to a checkpoint: a rationale that comes again has its verdict, so
  that the steps come out as before.
- What a process spent that died before its answers were written is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.files.json_values import finite
from cluster.files.jsonl import append_jsonl, read_jsonl
from rapo.chat.types import Usage
from rapo.explanations.grounding_judge import MOST_KNOWN, Fits, JudgeHistory

VERDICTS = "verdicts.jsonl"


class VerdictLog:
    """The log in `path`, which need not be there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, verdicts: Mapping[str, Fits], used: Usage) -> None:
        """Add a call's new verdicts; a call that used nothing leaves no row."""
        if verdicts or used != Usage():
            append_jsonl(self._path, {
                "prompt_tokens": used.prompt_tokens,
                "completion_tokens": used.completion_tokens,
                "cost": used.cost,
                "verdicts": {key: list(fits) for key, fits in verdicts.items()},
            })  # fmt: skip

    def history(self) -> JudgeHistory:
        """The newest verdicts, as many as a judge keeps, and what all have cost."""
        rows = read_jsonl(self._path)
        known: dict[str, Fits] = {}
        for row in reversed(rows):
            found = row.get("verdicts")
            for key, fits in found.items() if isinstance(found, dict) else ():
                if len(known) < MOST_KNOWN and isinstance(fits, list):
                    known[key] = tuple(finite(share) or 0.0 for share in fits)
        return JudgeHistory(known, sum(finite(row.get("cost")) or 0.0 for row in rows))
