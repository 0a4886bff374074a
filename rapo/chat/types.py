"""Chat types: a question about an image, its answer, and the model that answers.

- A question that gets no answer is an answer with a problem and a fault, never an exception.
- The fault says whose it is, so that a caller knows which questions are worth asking again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

#: Why there is no usable text: the image cannot be read; the model answered nothing usable, or
#: refuses this question; nothing answered it, whatever was tried; or nothing is asked any more, for
#: a reason that concerns all questions.
ChatFault = Literal["image", "unusable", "unanswered", "stopped"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What questions have used: tokens, and their cost in the currency of the prices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Question:
    """A text about one image. `image` are the encoded bytes of its file; `seed` is that of the
    sampling."""

    text: str
    image: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A text, or None with `problem` and `fault`.

    `truncated`: the token limit ended it. `reasoning`: the prompt itself opened a `<think>`, as the
    templates of reasoning models do. `model` is the name under which the model answered.
    """

    text: str | None
    problem: str | None = None
    fault: ChatFault | None = None
    truncated: bool = False
    reasoning: bool = False
    usage: Usage = NOTHING
    model: str | None = None


class ChatModel(Protocol):
    """A vision-language model. Temperature, token limit and image limits are its own settings."""

    def ask(self, questions: Sequence[Question]) -> list[ChatAnswer]:
        """An answer for each question, in order."""
        ...

    def close(self) -> None:
        """Give up what the model holds: processes, connections, memory."""
        ...
