"""Readout `expected`: against brute force over all 101 answers."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.answers.readout import ANSWERS, CLOSED, NEGLIGIBLE, NODES, SYMBOLS, TEXTS, AnswerTree, expectation
from rapo.errors import ServiceError


def model(seed: int, sharpness: float = 1.0) -> dict[str, np.ndarray]:
    """Log-probs of a random model, which at every node may also write no character of an answer."""
    rng = np.random.default_rng(seed)
    logprobs = {}
    for node in NODES:
        logits = sharpness * rng.normal(size=len(SYMBOLS) + 1)
        logprobs[node] = (logits - np.logaddexp.reduce(logits))[: len(SYMBOLS)]
    return logprobs


def learned(logprobs: dict[str, np.ndarray]) -> AnswerTree:
    tree = AnswerTree()
    for node in NODES:
        tree.learn(node, logprobs[node])
    return tree


def brute_force(logprobs: dict[str, np.ndarray]) -> np.ndarray:
    """The probability of each answer, from the sums of the log-probs of the symbols of every way to
    write it."""

    def chance(text: str) -> float:
        return float(np.exp(sum(logprobs[text[:i]][SYMBOLS.index(text[i])] for i in range(len(text)))))

    ways = {"0.00": ["0", "0.0"], "1.00": ["1", "1.0"]}
    return np.array(
        [
            sum(map(chance, [text, *(way + CLOSED for way in ways.get(text, [text[:3]] if text[3] == "0" else []))]))
            for text in TEXTS
        ]
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
        AnswerTree().learn("0", [-3.0] * 12)


def test_a_node_that_is_never_reached_is_not_missing() -> None:
    tree = AnswerTree()
    tree.learn("", np.log([0.9, 1e-12, *[1e-30] * 10]))
    assert tree.missing() == ["0"]
    tree.learn("0", np.log([*[1e-30] * 10, 1.0, 1e-30]))
    tree.learn("0.", np.log([*[1e-30] * 6, 0.7, 0.3, 1e-11, *[1e-30] * 3]))
    assert tree.missing() == ["0.6", "0.7"]
    for node in ("0.6", "0.7"):
        tree.learn(node, np.log([0.1] * 10 + [1e-30] * 2))
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
    with pytest.raises(ServiceError, match="no number"):
        expectation(np.zeros(101))


def test_missing_nodes_are_named() -> None:
    with pytest.raises(ValueError, match=r"missing after \[''\]"):
        AnswerTree().expectation()


@pytest.mark.parametrize(
    ("node", "logprobs"), [("2", [-1.0] * 12), ("", [-1.0] * 11), ("", [0.5] * 12), ("", [float("nan")] * 12)]
)
def test_values_that_are_no_log_probs_are_refused(node: str, logprobs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"node|log-probs"):
        AnswerTree().learn(node, logprobs)


@pytest.mark.parametrize("seed", range(5))
def test_held_to_numbers_it_is_what_constrained_decoding_samples(seed: int) -> None:
    logprobs, rng, found = model(seed), np.random.default_rng(seed), []
    allowed = {"": "01", "0": "./", "1": "./", "0.": "0123456789", "1.": "0", "1.0": "0/"}
    allowed |= {f"0.{digit}": "0123456789/" for digit in range(10)}
    for _ in range(20_000):
        text = ""
        while text in NODES:
            chances = np.exp([logprobs[text][SYMBOLS.index(symbol)] for symbol in allowed[text]])
            text += str(rng.choice(list(allowed[text]), p=chances / chances.sum()))
        found.append(float(text.removesuffix(CLOSED)))
    tree = learned(logprobs)
    held = tree.expectation(held=True)
    assert held.mean == pytest.approx(np.mean(found), abs=4 * held.std / len(found) ** 0.5)
    assert tree.probabilities(held=True).sum() == pytest.approx(1.0)
    assert held.outside == tree.expectation().outside > 0.1
    assert held.mean != tree.expectation().mean


def test_a_node_that_only_a_held_model_reaches_is_missing() -> None:
    tree = AnswerTree()
    tree.learn("", np.log([1e-10, 1e-12, *[1e-30] * 10]))
    assert tree.missing() == ["0", "1"]
