"""Rationale: the reasoning inside a completion, whether or not the completion has an answer."""

from __future__ import annotations

import re

_NOT_RATIONALE = re.compile(r"</think>.*|<answer>.*|<think>", re.DOTALL)


def rationale_of(text: str) -> str:
    """The text between `<think>` and `</think>`, without white space around it.

    Where a tag is missing, because the completion ran off its form or was closed for it, everything
    up to the answer counts. Whether the completion is valid is for `rapo.answers.parse` to say.
    """
    return _NOT_RATIONALE.sub("", text).strip()
