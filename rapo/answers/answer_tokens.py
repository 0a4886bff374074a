"""AnswerTokens: the tokens that a tokenizer writes answers with.

- Each character is a token of its own, or the two decimals are one token together ("0", ".", "53").
  Any other way to write an answer is refused with the reason.
- The readout `expected` sums over all ways in which these tokens write a number
  (`rapo.answers.readout`). Training takes a sampled answer as the tokenizer writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapo.answers.readout import CHARACTERS, CLOSED, NUMBERS, PAIRS, SYMBOLS, TEXTS
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
    `no_rationale` are those of `NO_RATIONALE`. `pairs` are those of `PAIRS`, empty where the
    tokenizer writes decimals one by one."""

    symbols: tuple[int, ...]
    no_rationale: tuple[int, ...]
    pairs: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """How many tokens an answer of two decimals is."""
        return LONGEST - 1 if self.pairs else LONGEST

    @property
    def read(self) -> list[int]:
        """The token ids of `SYMBOLS` and, where there are any, of `PAIRS`."""
        return [*self.symbols, *self.pairs]

    def ids(self, node: str) -> list[int]:
        """The token ids of `node`, the beginning of an answer, one for each character."""
        return [self.symbols[SYMBOLS.index(character)] for character in node]

    def written(self, text: str) -> list[int]:
        """The token ids with which the tokenizer writes an answer and what closes it."""
        if self.pairs and len(text) == LONGEST:
            return [*self.ids(text[:2]), self.pairs[PAIRS.index(text[2:])], *self.ids(CLOSED)]
        return self.ids(text + CLOSED)

    def text(self, token_id: int) -> str | None:
        """The symbol or the pair that a token writes, None for any other token."""
        if token_id in self.symbols:
            return SYMBOLS[self.symbols.index(token_id)]
        return PAIRS[self.pairs.index(token_id)] if token_id in self.pairs else None


def answer_tokens(tokenize: Callable[[str], Sequence[int]]) -> AnswerTokens:
    """Find the tokens, and check that all numbers are written with them whatever precedes, and that
    the closing tag begins with the same token after each.

    `tokenize` returns the token ids of a text, without special tokens. Raises `ModelError` where an
    answer is tokenized otherwise.
    """
    prefix = list(tokenize(NO_RATIONALE))

    def behind(text: str) -> list[int]:
        # Within an answer, because some tokenizers write the start of a text otherwise.
        ids = list(tokenize(f"{NO_RATIONALE}{text}{CLOSE}"))[len(prefix) :]
        if len(ids) <= 3:
            raise _unfit(f"{text}{CLOSE} is {len(ids)} tokens")
        return ids

    digits = [behind(f"0.{digit}") for digit in CHARACTERS[:-1]]
    symbols = (*(ids[2] for ids in digits), digits[0][1], digits[0][3])
    pairs = tuple(behind(f"0.{pair}")[2] for pair in PAIRS)
    tokens = AnswerTokens(symbols, tuple(prefix), () if pairs[0] == symbols[0] else pairs)
    if len(set(tokens.read)) < len(tokens.read):
        raise _unfit("several characters are the same token")
    for before in _BEFORE:
        start = list(tokenize(before))
        for text in (*TEXTS, *NUMBERS):
            written = [*start, *tokens.written(text)]
            if list(tokenize(f"{before}{text}{CLOSE}"))[: len(written)] != written:
                how = "with its decimals in one token" if tokens.pairs else "one token per character"
                raise _unfit(f"{before}{text}{CLOSE} is not written {how}")
    return tokens


def _unfit(why: str) -> ModelError:
    return ModelError(
        f"the tokenizer of this model writes answers neither digit by digit nor with both decimals in one token ({why}), "
        "so the readouts expected and fast are not defined for it. To train it all the same set rapo.loss.answer = "
        "'policy_gradient', rapo.reward.score = 'sampled' and evaluate.readout = 'greedy'."
    )
