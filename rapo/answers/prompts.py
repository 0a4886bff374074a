"""Prompts: the one prompt builder of cold start, rollout, evaluation and serving.

There is one layout, image first, and no caller builds its own: a model that is trained on one
layout and prompted in another loses accuracy.
"""

from __future__ import annotations

from typing import TypedDict

#: The policy's prompt. Its range and its form of an answer are those of `rapo.answers.parse`.
SCORE_PROMPT = (
    "You are an expert in image aesthetics. Judge the beauty of this picture: its light and shadow, mood and narrative, "
    "composition, color and exposure. Reason first, then give one score between 0 (very poor) and 1 (excellent) with "
    "two decimals. Answer exactly in this form: <think>your reasoning</think><answer>your score</answer>"
)


class ChatMessage(TypedDict):
    """A message in the form that processors' chat templates take; `content` is a list of parts."""

    role: str
    content: list[dict[str, object]]


def chat(text: str = SCORE_PROMPT) -> list[ChatMessage]:
    """The chat messages for one image and one text."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def without_thinking(prompt: str, text: str = SCORE_PROMPT) -> str:
    """A rendered prompt up to where the answer begins, without a `<think>` of the template's own.

    Templates of reasoning models open one behind the question, or write an empty one where thinking
    is switched off. The policy writes its own. Raises `ValueError` where `text` is not in the
    prompt.
    """
    question, found, answer = prompt.rpartition(text)
    if not found:
        raise ValueError("the chat template does not write the question as it is")
    return question + found + answer.partition("<think>")[0]
