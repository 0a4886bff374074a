"""Given predictions: columns, scales, and which row belongs to which image."""

from __future__ import annotations

from pathlib import Path

import pytest
from eval_builders import eval_set
from label_files import table

from rapo.errors import DataError
from rapo.evaluation.given import GivenPredictions, GivenScale
from rapo.evaluation.sets import EvalSet

TARGETS = [0.1, 0.5, 0.9]


@pytest.fixture
def one(tmp_path: Path) -> EvalSet:
    return eval_set(tmp_path, TARGETS)


def scores(path: Path, one: EvalSet, scale: GivenScale | None = None) -> list[float | None]:
    found, _ = GivenPredictions(path).predicted(one, scale)
    assert found is not None
    return [prediction.score for prediction in found.predictions]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
@pytest.mark.parametrize("column", ["prediction", "aesthetic_score", "pred_score", "score"])
def test_any_table_with_any_usual_name(tmp_path, one, name, column):
    rows = [{"image": f"{index}.jpg", column: 0.2 * index, "gt_score": 0.5} for index in range(3)]
    assert scores(table(tmp_path / name, rows, images=False), one) == pytest.approx([0.0, 0.2, 0.4])


def test_rows_are_found_by_uid_path_or_the_end_of_a_path(tmp_path, one):
    path = tmp_path / "p.csv"
    path.write_text(f"image,prediction\nd/0.jpg,.1\n{tmp_path}/d/1.jpg,.2\nelsewhere/2.jpg,.3\n")
    assert scores(path, one) == [0.1, 0.2, 0.3]
    path.write_text("0,.1\n1,.2\n2,.3\n")  # ids without an ending, and no header
    assert scores(path, one) == [0.1, 0.2, 0.3]


def test_the_data_set_and_longer_paths_decide_between_equal_names(tmp_path, one):
    path = tmp_path / "p.csv"
    path.write_text("image,prediction,dataset\n0.jpg,.1,d\n0.jpg,.9,other\n1.jpg,.2,d\n2.jpg,.3,d\n")
    assert scores(path, one) == [0.1, 0.2, 0.3]
    path.write_text("image,prediction\nd/0.jpg,.1\nother/0.jpg,.9\nd/1.jpg,.2\nd/2.jpg,.3\n")
    assert scores(path, one) == [0.1, 0.2, 0.3]
    path.write_text("image,prediction\na/0.jpg,.1\nb/0.jpg,.9\n")
    with pytest.raises(DataError, match=r"line 2 \(a/0.jpg\) and line 3 \(b/0.jpg\) may both be the image 'd/0.jpg'"):
        scores(path, one)


def test_a_row_is_of_one_image_only(tmp_path, one):
    path = tmp_path / "p.csv"
    path.write_text("image,prediction\n0.jpg,.1\n1.jpg,.2\n2.jpg,.3\n")
    given, other = GivenPredictions(path), eval_set(tmp_path, TARGETS, "other")
    assert given.predicted(one, None)[0] is not None
    with pytest.raises(DataError, match=r"line 2 \(0.jpg\) may be the image 'd/0.jpg' and 'other/0.jpg'; add a column"):
        given.predicted(other, None)


def test_an_image_without_a_row_or_a_number_is_one_without_a_score(tmp_path, one):
    path = tmp_path / "p.csv"
    path.write_text("image,prediction\n0.jpg,.1\n1.jpg,nan\n")
    found, notes = GivenPredictions(path).predicted(one, None)
    assert found is not None
    assert [(p.score, p.reason) for p in found.predictions] == [(0.1, None), (None, "not_a_number"), (None, "no_row")]
    assert "no row for 1 of 3 images of d, for example 'd/2.jpg'" in notes[0]


def test_what_a_file_leaves_out_is_said_once(tmp_path, one):
    path = tmp_path / "p.csv"
    path.write_text("# by another model\nimage,prediction\n0.jpg,.1\n1.jpg,.2\n2.jpg,.3\n")
    given = GivenPredictions(path)
    assert "begin with # are passed over: 1" in given.predicted(one, None)[1][0]
    assert given.predicted(one, None)[1] == []


def test_a_set_without_any_row_has_no_predictions(tmp_path, one):
    path = tmp_path / "p.csv"
    path.write_text("image,prediction\nx.jpg,.1\n")
    found, notes = GivenPredictions(path).predicted(one, None)
    assert found is None
    assert "no row for d" in notes[0]


def test_scales(tmp_path, one):
    path = tmp_path / "p.csv"
    path.write_text("image,prediction\n0.jpg,1\n1.jpg,3\n2.jpg,5\n")
    unscaled, _ = GivenPredictions(path).predicted(one, None)
    assert unscaled is not None
    assert unscaled.unscaled is not None
    assert "reach from 1 to 5" in unscaled.unscaled
    assert scores(path, one, GivenScale((1.0, 5.0))) == [0.0, 0.5, 1.0]
    assert scores(path, one, GivenScale(None)) == pytest.approx([0.0, 2 / 9, 4 / 9])  # the set's own, 1 to 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,stars\n0.jpg,1\n", "none of the columns aesthetic_score"),
        ("picture,prediction\n0.jpg,1\n", "none of the columns uid, image"),
        ("image,prediction\n", "holds no"),
        ("image,prediction,prediction\n0.jpg,.1,.2\n", "the column 'prediction' twice"),
        ("image,Prediction,prediction\n0.jpg,.1,.2\n", "the columns 'Prediction' and 'prediction'; keep one"),
    ],
)
def test_a_file_that_is_no_table_of_predictions(tmp_path, text, words):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        GivenPredictions(path)
