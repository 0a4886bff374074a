"""AnswerPath: the expectation from one sampled path, against the whole tree."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.algorithm.answer_path import path_moments, path_nodes
from rapo.answers.readout import ANSWERS, NODES, PAIRS, SYMBOLS, TEXTS, AnswerTree
from rapo.arrays import Floats
from rapo.records import AnswerNodes


def logprobs(p: Floats) -> np.ndarray:
    """Log-probs `(12,)` of the symbols, from those of the ten digits and the point."""
    row = np.full(len(SYMBOLS), -50.0)
    with np.errstate(divide="ignore"):
        row[: len(p)] = np.maximum(np.log(p), -50.0)
    return row.astype(np.float32)


def tree_of(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The symbols' log-probs at every node of a random model of answers."""
    point = np.zeros(11)
    point[10] = 1.0
    tree = {"": logprobs(np.array([0.9, 0.1])), "0": logprobs(point), "1": logprobs(point)}
    zero = np.zeros(10)
    zero[0] = 1.0
    tree |= {"1.": logprobs(zero), "1.0": logprobs(zero), "0.": logprobs(rng.dirichlet(np.ones(10)))}
    return tree | {f"0.{digit}": logprobs(rng.dirichlet(np.ones(10))) for digit in range(10)}


def answer(tree: dict[str, np.ndarray], text: str) -> AnswerNodes:
    return AnswerNodes(5, text, np.stack([tree[node] for node in path_nodes(text)]))


def test_its_mean_over_the_sampled_answers_is_the_exact_expectation() -> None:
    tree = tree_of(np.random.default_rng(0))
    exact = AnswerTree()
    for node, row in tree.items():
        exact.learn(node, row)
    below = exact.probabilities()[:100] / exact.probabilities()[:100].sum()
    means, variances = path_moments([answer(tree, text) for text in TEXTS[:100]])
    # Every answer below 1 stands for the whole distribution, 1.00 included.
    assert below @ means == pytest.approx(exact.expectation().mean, abs=1e-6)
    # Only the mean of the second decimal differs between them.
    assert np.ptp(means) <= 0.09
    assert np.ptp(means) > 0.01
    assert below @ variances == pytest.approx(exact.expectation().std ** 2, rel=0.1)


def test_an_answer_of_one_is_itself() -> None:
    tree = tree_of(np.random.default_rng(1))
    mean, variance = path_moments([answer(tree, "1.00")])
    assert (mean[0], variance[0]) == (1.0, 0.0)
    assert [part.shape for part in path_moments([])] == [(0,), (0,)]


def test_where_both_decimals_are_one_token_it_is_the_exact_expectation() -> None:
    rng, width = np.random.default_rng(2), len(SYMBOLS) + len(PAIRS)
    rows = np.full((len(NODES), width), -50.0, np.float32)
    rows[NODES.index(""), :2] = np.log([0.9, 0.1])
    rows[[NODES.index("0"), NODES.index("1")], SYMBOLS.index(".")] = 0.0
    rows[NODES.index("0."), len(SYMBOLS) :] = np.log(rng.dirichlet(np.ones(len(PAIRS))))
    rows[NODES.index("1."), len(SYMBOLS)] = 0.0
    exact = AnswerTree()
    exact.learn_all(rows)
    path = rows[[NODES.index(node) for node in path_nodes("0.53")[:3]]]
    (mean,), (variance,) = path_moments([AnswerNodes(5, "0.53", path)])
    assert mean == pytest.approx(exact.expectation().mean, abs=1e-6)
    assert variance == pytest.approx(exact.expectation().std ** 2, abs=1e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_every_answer_has_a_path(text: str) -> None:
    assert path_nodes(text) == tuple(text[:n] for n in range(4))
    assert path_nodes(text + "</answer>") == path_nodes(text)


@pytest.mark.parametrize("text", ["", "0", "0.5", "0.5/", "1.01", "1.5", "2.00", ".50", "00.5", "0.5a", "0.5."])
def test_other_texts_have_none(text: str) -> None:
    assert path_nodes(text) == ()


def test_answers_stand_for_numbers() -> None:
    assert [float(text) for text in TEXTS] == pytest.approx(list(ANSWERS))
