"""Readout `expected`: mean, spread and quantiles of the model's answer, without sampling one.

- An answer of two decimals is written character by character: a digit, a point, a digit, a digit.
  The beginnings of answers form a tree of 16 nodes. From the model's probability of each next
  character at every node, the probability of each of the 101 answers 0.00, 0.01, ..., 1.00 is the
  product along its path.
- The closing tag is a symbol of the tree beside the characters: "0.5", "0" and "1" are numbers,
  too, where the tag follows. They count as 0.50, 0.00 and 1.00.
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
        self._known = np.zeros(len(NODES), np.bool_)

    def learn(self, node: str, logprobs: ArrayLike) -> None:
        """Add the natural log-probs `(12,)` of `SYMBOLS` after `node`. They are over the whole
        vocabulary, so that their probabilities may sum to less than 1.

        Raises `ValueError` for an unknown node, a node before its parent, a wrong shape, and values
        that are no log-probs.
        """
        index = _INDEX.get(node)
        if index is None or (node and not self._known[_INDEX[node[:-1]]]):
            raise ValueError(f"node {node!r} is unknown, or the one before it")
        self._chances[index] = _chances(logprobs, (len(SYMBOLS),))
        self._known[index] = True

    def learn_all(self, logprobs: ArrayLike) -> None:
        """Add the log-probs `(16, 12)` after each of `NODES`. Raises `ValueError` as `learn`
        does."""
        self._chances = _chances(logprobs, self._chances.shape)
        self._known[:] = True

    def missing(self) -> list[str]:
        """The nodes that `expectation` still needs, parents before their children."""
        if self._known.all():
            return []
        reach = np.maximum(_reach(self._chances), _reach(_held(self._chances)))
        return [node for node in NODES if not self._known[_INDEX[node]] and reach[_INDEX[node]] > NEGLIGIBLE]

    def probabilities(self, *, held: bool = False) -> Floats:
        """Probability `(101,)` of each of `ANSWERS`; their sum is 1 minus the mass outside.

        `held`: of a model that is held to numbers as constrained decoding would hold it. At each
        node, what leads to no number has probability 0 and the rest is scaled to sum to 1.
        """
        chances = _held(self._chances) if held else self._chances
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


def _chances(logprobs: ArrayLike, shape: tuple[int, ...]) -> Floats:
    values = np.asarray(logprobs, np.float64)
    if values.shape != shape or np.isnan(values).any() or values.max() > _SLACK:
        raise ValueError(f"not log-probs of shape {shape}: {values}")
    return np.exp(values)


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
