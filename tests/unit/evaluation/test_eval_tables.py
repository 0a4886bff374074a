"""Evaluation tables: the paper's rows beside the measured ones, and figures that are undefined."""

from __future__ import annotations

import numpy as np
from eval_builders import facts, noisy, predicted

from cluster.evaluation.render import markdown, page
from rapo.evaluation.comparison import Comparer
from rapo.evaluation.published import CAVEATS, FULL_SPLIT, PAPER, PAPER_SETS
from rapo.evaluation.tables import NONE, evaluation_tables


def tables(sets, predictions, notes=()):
    return evaluation_tables(Comparer(sets, predictions, 50).compare("expected", notes))


def test_published_means_are_those_of_their_rows():
    for row in (*PAPER, *FULL_SPLIT):
        if row.mean is None:
            continue
        means = np.mean([row.sets[name] for name in PAPER_SETS], axis=0)
        # DeQA-Score's is .002 off in the paper itself.
        np.testing.assert_allclose(row.mean, means, atol=2e-3, err_msg=row.model)


def test_the_papers_rows_stand_beside_its_sets_and_its_mean_beside_all_five():
    sets = {f"my {name}": facts(9, name) for name in PAPER_SETS}
    one = {name: predicted(*noisy(9, 0.1)) for name in sets}
    made = tables(sets, {"mine": one})
    overview = made.tables[0]
    assert overview.columns == ["PLCC / SRCC", *sets, "mean"]
    measured, paper, full = overview.sections
    assert measured.rows[0][0] == "mine"
    assert paper.rows[-1] == [
        "Aes-R1",
        "0.4513 / 0.4248",
        "0.6702 / 0.6619",
        "0.7243 / 0.6973",
        "0.7842 / 0.7666",
        "0.5386 / 0.5423",
        "0.6337 / 0.6186",
    ]
    assert ["Q-Align (pyiqa), on AVA", NONE, "0.8192 / 0.8223", NONE, NONE, NONE, NONE] in full.rows
    assert set(CAVEATS) <= set(made.notes)
    some = {name: sets[name] for name in ("my ava", "my aadb")} | {"other": facts(9)}
    overview = tables(some, {"mine": {name: predicted(*noisy(9, 0.1)) for name in some}}).tables[0]
    assert overview.sections[1].rows[-1] == ["Aes-R1", "0.6702 / 0.6619", "0.5386 / 0.5423", NONE, NONE]


def test_other_sets_have_no_published_rows():
    made = tables({"mine": facts(9)}, {"m": {"mine": predicted(*noisy(9, 0.1))}})
    assert len(made.tables[0].sections) == 1
    assert made.tables[0].columns == ["PLCC / SRCC", "mine"]
    assert not set(CAVEATS) & set(made.notes)


def test_an_undefined_figure_is_called_so_and_explained():
    targets = noisy(9, 0.1)[1]
    made = tables({"d": facts(9, "ava")}, {"flat": {"d": predicted([0.5] * 9, targets)}}, ["a <b> note"])
    assert made.tables[0].sections[0].rows == [["flat", "undefined [1]"]]
    assert "[1] undefined: all predictions are equal" in made.notes
    text = markdown(made)
    assert "| flat | undefined [1] |" in text
    assert "- [1] undefined: all predictions are equal" in text
    assert "- a &lt;b> note" in text
    html = page(made)
    assert "<td>undefined [1]</td>" in html
    assert "a &lt;b&gt; note" in html
    agreement = made.tables[1].sections[0].rows[0]
    assert agreement[1:5] == ["undefined [1]", "undefined [1]", "undefined [1]", "1.000"]


def test_differences_come_with_two_models():
    scores, targets = noisy(30, 0.2)
    sides = {"b": {"d": predicted(scores, targets)}, "a": {"d": predicted(targets, targets)}}
    made = tables({"d": facts(30)}, sides)
    row = made.tables[-1].sections[0].rows[0]
    assert row[0] == "a - b"
    assert row[1].startswith("+0.")
    assert row[3].startswith("-0.")
    assert row[4] == "30"


def test_a_sample_is_called_one():
    made = tables({"d": {**facts(9), "there": 1000}}, {"m": {"d": predicted(*noisy(9, 0.1))}})
    assert any("9 images, a sample of 1,000" in note for note in made.notes)
