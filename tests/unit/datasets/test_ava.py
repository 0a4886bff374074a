"""AVA layout: votes, lists, bad lines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from label_files import SPLITS, ava, load, uids

from rapo.datasets.layouts.ava import vote_statistics
from rapo.errors import ConfigError, DataError


@pytest.mark.parametrize("where", ["images", "image", "."])
def test_ava(tmp_path, where):
    dataset = load(ava(tmp_path, where=where))
    assert dataset.name == "ava"
    assert uids(dataset, "test") == {f"ava/{1000 + index}" for index in range(5)}
    assert dataset.info["counts"]["test"] == 5
    assert dataset.info["counts"]["validation"] >= 1
    assert sum(dataset.info["counts"].values()) == len(dataset.records) == 30
    assert dataset.skipped == ()
    record = dataset.records[7]
    written = (tmp_path / "AVA.txt").read_text().splitlines()[7].split()
    assert record.votes == tuple(map(int, written[2:12]))
    raters = np.repeat(np.arange(1, 11), record.votes)
    assert record.native_score == pytest.approx(raters.mean())
    assert record.score == pytest.approx((raters.mean() - 1) / 9)
    assert record.std == pytest.approx(raters.std() / 9)
    assert record.native_range == (1.0, 10.0)
    assert record.path == tmp_path / where / "1007.jpg"
    assert dataset.info["label_mean"] == pytest.approx(np.mean([item.score for item in dataset.records]))
    json.dumps(dataset.info, allow_nan=False)


def test_ava_validation_list(tmp_path):
    dataset = load(ava(tmp_path, validation=4))
    assert uids(dataset, "validation") == {f"ava/{1005 + index}" for index in range(4)}
    assert "validation.jpgl" in dataset.info["split_source"]


def test_ava_normalizer_max(tmp_path):
    record = load(ava(tmp_path), normalizer="max").records[3]
    assert record.score == pytest.approx(record.native_score / 10)


def test_ava_without_lists_falls_back_to_the_hash(tmp_path):
    dataset = load(ava(tmp_path, test=0))
    assert dataset.info["split_source"] == "hash"
    assert all(dataset.info["counts"][split] for split in SPLITS)


def test_ava_tolerates_a_byte_order_mark_and_blanks(tmp_path):
    text = ava(tmp_path) / "AVA.txt"
    text.write_text("\ufeff" + text.read_text().replace("\n", "  \n\n"))
    listed = tmp_path / "aesthetics_image_lists" / "generic_test.jpgl"
    listed.write_text("\ufeff" + listed.read_text().replace("\n", " \r\n\n"))
    dataset = load(tmp_path)
    assert len(dataset.records) == 30
    assert dataset.info["counts"]["test"] == 5


def test_ava_rows_without_votes_are_listed(tmp_path):
    text = ava(tmp_path) / "AVA.txt"
    text.write_text(text.read_text() + "31 5555 0 0 0 0 0 0 0 0 0 0 0 0 1\n")
    dataset = load(tmp_path)
    assert [item["reason"] for item in dataset.skipped] == ["no_votes"]
    assert dataset.skipped[0]["image"] == "5555"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("31 9 1 2 3", "line 31: 5 columns"),
        ("31 9 1 2 3 x 5 6 7 8 9 10 0 0 1", "line 31"),
        ("31 9 1 2 3 -4 5 6 7 8 9 10 0 0 1", "negative"),
        ("31 1003 1 2 3 4 5 6 7 8 9 10 0 0 1", "'1003' is already in line 4"),
    ],
)
def test_ava_bad_lines(tmp_path, line, message):
    text = ava(tmp_path) / "AVA.txt"
    text.write_text(text.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_ava_scale_is_fixed(tmp_path):
    with pytest.raises(ConfigError, match="score_range"):
        load(ava(tmp_path), score_range=(0, 5))


def test_vote_statistics():
    mean, std = vote_statistics((0, 0, 0, 0, 1, 1, 0, 0, 0, 0))
    assert (mean, std) == (5.5, 0.5)


# Tables
