"""One prompt builder, used by cold start, rollout, evaluation and serving alike.

A model that is trained on one layout and asked in another loses accuracy for no reason; so there is
one layout, image first, and no caller builds its own.
"""

from __future__ import annotations

from typing import Any

#: What the policy is asked. The range is part of the contract with `rapo.answers.parse`.
SCORE_PROMPT = (
    "You are an expert in image aesthetics. Judge the beauty of this picture: its light and shadow, mood and narrative, "
    "composition, color and exposure. Reason first, then give one score between 0 (very poor) and 1 (excellent) with "
    "two decimals. Answer exactly in this form: <think>your reasoning</think><answer>your score</answer>"
)

#: What a vision-language teacher is asked. It sees the score but must not reveal it (the paper's
#: appendix B).
TEACHER_PROMPT = (
    "You are an expert in image aesthetics. The true aesthetic score of this picture is {score:.2f} on a scale from 0 to "
    "1. The score is private: never mention it, any other number, or that you were told. Look closely and write a "
    "critique of at most {words} words that covers light and shadow, mood and narrative, composition, color and exposure, "
    "names strengths and weaknesses that can be seen in the picture, and ends with a judgement that fits the private score."
)


def chat(text: str = SCORE_PROMPT) -> list[dict[str, Any]]:
    """The chat messages for one image and one text, in the form that processors' chat templates
    take."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
