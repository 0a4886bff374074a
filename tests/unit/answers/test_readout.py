"""Readout `expected`: against brute force over all 101 answers."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.answers.readout import ANSWERS, CHARACTERS, NEGLIGIBLE, NODES, TEXTS, AnswerTree, expectation
from rapo.errors import ServiceError


def model(seed: int, sharpness: float = 1.0) -> dict[str, np.ndarray]:
    """Log-probs of a random model, which at every node may also write no character of an answer."""
    rng = np.random.default_rng(seed)
    logprobs = {}
    for node in NODES:
        logits = sharpness * rng.normal(size=len(CHARACTERS) + 1)
        logprobs[node] = (logits - np.logaddexp.reduce(logits))[: len(CHARACTERS)]
    return logprobs


def learned(logprobs: dict[str, np.ndarray]) -> AnswerTree:
    tree = AnswerTree()
    for node in NODES:
        tree.learn(node, logprobs[node])
    return tree


def brute_force(logprobs: dict[str, np.ndarray]) -> np.ndarray:
    """The probability of each answer, from the sum of the log-probs of its characters."""
    return np.array(
        [np.exp(sum(logprobs[text[:i]][CHARACTERS.index(text[i])] for i in range(len(text)))) for text in TEXTS]
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
def test_it_is_the_sum_over_all_answers(seed: int, sharpness: float) -> None:
    logprobs = model(seed, sharpness)
    p = brute_force(logprobs)
    read = learned(logprobs).expectation()
    share = p / p.sum()
    mean = sum(s * a for s, a in zip(share, ANSWERS, strict=True))
    assert read.mean == pytest.approx(mean, abs=1e-12)
    assert read.std == pytest.approx(np.sqrt(sum(s * (a - mean) ** 2 for s, a in zip(share, ANSWERS, strict=True))))
    assert read.outside == pytest.approx(1 - p.sum(), abs=1e-12)
    sampled = np.random.default_rng(seed).choice(ANSWERS, size=200_000, p=share)
    assert abs((sampled <= read.low).mean() - (sampled < read.low).mean()) > 0
    assert (sampled < read.low).mean() <= 0.055
    assert (sampled <= read.low).mean() >= 0.045
    assert (sampled <= read.high).mean() >= 0.945
    assert (sampled < read.high).mean() <= 0.955


def test_every_node_is_missing_at_some_point() -> None:
    logprobs, tree, learned_nodes = model(0), AnswerTree(), []
    while missing := tree.missing():
        for node in missing:
            tree.learn(node, logprobs[node])
            learned_nodes.append(node)
    assert sorted(learned_nodes) == sorted(NODES)
    assert len(NODES) == 16


def test_a_child_is_not_learned_before_its_parent() -> None:
    assert AnswerTree().missing() == [""]
    with pytest.raises(ValueError, match="node"):
        AnswerTree().learn("0", [-3.0] * 11)


def test_a_node_that_is_never_reached_is_not_missing() -> None:
    tree = AnswerTree()
    tree.learn("", np.log([0.9, 1e-12, *[1e-30] * 9]))
    assert tree.missing() == ["0"]
    tree.learn("0", np.log([*[1e-30] * 10, 1.0]))
    tree.learn("0.", np.log([*[1e-30] * 6, 0.7, 0.3, 1e-11, *[1e-30] * 2]))
    assert tree.missing() == ["0.6", "0.7"]
    for node in ("0.6", "0.7"):
        tree.learn(node, np.log([0.1] * 10 + [1e-30]))
    read = tree.expectation()
    assert read.mean == pytest.approx(0.7 * 0.645 + 0.3 * 0.745, abs=1e-9)
    assert read.outside == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_negligible_nodes_do_not_change_the_mean(seed: int) -> None:
    logprobs = model(seed) | {node: model(seed, sharpness=15.0)[node] for node in ("0.", "1.")}
    whole, lazy = learned(logprobs).expectation(), AnswerTree()
    learned_nodes = 0
    while missing := lazy.missing():
        lazy.learn(missing[0], logprobs[missing[0]])
        learned_nodes += 1
    assert learned_nodes < len(NODES)
    assert lazy.expectation().mean == pytest.approx(whole.mean, abs=len(NODES) * NEGLIGIBLE / (1 - whole.outside))


def test_a_certain_answer_has_no_spread() -> None:
    p = np.zeros(101)
    p[37] = 1e-3
    read = expectation(p)
    assert (read.mean, read.low, read.high) == (pytest.approx(0.37), 0.37, 0.37)
    assert read.std == pytest.approx(0.0, abs=1e-9)
    assert read.outside == pytest.approx(0.999)


def test_a_model_that_never_answers_has_no_score() -> None:
    with pytest.raises(ServiceError, match="no answer"):
        expectation(np.zeros(101))


def test_missing_nodes_are_named() -> None:
    with pytest.raises(ValueError, match=r"missing after \[''\]"):
        AnswerTree().expectation()


@pytest.mark.parametrize(
    ("node", "logprobs"), [("2", [-1.0] * 11), ("", [-1.0] * 10), ("", [0.5] * 11), ("", [float("nan")] * 11)]
)
def test_values_that_are_no_log_probs_are_refused(node: str, logprobs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"node|log-probs"):
        AnswerTree().learn(node, logprobs)
