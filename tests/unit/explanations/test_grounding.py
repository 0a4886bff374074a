"""Grounding: agreement of rationales with attributes, and what does not pay."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from rapo.aescot.writer import level_of, write_critique
from rapo.arrays import Floats
from rapo.explanations.grounding import grounding
from rapo.records import DIMENSIONS

N = 60


@pytest.fixture(scope="module")
def attributes() -> Floats:
    return np.random.default_rng(0).uniform(size=(N, len(DIMENSIONS)))


def critiques(values: Floats) -> list[str]:
    """Critiques that state the levels of `values`. The score is their mean, so that none is
    shaded."""
    rng = np.random.default_rng(0)
    texts = []
    for row in values:
        score = (np.mean([level_of(value) for value in row]) + 0.5) / 5
        texts.append(write_critique("u", dict(zip(DIMENSIONS, row, strict=True)), float(score), rng, 0.0).text)
    return texts


def test_true_statements_are_grounded_and_swapped_ones_are_not(attributes: Floats) -> None:
    true, swapped = grounding(critiques(attributes), attributes), grounding(critiques(attributes[::-1]), attributes)
    assert true["mean"] is not None
    assert true["mean"] > 0.95
    assert true["coverage"] == 1.0
    assert abs(swapped["mean"] or 0.0) < 0.3
    levels = [level_of(value) for value in attributes[:, 3]]
    assert true["dimensions"]["color"]["srcc"] == pytest.approx(stats.spearmanr(levels, attributes[:, 3]).statistic)


def test_a_constant_dimension_counts_as_nothing(attributes: Floats) -> None:
    said = attributes.copy()
    said[:, 4] = 0.9
    found, whole = grounding(critiques(said), attributes, bootstrap=20), grounding(critiques(attributes), attributes)
    row = found["dimensions"]["exposure"]
    assert (row["srcc"], row["interval"], row["alike"], row["stated"]) == (None, None, 1.0, 1.0)
    rest = [whole["dimensions"][name]["srcc"] or 0.0 for name in DIMENSIONS[:4]]
    assert found["mean"] == pytest.approx(sum(rest) / 5)


def test_silence_on_hard_images_does_not_pay(attributes: Floats) -> None:
    texts = critiques(attributes)
    silent = [text if place % 4 == 0 else "overall a good picture." for place, text in enumerate(texts)]
    found = grounding(silent, attributes)
    assert found["coverage"] == pytest.approx(0.25)
    assert found["dimensions"]["color"]["stated"] == pytest.approx(0.25)
    assert (found["dimensions"]["color"]["srcc"] or 0.0) > 0.9, "the SRCC is over the images that it is said of"
    assert found["mean"] is not None
    assert found["mean"] < 0.25


def test_images_without_attributes_count_for_coverage_only(attributes: Floats) -> None:
    texts = critiques(attributes)
    partly = attributes.copy()
    partly[::2] = np.nan
    half, found = grounding(texts[1::2], attributes[1::2], bootstrap=50), grounding(texts, partly, bootstrap=50)
    assert found == half
    none = grounding(texts, np.full_like(attributes, np.nan), bootstrap=50)
    assert (none["mean"], none["interval"], none["coverage"]) == (None, None, 1.0)


def test_intervals_equal_resampling_one_by_one(attributes: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    said = np.clip(attributes + np.random.default_rng(1).normal(0, 0.4, attributes.shape), 0, 1)
    texts = critiques(said)
    texts[0] = texts[0].split(";")[0]  # the others are not stated
    rng = np.random.default_rng(3)
    samples = [rng.integers(0, N, (1, N))[0] for _ in range(50)]
    singles = [grounding([texts[i] for i in rows], attributes[rows]) for rows in samples]
    monkeypatch.setattr("rapo.resampling._BLOCK_ELEMENTS", 1)
    found = grounding(texts, attributes, bootstrap=50, seed=3)
    means = [single["mean"] for single in singles]
    assert found["interval"] == pytest.approx(np.quantile(np.asarray(means, np.float64), (0.025, 0.975)).tolist())
    colors = [single["dimensions"]["color"]["srcc"] for single in singles]
    assert found["dimensions"]["color"]["interval"] == pytest.approx(
        np.quantile(np.asarray(colors, np.float64), (0.025, 0.975)).tolist()
    )


def test_a_statement_that_hardly_varies_has_an_interval_that_holds_zero(attributes: Floats) -> None:
    said = attributes.copy()
    said[:, 4] = 0.9
    said[int(attributes[:, 4].argmin()), 4] = 0.1
    row = grounding(critiques(said), attributes, bootstrap=200)["dimensions"]["exposure"]
    assert row["alike"] == pytest.approx(1 - 1 / N)
    assert row["interval"] is not None
    assert row["interval"][0] == 0.0


@pytest.mark.parametrize("texts", [[], ["good light, clear shadow."], ["", ""], ["fair color, muted."] * 4])
def test_undefined_is_none_and_always_json(texts: list[str]) -> None:
    attributes = np.random.default_rng(0).uniform(size=(len(texts), len(DIMENSIONS)))
    found = grounding(texts, attributes, bootstrap=10)
    json.dumps(found, allow_nan=False)
    assert found["mean"] == (0.0 if texts else None)
    assert all(row["srcc"] is None and row["interval"] is None for row in found["dimensions"].values())
