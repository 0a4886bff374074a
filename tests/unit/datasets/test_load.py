"""Loading: splits, subsamples, images that are not usable."""

from __future__ import annotations

import pytest
from label_files import SPLITS, load, make_image, rated, table

from rapo.datasets.splits import hash_fraction
from rapo.errors import DataError


def test_bad_images_are_skipped_and_listed(tmp_path, monkeypatch):
    rows = [{**row, "split": SPLITS[index % 3]} for index, row in enumerate(rated(15))]
    path = table(tmp_path / "t.csv", rows)
    (tmp_path / "img/3.png").unlink()
    (tmp_path / "img/4.png").write_bytes(b"")
    (tmp_path / "img/5.png").write_bytes(b"no image")
    (tmp_path / "img/6.png").write_bytes((tmp_path / "img/7.png").read_bytes()[:60])
    make_image(tmp_path / "img/8.png", size=8)
    dataset = load(path, max_unusable=0.4)
    found = {item["image"]: item["reason"] for item in dataset.skipped}
    assert found == {
        "img/3.png": "missing",
        "img/4.png": "empty",
        "img/5.png": "unknown_format",
        "img/6.png": "truncated",
        "img/8.png": "too_small",
    }
    assert all(item["detail"] for item in dataset.skipped)
    assert len(dataset.records) == 10
    assert sum(dataset.info["skipped"].values()) == 5
    monkeypatch.setattr("rapo.datasets.load.DECODE_UP_TO", 10)
    large = load(path, max_unusable=0.4)
    assert large.info["verify"] == "header"
    assert "truncated" not in large.info["skipped"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_a_usable_image_is_an_error(tmp_path, split):
    rows = [{**row, "split": SPLITS[index % 3]} for index, row in enumerate(rated(9))]
    path = table(tmp_path / "t.csv", rows)
    for row in rows:
        if row["split"] == split:
            (tmp_path / row["image"]).unlink()
    with pytest.raises(DataError, match=rf"none of the 3 images of the {split} split is usable \(3 missing\)"):
        load(path)


def test_a_split_that_does_not_occur_is_an_error(tmp_path):
    path = table(tmp_path / "t.csv", rated(6, split="train"))
    with pytest.raises(DataError, match="no image falls into the test split"):
        load(path)


# Splits and subsamples


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_small_sets_fill_every_split(tmp_path, count):
    for seed in range(6):
        counts = load(table(tmp_path / f"{seed}" / "t.csv", rated(count)), seed=seed).info["counts"]
        assert all(counts[split] >= 1 for split in SPLITS)


def test_hash_is_the_same_on_every_machine():
    assert hash_fraction(0, "ava/1", "split") == 0.9077396259536089


def test_bad_images_do_not_shrink_a_subsample(tmp_path):
    path = table(tmp_path / "t.csv", rated(60))
    picked = load(path, max_train=10)
    for record in picked.split("train")[:4]:
        record.path.unlink()
    again = load(path, max_train=10)
    assert again.info["counts"]["train"] == 10
    assert again.info["skipped"] == {"missing": 4}


def test_images_are_decoded_where_they_are_read(tmp_path):
    rows = [{"image": f"{index}.jpg", "score": 0.5} for index in range(24)]
    assert load(table(tmp_path / "t.csv", rows)).info["verify"] == "decode"
