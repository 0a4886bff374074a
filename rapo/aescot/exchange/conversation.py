"""Exchange rows: critiques as conversations, the form in which LLaMA-Factory and others train on
them and in which public ones are given."""

from __future__ import annotations

from rapo.answers.parse import format_completion
from rapo.answers.prompts import SCORE_PROMPT

#: What marks the image in a text. It comes first, as in all of the project's prompts.
_IMAGE = "<image>"


def exchange_row(image: str, critique: str, score: float) -> dict[str, object]:
    """One critique of an image with its score in [0, 1], which is written with two decimals."""
    return {
        "messages": [
            {"role": "user", "content": f"{_IMAGE}{SCORE_PROMPT}"},
            {"role": "assistant", "content": format_completion(critique, score)},
        ],
        "images": [image],
    }
