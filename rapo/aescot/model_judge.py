"""ModelJudge: asks a vision-language model whether critiques fit the human score and the image.

- Each vote asks the same two questions, in alternating order, because the first one is answered
  differently from the second.
- A critique that gets no readable majority has a reason of its own; it never raises.
- The paper names the two errors and asks a judge model for them (Aes-R1, arXiv 2509.21871, appendix
  E.2) without its prompt, its model or a number of votes. Those here are rapo's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from rapo.aescot.prompt import check_placeholders, fill, prompt_text
from rapo.aescot.votes import VOTE_SCHEMA, ModelVerdict, count_votes, read_vote
from rapo.aescot.writer import LEVELS, level_of
from rapo.chat.open import open_chat_model
from rapo.chat.types import ChatModel, Question
from rapo.config import Config, JudgeConfig
from rapo.util.seeds import derive_seed

JUDGE_PROMPT = (
    "You check critiques of pictures. People gave this picture an aesthetic score of {score} on a scale from 0 (very poor) "
    "to 1 (excellent), which makes it {level} on the scale {levels}. A critique of it, which was written without naming the "
    "score, stands between the lines of equal signs.\n====\n{critique}\n====\nLook at the picture and decide two questions "
    "about the critique, whatever it says about itself.\n{questions}"
)
JUDGE_PLACEHOLDERS = ("score", "level", "levels", "critique", "questions")

_QUESTIONS = (
    '"aligned": does its judgement of the picture as a whole fit the score? It does not where clear praise stands beside a '
    "low score or clear blame beside a high one, or where its reasons speak against its own conclusion.",
    '"grounded": is what it says about the picture there to be seen? It is not where it names something that the picture '
    "does not show, or misreads its light, color, composition or exposure.",
)
_FORM = (
    '\nAnswer with one JSON object and nothing else: {"aligned": true or false, "grounded": true or false, "fault": '
    '"what is wrong, in a few words, or an empty text"}'
)


@dataclass(frozen=True, slots=True)
class WrittenImage:
    """A critique to judge: the encoded bytes of its image, and the human score in [0, 1]."""

    uid: str
    data: bytes
    score: float
    critique: str


def judge_template(settings: JudgeConfig) -> str:
    """The judge's prompt, checked. Raises `ConfigError` for a placeholder that is not among
    `JUDGE_PLACEHOLDERS`, and for a prompt without critique or questions."""
    template = prompt_text(settings, JUDGE_PROMPT)
    needed = ("critique", "questions")
    check_placeholders(template, JUDGE_PLACEHOLDERS, "aescot.judge.prompt", needed)
    return template


def judge_prompt(template: str, score: float, critique: str, vote: int) -> str:
    """The prompt of vote number `vote` on a critique."""
    questions = _QUESTIONS if vote % 2 == 0 else _QUESTIONS[::-1]
    values = {
        "score": f"{score:.2f}",
        "level": LEVELS[level_of(score)],
        "levels": ", ".join(LEVELS),
        "critique": critique,
        "questions": "\n".join(questions),
    }
    return fill(template, values) + _FORM


class ModelJudge:
    """A judge model. `spent` is what earlier processes of the same run have spent of its budget.

    Raises `ConfigError` for a prompt that cannot be filled in or a key that is not set, and
    `ModelError` for a folder without a model.
    """

    def __init__(self, config: Config, spent: float = 0.0) -> None:
        settings = config.aescot.judge
        self._template = judge_template(settings)
        self._seed, self._votes = config.run.seed, settings.votes
        schema = VOTE_SCHEMA if settings.json_schema else None
        self._model: ChatModel = open_chat_model(config, settings, schema=schema, spent=spent)

    def judge(self, critiques: Sequence[WrittenImage]) -> list[ModelVerdict]:
        """A verdict for each critique, in order."""
        answers = iter(self._model.ask([self._question(one, n) for one in critiques for n in range(self._votes)]))
        verdicts = []
        for _ in critiques:
            given = [next(answers) for _ in range(self._votes)]
            usage = reduce(add, (answer.usage for answer in given))
            model = next((answer.model for answer in given if answer.model is not None), None)
            verdicts.append(count_votes([read_vote(answer) for answer in given], usage, model))
        return verdicts

    def close(self) -> None:
        """Close the model."""
        self._model.close()

    def _question(self, one: WrittenImage, vote: int) -> Question:
        text = judge_prompt(self._template, one.score, one.critique, vote)
        return Question(text, one.data, derive_seed(self._seed, "judge", one.uid, vote))
