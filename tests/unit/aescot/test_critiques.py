"""Rule-based teacher and judge: clauses, levels, mistakes and tone."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapo.aescot.judge import REJECT_REASONS, judge_critique
from rapo.aescot.leaks.find import find_leak
from rapo.aescot.measure import measure
from rapo.aescot.opinions import tone
from rapo.aescot.writer import level_gap, level_of, parse_levels, parse_overall, phrases, write_critique
from rapo.datasets.scenes import render_scene
from rapo.errors import DataError
from rapo.records import DIMENSIONS, Critique

EVEN = dict.fromkeys(DIMENSIONS, 0.5)
unit = st.floats(0, 1)


def write(measured, score, slip_rate=0.0, seed=0):
    return write_critique("u", measured, score, np.random.default_rng(seed), slip_rate)


def judge(text, measured=EVEN, score=0.5, tolerance=1):
    return judge_critique(Critique("u", text), measured, score, tolerance)


@pytest.fixture(scope="module")
def scenes():
    rendered = [render_scene(np.random.default_rng([9, i]), 84) for i in range(400)]
    return [(measure(scene.image), scene.score) for scene in rendered]


def test_level_bounds():
    assert [level_of(value) for value in (-1, 0, 0.19, 0.2, 0.4, 0.6, 0.8, 1, 2)] == [0, 0, 0, 1, 2, 3, 4, 4, 4]


def test_clauses_are_distinct_and_none_contains_another():
    clauses = phrases()
    assert len(clauses) == 5 * len(DIMENSIONS) + 5
    assert not [(a, b) for a in clauses for b in clauses if a != b and f"; {a};" in f"; {b};"]
    assert not any(find_leak(clause) for clause in clauses)
    assert not any(";" in clause or "." in clause for clause in clauses)


@given(st.tuples(unit, unit, unit, unit, unit), unit)
def test_critique_states_all_dimensions_in_order_and_can_be_read_back(values, score):
    critique = write(dict(zip(DIMENSIONS, values, strict=True)), score)
    assert tuple(parse_levels(critique.text)) == DIMENSIONS
    assert parse_overall(critique.text) == level_of(score)
    keys = [name.split()[0] for name in DIMENSIONS]
    places = [critique.text.index(key) for key in keys]
    assert places == sorted(places)
    assert critique.text.endswith(" picture.")
    assert find_leak(critique.text) == ""


@given(st.tuples(unit, unit, unit, unit, unit), unit)
def test_levels_are_shaded_towards_the_score_by_one_at_most(values, score):
    measured = dict(zip(DIMENSIONS, values, strict=True))
    seen = {name: level_of(value) for name, value in measured.items()}
    stated = parse_levels(write(measured, score).text)
    before, after = level_gap(seen, score), level_gap(stated, score)
    changed = [name for name in DIMENSIONS if stated[name] != seen[name]]
    assert all(abs(stated[name] - seen[name]) == 1 for name in changed)
    assert abs(after) <= abs(before) + 1e-9
    if abs(before) <= 0.4:
        assert not changed


def test_the_dimension_nearest_to_a_boundary_is_shaded_first():
    measured = {**dict.fromkeys(DIMENSIONS, 0.5), "color": 0.58, "exposure": 0.42}
    up, down = parse_levels(write(measured, 0.6).text), parse_levels(write(measured, 0.4).text)
    assert [name for name in DIMENSIONS if up[name] != 2] == ["color"]
    assert [name for name in DIMENSIONS if down[name] != 2] == ["exposure"]


@pytest.mark.parametrize(
    ("measured", "score", "rate", "words"),
    [
        ({}, 0.5, 0, "light and shadow"),
        (EVEN, 1.2, 0, "score"),
        (EVEN, float("nan"), 0, "score"),
        (EVEN, 0.5, 2, "slip"),
    ],
)
def test_bad_input_is_named(measured, score, rate, words):
    with pytest.raises(DataError, match=words):
        write(measured, score, rate)


def test_scenes_are_kept_unless_the_teacher_makes_a_mistake(scenes):
    rng = np.random.default_rng(0)
    verdicts = []
    for measured, score in scenes:
        verdicts.append(judge_critique(write_critique("u", measured, score, rng, 0.04), measured, score, 1))
    kept = np.mean([verdict.keep for verdict in verdicts])
    assert 0.8 < kept < 0.98
    assert all(verdict.keep == (verdict.reason is None) for verdict in verdicts)


def test_judge_finds_every_mistake_and_uses_every_reason(scenes):
    rng = np.random.default_rng(1)
    verdicts = [
        judge_critique(write_critique("u", measured, score, rng, 1.0), measured, score, 1) for measured, score in scenes
    ]
    assert not any(verdict.keep for verdict in verdicts)
    assert all(verdict.detail for verdict in verdicts)
    counts = Counter(verdict.reason for verdict in verdicts)
    assert set(counts) == {"leak", "misaligned", "factual"}
    assert min(counts.values()) > 20


def test_mistakes_come_at_their_rate():
    leaks = [bool(re.search("rate|out of", write(EVEN, 0.5, 0.3, seed).text)) for seed in range(600)]
    assert 0.06 < np.mean(leaks) < 0.14


def test_tolerance_counts_levels():
    text = write(EVEN, 0.5).text
    shifted = {**EVEN, "color": 0.7}
    assert judge(text, shifted, tolerance=1).keep
    verdict = judge(text, shifted, tolerance=0)
    assert (verdict.reason, verdict.detail) == ("factual", "color: stated 'fair', measured 'good'")
    assert judge(text, {**EVEN, "color": 0.9}, tolerance=1).reason == "factual"
    assert judge(text, {**EVEN, "color": 0.9}, tolerance=2).keep


def test_the_first_failed_check_gives_the_reason():
    text = write(EVEN, 0.5).text
    assert judge(text + " A score of 5 for this picture, weak.", {**EVEN, "color": 1.0}, 0.95).reason == "leak"
    assert judge(text, {**EVEN, "color": 1.0}, 0.95).reason == "misaligned"
    assert judge(text, {**EVEN, "color": 1.0}, 0.5).reason == "factual"


def test_mean_level_must_fit_the_score_even_if_the_overall_clause_does():
    text = write(dict.fromkeys(DIMENSIONS, 0.5), 0.5).text.replace("overall a fair", "overall a superb")
    assert judge(text, score=0.9).reason == "misaligned"


def test_free_text_is_judged_by_its_tone():
    praise = "A stunning, harmonious composition with vivid color and elegant light. It is a beautiful image."
    blame = "A dull, flat and cluttered frame. The light is harsh and the subject blurry; it is not a beautiful image."
    assert tone(praise)[0] > 0.9
    assert tone(blame)[0] < -0.9
    assert tone("It isn’t beautiful.") == tone("It isn't beautiful.") == (-1.0, 2)
    assert judge(praise, score=0.9).keep
    assert judge(blame, score=0.1).keep
    assert judge(praise, score=0.1).reason == "misaligned"
    assert judge(blame, score=0.9).reason == "misaligned"
    assert judge("A house by a lake in soft light, its colors pale, framed by two trees; a fine image.", score=0.1).keep


@given(st.text(max_size=200), unit)
def test_judge_never_fails_on_text(text, score):
    verdict = judge(text, {}, score)
    assert verdict.reason in (None, *REJECT_REASONS)
    assert verdict.keep == (verdict.reason is None)


def test_judge_refuses_a_score_out_of_range():
    with pytest.raises(DataError, match="critique of u"):
        judge("text", score=7.0)
