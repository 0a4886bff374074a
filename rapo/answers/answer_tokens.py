"""AnswerTokens: the tokens that a tokenizer writes answers with, one for each character.

The readout `expected` takes the probability of an answer as the product over its characters, which
holds only if every answer is tokenized character by character.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapo.answers.readout import CHARACTERS, CLOSED, NUMBERS, SYMBOLS, TEXTS
from rapo.errors import ModelError

#: The tags around the number. They must not change how the number is tokenized.
OPEN, CLOSE = "<answer>", "</answer>"
#: The beginning of an answer without a rationale, which the readout `fast` puts behind the prompt.
NO_RATIONALE = f"<think></think>{OPEN}"

#: The characters of the longest answer.
LONGEST = len(TEXTS[0])
_BEFORE = (NO_RATIONALE, f"<think>soft light.</think>{OPEN}", f"<think>soft light.</think>\n{OPEN}")


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """`symbols` are the token ids of `SYMBOLS` in their order, of the closing tag its first one.
    `no_rationale` are those of `NO_RATIONALE`."""

    symbols: tuple[int, ...]
    no_rationale: tuple[int, ...]

    def ids(self, node: str) -> list[int]:
        """The token ids of `node`, the beginning of an answer."""
        return [self.symbols[SYMBOLS.index(character)] for character in node]

    def symbol(self, token_id: int) -> str | None:
        """The symbol that a token writes, None for any other token."""
        return SYMBOLS[self.symbols.index(token_id)] if token_id in self.symbols else None


def answer_tokens(tokenize: Callable[[str], Sequence[int]]) -> AnswerTokens:
    """Find the tokens, and check that all numbers are written with them whatever precedes, and that
    the closing tag begins with the same token after each.

    `tokenize` returns the token ids of a text, without special tokens. Raises `ModelError` where an
    answer is tokenized otherwise.
    """
    prefix = list(tokenize(NO_RATIONALE))
    characters: list[int] = []
    for digit in CHARACTERS[:-1]:
        # Within an answer, because some tokenizers write the start of a text otherwise.
        ids = list(tokenize(f"{NO_RATIONALE}0.{digit}{digit}{CLOSE}"))[len(prefix) :]
        if len(ids) <= LONGEST:
            raise _unfit(f"0.{digit}{digit}{CLOSE} is {len(ids)} tokens")
        characters.append(ids[LONGEST - 1])
    tokens = AnswerTokens((*characters, ids[1], ids[LONGEST]), tuple(prefix))
    if len(set(tokens.symbols)) < len(SYMBOLS):
        raise _unfit("several characters are the same token")
    for before in _BEFORE:
        start = list(tokenize(before))
        for text in (*TEXTS, *NUMBERS):
            written = [*start, *tokens.ids(text + CLOSED)]
            if list(tokenize(f"{before}{text}{CLOSE}"))[: len(written)] != written:
                raise _unfit(f"{before}{text}{CLOSE} is not written one token per character")
    return tokens


def _unfit(why: str) -> ModelError:
    return ModelError(
        f"the tokenizer of this model does not write answers digit by digit ({why}), so the readouts expected and fast "
        "are not defined for it. To train it all the same set rapo.loss.answer = "
        "'policy_gradient', rapo.reward.score = 'sampled' and evaluate.readout = 'greedy'."
    )
