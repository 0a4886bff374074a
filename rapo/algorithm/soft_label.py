"""SoftLabel: the human score as a distribution over the 101 answers, node by node of their tree.

The label is a normal density around the human score, on the answers 0.00 to 1.00. A cross-entropy
to it teaches the answer without sampling it, and its gradient does not vanish where the answer is
far off. DeQA-Score (arXiv 2501.11561) has such labels for five words of quality; here they are for
numbers of two decimals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rapo.answers.readout import ANSWERS, NODES, PAIRS, SYMBOLS, TEXTS
from rapo.arrays import Floats


def soft_labels(targets: ArrayLike, std: float) -> Floats:
    """The probability `(G, 16, 12)` of each of `SYMBOLS` behind each of `NODES`, for the human
    scores `targets` `(G,)` in [0, 1] and a density of width `std`.

    At every node the probabilities sum to 1, however unlikely the node itself is.
    """
    return np.einsum("gna,nac->gnc", _behind(targets, std), _NEXT)


def joined_labels(targets: ArrayLike, std: float) -> Floats:
    """The same `(G, 16, 112)` of `SYMBOLS` and `PAIRS`, where both decimals are one token: behind
    the point pairs follow, and no single digit."""
    labels, p = soft_labels(targets, std), _behind(targets, std)
    pairs = np.zeros((*labels.shape[:2], len(PAIRS)))
    for point, texts in (("0.", slice(0, 100)), ("1.", slice(100, 101))):
        node = NODES.index(point)
        labels[:, node] = 0.0
        pairs[:, node, : len(TEXTS[texts])] = p[:, node, texts]
    return np.concatenate([labels, pairs], axis=2)


def _behind(targets: ArrayLike, std: float) -> Floats:
    """The probability `(G, 16, 101)` of each answer behind each node."""
    logits = -0.5 * np.square((ANSWERS - np.asarray(targets, np.float64)[:, None]) / std)
    behind = np.where(_ANSWERS_BEHIND, logits[:, None, :], -np.inf)
    p = np.exp(behind - behind.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    return p


def _next() -> Floats:
    """Whether answer a goes on with character c behind node n, `(16, 101, 12)`."""
    follows = np.zeros((len(NODES), len(TEXTS), len(SYMBOLS)))
    for n, node in enumerate(NODES):
        for a, text in enumerate(TEXTS):
            if text.startswith(node):
                follows[n, a, SYMBOLS.index(text[len(node)])] = 1.0
    return follows


_NEXT = _next()
_ANSWERS_BEHIND = _NEXT.any(axis=2)
