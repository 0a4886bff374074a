"""The frozen reader, and how well it tells a model's scores."""

from __future__ import annotations

import numpy as np
import pytest

from rapo.aescot.writer import write_critique
from rapo.explanations.reader import MIN_TEXTS, Reader, consistency, fit_reader
from rapo.metrics import srcc
from rapo.records import DIMENSIONS


def texts(count: int, seed: int) -> tuple[list[str], list[float]]:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=count)
    noise = rng.normal(0, 0.1, (count, len(DIMENSIONS)))
    made = [
        write_critique("u", dict(zip(DIMENSIONS, np.clip(s + n, 0, 1), strict=True)), float(s), rng, 0.0).text
        for s, n in zip(scores, noise, strict=True)
    ]
    return made, scores.tolist()


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(*texts(120, 0))


def test_it_tells_scores_of_texts_that_it_has_not_seen(reader: Reader) -> None:
    unseen, scores = texts(100, 1)
    read = reader.read(unseen)
    assert (srcc(read, scores) or 0.0) > 0.9
    assert np.abs(read - scores).mean() < 0.1
    assert reader.read(["quite other words"])[0] == pytest.approx(reader.read([""])[0])


def test_it_equals_ridge_regression_in_closed_form() -> None:
    made, scores = ["a b", "b", "a", "c"], [0.1, 0.2, 0.6, 0.9]
    features = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], dtype=float)  # a, b, c, "a b"
    target = np.array(scores)
    weights = np.linalg.solve(features.T @ features + np.eye(4), features.T @ (target - target.mean()))
    # The solver is iterative.
    np.testing.assert_allclose(Reader(made, scores).read(made), target.mean() + features @ weights, atol=1e-4)


def test_the_order_of_the_texts_has_no_effect() -> None:
    made, scores = texts(60, 0)
    other = Reader(made[::-1], scores[::-1])
    np.testing.assert_allclose(Reader(made, scores).read(made), other.read(made), atol=1e-4)


def test_consistency_falls_with_scores_that_the_text_does_not_give(reader: Reader) -> None:
    made, scores = texts(100, 2)
    shuffled = np.random.default_rng(0).permutation(scores)
    whole, lost = consistency(reader, made, scores, bootstrap=200), consistency(reader, made, shuffled, bootstrap=200)
    assert whole["srcc"] is not None
    assert whole["interval"] is not None
    assert whole["interval"][0] < whole["srcc"] < whole["interval"][1]
    assert whole["interval"][0] > 0.85
    assert abs(lost["srcc"] or 0.0) < 0.25
    assert whole["texts"] == 120


def test_texts_that_are_all_alike_tell_nothing(reader: Reader) -> None:
    found = consistency(reader, ["superb light, deep shadow"] * 4, [0.1, 0.2, 0.3, 0.4], bootstrap=10)
    assert (found["srcc"], found["interval"]) == (0.0, None)
    assert consistency(reader, ["superb light", "poor light", "good light"], [0.5] * 3)["srcc"] is None
    assert consistency(reader, [], [], bootstrap=10)["srcc"] is None


def test_few_texts_teach_no_reader() -> None:
    made, scores = texts(MIN_TEXTS, 0)
    assert fit_reader(made[1:], scores[1:]) is None
    assert fit_reader(made, scores) is not None
    assert consistency(None, made, scores, bootstrap=10) == {"srcc": None, "interval": None, "texts": 0}
