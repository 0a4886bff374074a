"""Images that are missing or do not fit: what is skipped, what stops the run, and what is said."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from label_files import SPLITS, load, make_image, rated, table

from cluster.files.run_folder import RunFolder
from cluster.pipeline.stages.data import load_data
from rapo.config import load_config
from rapo.errors import DataError
from rapo.models.prompt_length import TOO_LONG


def written(folder: Path, names: list[str], files: list[str]) -> Path:
    """A table of images that lie in other files."""
    path = table(folder / "t.csv", [{"image": name, "score": 0.5} for name in names], images=False)
    for index, file in enumerate(files):
        make_image(folder / file, index)
    return path


@pytest.mark.parametrize(
    ("names", "files", "words"),
    [
        (["a{}.JPG"], ["a{}.jpg"], "'a0.JPG' is there as 'a0.jpg': upper and lower case differ"),
        (["a{}"], ["a{}.png"], "the table leaves the ending out"),
        (["a{}.png"], ["photos/a{}.png"], "is there as 'photos/a0.png': the images lie in a folder of their own"),
        (["photos/a{}.png"], ["a{}.png"], "the table has folders before the name; take 'photos' out of it"),
        (
            ["C:\\x\\img\\a{}.png"],
            ["img/a{}.png"],
            "is there as 'img/a0.png': the table has folders before the name; take 'C:/x' out of it",
        ),
        (["/srv/set/a{}.png"], ["img/a{}.png"], "give it by data.images, and take '/srv/set' out of the table's names"),
        (["a%20{}.png"], ["a {}.png"], "the table has names of URLs"),
        (["\u201ca{}.png\u201d"], ["a{}.png"], "marks, spaces or signs without width"),
        (["a{}.png\u200b\u00a0"], ["a{}.png"], "marks, spaces or signs without width"),
        (["a{}.png"], ["a{}.png/x.png"], "a folder, not an image"),
        (["a{}.png" + "x" * 300], ["a{}.png"], "Images are looked up in"),
        (["caf\u00e9{}.png"], ["cafe\u0301{}.png"], "accents are composed otherwise (NFD)"),
        (["a{}.png"], [], "Images are looked up in"),
    ],
)
def test_missing_images_stop_the_run_with_a_hint(tmp_path, names, files, words):
    names, files = ([pattern.format(i) for pattern in patterns for i in range(9)] for patterns in (names, files))
    with pytest.raises(DataError) as caught:
        load(written(tmp_path, names, files))
    assert words in str(caught.value)
    assert "9 missing" in str(caught.value) or "missing)" in str(caught.value)
    assert len(str(caught.value)) <= 1000


def test_backslashes_are_read_as_slashes(tmp_path):
    path = written(tmp_path, [f"img\\{i}.png" for i in range(9)], [f"img/{i}.png" for i in range(9)])
    assert len(load(path).records) == 9


@pytest.mark.parametrize(("share", "stops"), [(0.2, True), (0.6, False)])
def test_half_of_the_images_missing(tmp_path, share, stops):
    path = table(tmp_path / "t.csv", [{**row, "split": SPLITS[i // 2 % 3]} for i, row in enumerate(rated(40))])
    for index in range(0, 40, 2):
        (tmp_path / f"img/{index}.png").unlink()
    if not stops:
        assert load(path, max_unusable=share).info["skipped"] == {"missing": 20}
        return
    with pytest.raises(DataError, match=r"20 of 40 images cannot be used \(20 missing\).*data\.max_unusable = 0\.2"):
        load(path, max_unusable=share)


def long_and_short(folder: Path) -> Path:
    path = table(folder / "t.csv", rated(12))
    make_image(folder / "img/5.png", 5, size=1100)
    return path


def test_an_image_whose_prompt_does_not_fit_is_listed_before_anything_is_trained(tmp_path):
    settings = [f"data.path={long_and_short(tmp_path)}", "policy.max_pixels=1_000_000"]
    data = load_data(load_config(None, settings), RunFolder(tmp_path / "run"))
    (skipped,) = data.skipped
    assert (skipped["image"], skipped["reason"]) == ("img/5.png", TOO_LONG)
    assert "1100 x 1100 pixels" in skipped["detail"]
    assert len(data.records) == 11
    with pytest.raises(DataError, match=r"img/5\.png: the image has 1100 x 1100 pixels.*'refuse'"):
        load_data(load_config(None, [*settings, "data.long_prompts=refuse"]), RunFolder(tmp_path / "other"))


def test_the_header_alone_tells_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr("rapo.datasets.load.DECODE_UP_TO", 1)
    settings = [f"data.path={long_and_short(tmp_path)}", "policy.max_pixels=1_000_000"]
    data = load_data(load_config(None, settings), RunFolder(tmp_path / "run"))
    assert [item["reason"] for item in data.skipped] == [TOO_LONG]


def test_the_forms_of_a_name_are_two_files_here(tmp_path):
    """What the hint about accents rests on."""
    name = unicodedata.normalize("NFC", "caf\u00e9.png")
    make_image(tmp_path / unicodedata.normalize("NFD", name))
    assert os.listdir(tmp_path) != [name]


@pytest.mark.parametrize(
    ("score", "std", "ok"), [(1.1, 1.0, False), (3.0, 1.9, True), (1.1, 0.3, True), (1.0, 0, True)]
)
def test_a_spread_is_bound_by_its_mean(tmp_path, score, std, ok):
    rows = [{**row, "score": 3.0, "std": 1.0} for row in rated(8)]
    rows[2] |= {"score": score, "std": std}
    path = table(tmp_path / "t.csv", rows)
    if ok:
        assert load(path, score_range=(1, 5)).records
        return
    with pytest.raises(DataError, match=r"line 4: std 1 beside the score 1\.1.*No ratings on \[1, 5\]"):
        load(path, score_range=(1, 5))


def test_equal_scores_are_said(tmp_path):
    dataset = load(table(tmp_path / "t.csv", [{**row, "score": 0.5} for row in rated(8)]))
    (note,) = dataset.info["notes"]
    assert "all 8 scores are 0.5" in note
