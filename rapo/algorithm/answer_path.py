"""AnswerPath: the expected answer of a completion given its rationale, from the path of its sampled
answer through the tree of answers (`rapo.answers.readout`).

Behind a rationale the answer 0.de was sampled. The policy's probabilities of the first decimal are
then known exactly, and those of the second decimal behind the sampled first one:

    o = P(0) (sum over d' of p(d') d'/10  +  sum over e' of p(e' | d) e'/100)  +  P(1)

- Its expectation over the sampled d is the expectation over all 101 answers. Only the mean of the
  second decimal, which lies in [0, .09], is taken at one first decimal instead of at all ten.
- It needs no request beyond the sampling of the completion. The whole tree would need one for every
  other first decimal of every completion.
- The probabilities at a node are scaled to sum to 1 over the characters that can follow there.
- Where the tokenizer writes both decimals as one token, the policy's probabilities of all of them
  are known, and the expectation is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rapo.answers.readout import ANSWERS, NODES, SYMBOLS
from rapo.arrays import Floats
from rapo.records import AnswerNodes

#: The characters of an answer, each of which follows a node of the tree.
LENGTH = 4

_DIGITS = np.arange(10)


def path_nodes(text: str) -> tuple[str, ...]:
    """The nodes on the path of an answer; empty where it does not begin with one of two
    decimals."""
    nodes = tuple(text[:place] for place in range(LENGTH))
    complete = len(text) >= LENGTH and text[:LENGTH] <= "1.00" and text[LENGTH - 1].isdigit()
    return nodes if complete and all(node in NODES for node in nodes) else ()


def path_moments(answers: Sequence[AnswerNodes]) -> tuple[Floats, Floats]:
    """Mean and variance `(M,)` of the answers given their rationales.

    An answer of 1.00 says nothing of those below 1: its mean is 1, its variance 0.
    """
    if not answers:
        return np.zeros(0), np.zeros(0)
    logprobs = np.stack([answer.logprobs for answer in answers]).astype(np.float64)
    one = _scaled(logprobs[:, 0, :2])[:, 1]
    if logprobs.shape[2] > len(SYMBOLS):
        pairs, values = _scaled(logprobs[:, 2, len(SYMBOLS) :]), ANSWERS[:-1]
        below, spread = pairs @ values, _variance(pairs, values)
    else:
        tenths, hundredths = _DIGITS / 10, _DIGITS / 100
        first, second = _scaled(logprobs[:, 2, :10]), _scaled(logprobs[:, 3, :10])
        below = first @ tenths + second @ hundredths
        spread = _variance(first, tenths) + _variance(second, hundredths)
    mean = (1.0 - one) * below + one
    variance = (1.0 - one) * spread + one * (1.0 - one) * np.square(1.0 - below)
    top = np.array([answer.text.startswith("1") for answer in answers])
    return np.where(top, 1.0, mean), np.where(top, 0.0, variance)


def _scaled(logprobs: Floats) -> Floats:
    p = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _variance(p: Floats, values: Floats) -> Floats:
    return np.maximum(p @ np.square(values) - np.square(p @ values), 0.0)
