"""Readout `expected`: mean, spread and quantiles of the model's answer, without sampling one.

- An answer of two decimals is four characters: a digit, a point, a digit, a digit.
  The beginnings of answers form a tree of 16 nodes. From the model's probability of each next
  character at every node, the probability of each of the 101 answers 0.00, 0.01, ..., 1.00 is the
  product along its path.
- The closing tag is a symbol of the tree beside the characters: "0.5", "0" and "1" are numbers,
  too, where the tag follows. They count as 0.50, 0.00 and 1.00.
- Some tokenizers write both decimals as one token. Such a *pair* is as likely as that token and, in
  addition, its two characters one by one. The tree sums both ways; the probability of a character
  is that of all tokens that begin with it. A token of three digits or more is outside.
- The result is exact, except that a node reached less often than `NEGLIGIBLE` is left out.
- An answer that continues after its second decimal counts as its first two decimals.
- Everything else that the model might write (a word) is the mass outside. The 101 probabilities are
  scaled to sum to 1 without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rapo.arrays import Floats
from rapo.errors import ServiceError

#: The characters of an answer.
CHARACTERS = "0123456789."
#: Stands for the closing tag, by its first token.
CLOSED = "/"
#: The symbols after a node, in the order in which their log-probs are given.
SYMBOLS = CHARACTERS + CLOSED

#: Two decimals that are one token for some tokenizers. Their log-probs follow those of `SYMBOLS`.
PAIRS: tuple[str, ...] = tuple(f"{pair:02d}" for pair in range(100))

#: The inner nodes of the tree, each the beginning of an answer, parents first.
NODES: tuple[str, ...] = ("", "0", "0.", "1", "1.", "1.0", *(f"0.{digit}" for digit in range(10)))

#: The answers, ascending, as numbers and as they are written.
ANSWERS: Floats = np.arange(101) / 100
TEXTS: tuple[str, ...] = tuple(f"{hundredths / 100:.2f}" for hundredths in range(101))

#: The nodes that are numbers themselves where the closing tag follows.
NUMBERS: tuple[str, ...] = tuple(node for node in NODES if node and not node.endswith("."))

_INDEX: dict[str, int] = {node: index for index, node in enumerate(NODES)}
_NUMBER_NODES: list[int] = [_INDEX[number] for number in NUMBERS]
_NUMBER_HUNDREDTHS: list[int] = [round(100 * float(number)) for number in NUMBERS]
# Of each node, which symbols end a number or lead on to one.
_ONWARD: NDArray[np.bool_] = np.array(
    [
        [
            node in NUMBERS if symbol == CLOSED else node + symbol in NODES or node + symbol in TEXTS
            for symbol in SYMBOLS
        ]
        for node in NODES
    ]
)

# The nodes behind which a pair may follow, and the nodes at its first characters.
_POINTS: list[int] = [_INDEX["0."], _INDEX["1."]]
_INSIDE: tuple[list[int], ...] = tuple([_INDEX[node] for node in NODES if node[:-1] == NODES[p]] for p in _POINTS)

#: A node that the model reaches less often than this is left out: its answers count as outside. All
#: such nodes together move the mean by about the rounding error of float32 log-probs.
NEGLIGIBLE = 1e-7

# Rounding must not decide which of two answers a quantile is.
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Expectation:
    """Mean, standard deviation, and 5th and 95th percentile of the answer, all in [0, 1]; `outside`
    is the probability of everything that is no number."""

    mean: float
    std: float
    low: float
    high: float
    outside: float


class AnswerTree:
    """The tree of one image's answers: learns log-probs, node by node or all at once, and names the
    missing nodes."""

    def __init__(self) -> None:
        # The probability of each symbol after each node; 0 after a node that is not known.
        self._chances: Floats = np.zeros((len(NODES), len(SYMBOLS)))
        # That of each of `PAIRS`; 0 where the tokenizer has none.
        self._pairs: Floats = np.zeros((len(NODES), len(PAIRS)))
        self._known = np.zeros(len(NODES), np.bool_)

    def learn(self, node: str, logprobs: ArrayLike) -> None:
        """Add the natural log-probs `(12,)` of `SYMBOLS` after `node`, or `(112,)` of `SYMBOLS` and
        `PAIRS`. They are over the whole vocabulary, so that their probabilities may sum to less
        than 1. `node` stands for its characters, one token each.

        Raises `ValueError` for an unknown node, a node before its parent, a wrong shape, and values
        that are no log-probs.
        """
        index = _INDEX.get(node)
        if index is None or (node and not self._known[_INDEX[node[:-1]]]):
            raise ValueError(f"node {node!r} is unknown, or the one before it")
        self._chances[index], self._pairs[index] = _chances(logprobs, ())
        self._known[index] = True

    def learn_all(self, logprobs: ArrayLike) -> None:
        """Add the log-probs `(16, 12)` or `(16, 112)` after each of `NODES`. Raises `ValueError` as
        `learn` does."""
        self._chances, self._pairs = _chances(logprobs, (len(NODES),))
        self._known[:] = True

    def missing(self) -> list[str]:
        """The nodes that `expectation` still needs, parents before their children."""
        if self._known.all():
            return []
        chances, alone = self._by_character()
        reach = alone * np.maximum(_reach(chances), _reach(_held(chances)))
        return [node for node in NODES if not self._known[_INDEX[node]] and reach[_INDEX[node]] > NEGLIGIBLE]

    def probabilities(self, *, held: bool = False) -> Floats:
        """Probability `(101,)` of each of `ANSWERS`; their sum is 1 minus the mass outside.

        `held`: of a model that is held to numbers as constrained decoding would hold it. At each
        node, what leads to no number has probability 0 and the rest is scaled to sum to 1.
        """
        chances, _ = self._by_character()
        chances = _held(chances) if held else chances
        reach = _reach(chances)
        tenths, digits = slice(_INDEX["0.0"], _INDEX["0.9"] + 1), slice(0, 10)
        below = (reach[tenths, None] * chances[tenths, digits]).reshape(-1)
        mass = np.append(below, reach[_INDEX["1.0"]] * chances[_INDEX["1.0"], 0])
        np.add.at(mass, _NUMBER_HUNDREDTHS, (reach * chances[:, SYMBOLS.index(CLOSED)])[_NUMBER_NODES])
        return mass

    def expectation(self, *, held: bool = False) -> Expectation:
        """The readout, of the `held` probabilities if wanted; `outside` is the model's own in both
        cases.

        Raises `ServiceError` where the model never writes a number, and `ValueError` while nodes
        are missing.
        """
        if missing := self.missing():
            raise ValueError(f"log-probs are missing after {missing}")
        own = self.probabilities()
        return replace(expectation(self.probabilities(held=True)), outside=_outside(own)) if held else expectation(own)

    def _by_character(self) -> tuple[Floats, Floats]:
        """The probabilities `(16, 12)` of each next character however it is written, and of each
        node `(16,)` the share in which its last character is a token of its own."""
        chances, alone = self._chances.copy(), np.ones(len(NODES))
        for point, inside in zip(_POINTS, _INSIDE, strict=True):
            pairs = self._pairs[point].reshape(10, 10)
            if not pairs.any():
                continue
            single = self._chances[point, :10]
            chances[point, :10] = total = single + pairs.sum(axis=1)
            for node in inside:
                digit = int(NODES[node][-1])
                if total[digit] > 0.0:
                    alone[node] = single[digit] / total[digit]
                    chances[node] *= alone[node]
                    chances[node, :10] += pairs[digit] / total[digit]
        return chances, alone


def _chances(logprobs: ArrayLike, before: tuple[int, ...]) -> tuple[Floats, Floats]:
    """The probabilities of symbols and of pairs, each with the axes `before`."""
    values = np.asarray(logprobs, np.float64)
    widths = len(SYMBOLS), len(SYMBOLS) + len(PAIRS)
    if values.shape not in {(*before, width) for width in widths} or np.isnan(values).any() or values.max() > _SLACK:
        raise ValueError(f"not log-probs of shape {(*before, widths[0])}: {values}")
    chances = np.exp(values)
    pairs = chances[..., len(SYMBOLS) :]
    return chances[..., : len(SYMBOLS)], pairs if pairs.size else np.zeros((*before, len(PAIRS)))


def _reach(chances: Floats) -> Floats:
    """The probability `(16,)` of each of `NODES`; 0 behind a node that is not known."""
    reach = np.ones(len(NODES))
    for node in NODES[1:]:
        reach[_INDEX[node]] = reach[_INDEX[node[:-1]]] * chances[_INDEX[node[:-1]], SYMBOLS.index(node[-1])]
    return reach


def _held(chances: Floats) -> Floats:
    onward = chances * _ONWARD
    total = onward.sum(axis=1, keepdims=True)
    return np.divide(onward, total, out=np.zeros_like(onward), where=total > 0.0)


def expectation(probabilities: ArrayLike) -> Expectation:
    """The readout of probabilities `(101,)` of `ANSWERS`, which need not sum to 1. Raises
    `ServiceError` where all are 0."""
    mass = np.asarray(probabilities, np.float64)
    inside = mass.sum()
    if inside <= 0.0:
        raise ServiceError("the model gives no number any probability")
    share = mass / inside
    mean = float(share @ ANSWERS)
    std = math.sqrt(max(float(share @ np.square(ANSWERS - mean)), 0.0))
    low, high = (_quantile(share, level) for level in (0.05, 0.95))
    return Expectation(min(max(mean, 0.0), 1.0), std, low, high, _outside(mass))


def _outside(mass: Floats) -> float:
    return max(1.0 - float(mass.sum()), 0.0)


def _quantile(share: Floats, level: float) -> float:
    """The lowest answer that is reached with probability `level`."""
    return float(ANSWERS[int(np.searchsorted(np.cumsum(share), level - _SLACK))])
