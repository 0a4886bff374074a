"""SoftLabel: the human score as a distribution, node by node."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.algorithm.soft_label import joined_labels, soft_labels
from rapo.answers.readout import ANSWERS, NODES, PAIRS, SYMBOLS, AnswerTree


def soft_label_density(target: float) -> np.ndarray:
    density = np.exp(-0.5 * np.square((ANSWERS - target) / 0.05))
    return density / density.sum()


@pytest.mark.parametrize("target", [0.0, 0.031, 0.5, 0.87, 1.0])
def test_a_model_that_equals_the_label_answers_with_its_density(target: float) -> None:
    (label,) = soft_labels([target], 0.05)
    assert label.shape == (len(NODES), len(SYMBOLS))
    np.testing.assert_allclose(label.sum(axis=1), 1.0)
    tree = AnswerTree()
    for node, row in zip(NODES, label, strict=True):
        with np.errstate(divide="ignore"):
            tree.learn(node, np.log(row))
    np.testing.assert_allclose(tree.probabilities(), soft_label_density(target), atol=1e-12)


@pytest.mark.parametrize("target", [0.0, 0.031, 0.5, 0.87, 1.0])
def test_the_same_holds_where_both_decimals_are_one_token(target: float) -> None:
    (label,) = joined_labels([target], 0.05)
    assert label.shape == (len(NODES), len(SYMBOLS) + len(PAIRS))
    np.testing.assert_allclose(label.sum(axis=1), 1.0)
    assert label[NODES.index("0."), : len(SYMBOLS)].sum() == 0.0, "no single digit"
    tree = AnswerTree()
    with np.errstate(divide="ignore"):
        tree.learn_all(np.log(label))
    np.testing.assert_allclose(tree.probabilities(), soft_label_density(target), atol=1e-12)


def test_a_node_far_from_the_score_points_towards_it() -> None:
    near, far = soft_labels([0.2, 0.2], 0.02)[0], NODES.index("0.9")
    assert near[far].argmax() == 0
    assert near[NODES.index("0.0")].argmax() == 9
    assert near[NODES.index("0.")].argmax() in (1, 2)


def test_each_image_has_its_own() -> None:
    low, high = soft_labels([0.1, 0.9], 0.05)
    assert low[NODES.index("0.")].argmax() in (0, 1)
    assert high[NODES.index("0.")].argmax() in (8, 9)
