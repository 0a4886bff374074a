"""Tables: formats, columns, bad labels."""

from __future__ import annotations

import numpy as np
import pytest
from label_files import SPLITS, ava, load, make_image, rated, table, uids

from rapo.config import DataConfig, ImageConfig
from rapo.datasets.load import load_dataset
from rapo.datasets.splits import hash_splits, subsample
from rapo.errors import ConfigError, DataError


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_table_formats_agree(tmp_path, suffix):
    rows = [{**row, "std": 0.5 * (index > 0), "split": SPLITS[index % 3]} for index, row in enumerate(rated(12))]
    dataset = load(table(tmp_path / f"mine{suffix}", rows), score_range=(0, 10))
    assert dataset.name == "mine"
    assert [record.split for record in dataset.records] == list(SPLITS) * 4
    record = dataset.records[6]
    assert record.uid == "mine/img/6.png"
    assert (record.native_score, record.score, record.std) == (0.5, 0.05, 0.05)
    assert record.path == tmp_path / "img/6.png"


def test_table_accepts_gt_score_and_a_folder_of_images(tmp_path):
    rows = [{"image": f"{index}.png", "gt_score": index / 10} for index in range(6)]
    path = table(tmp_path / "t.json", rows, images=False)
    for index in range(6):
        make_image(tmp_path / "elsewhere" / f"{index}.png")
    dataset = load(path, images=tmp_path / "elsewhere", name="other", role="split")
    assert dataset.name == "other"
    assert dataset.records[2].path == tmp_path / "elsewhere" / "2.png"
    assert {record.uid for record in dataset.records} == {f"other/{index}.png" for index in range(6)}


def test_table_absolute_paths(tmp_path):
    rows = [{"image": str(tmp_path / "img" / f"{index}.png"), "score": 0.5} for index in range(4)]
    dataset = load(table(tmp_path / "t.csv", rows))
    assert dataset.records[1].path == tmp_path / "img/1.png"
    assert dataset.records[1].uid == "t/img/1.png"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_byte_order_mark_spaces_and_other_delimiters(tmp_path, delimiter):
    lines = ["\ufeff image , score ", "", " a b.png , 0.5", "b.png, 0.25 ", "c.png,0.75"]
    (tmp_path / "t.csv").write_text("\r\n".join(line.replace(",", delimiter) for line in lines))
    for name in ("a b", "b", "c"):
        make_image(tmp_path / f"{name}.png")
    dataset = load(tmp_path / "t.csv")
    assert {record.uid: record.score for record in dataset.records} == {
        "t/a b.png": 0.5,
        "t/b.png": 0.25,
        "t/c.png": 0.75,
    }


@pytest.mark.parametrize(
    ("word", "split"), [("Training", "train"), (" val ", "validation"), ("dev", "validation"), ("TEST", "test")]
)
def test_split_words(tmp_path, word, split):
    rows = [{**row, "split": ("train", "validation", "test")[index % 3]} for index, row in enumerate(rated(6))]
    rows.append({"image": "img/x.png", "score": 0.5, "split": word})
    assert load(table(tmp_path / "t.csv", rows)).records[-1].split == split


def test_a_column_without_validation_has_it_carved_from_train(tmp_path):
    rows = [{**row, "split": "test" if index < 10 else "train"} for index, row in enumerate(rated(60))]
    dataset = load(table(tmp_path / "t.csv", rows))
    assert dataset.info["counts"]["test"] == 10
    assert 1 <= dataset.info["counts"]["validation"] <= 15


def test_scores_outside_the_range_are_named_with_the_fix(tmp_path):
    rows = rated(30)
    for index in (2, 4, 6, 8, 10, 12, 14):
        rows[index]["score"] = 7.5
    path = table(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match="score_range = ") as undeclared:
        load(path)
    assert "7.5" in str(undeclared.value)
    with pytest.raises(DataError) as declared:
        load(path, score_range=(0, 5))
    message = str(declared.value)
    assert all(f"line {line}:" in message for line in (4, 6, 8, 10, 12))
    assert "line 14:" not in message
    assert "2 more" in message
    assert "[0, 5]" in message
    assert load(path, score_range=(0, 10)).records[2].score == 0.75


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("image,score\n", "no rows"),
        ("picture,score\na.png,1\n", r"no column 'image'.*picture"),
        ("image,stars\na.png,1\n", r"no column 'score'.*stars"),
        ("image,score\na.png,good\n", "line 2: score 'good' is not a number"),
        ("image,score\na.png,\n", "line 2: score '' is not a number"),
        ("image,score\na.png,nan\n", "finite"),
        ("image,score\na.png\n", "line 2: score ''"),
        ("image,score\n,0.5\n", "line 2: image"),
        ("image,score\na.png,0,5\n", "line 2 has 3 cells"),
        ("image,score\na.png,0.5\nb.png,0.5\n./a.png,0.6\n", "line 4: image 'a.png' is already in line 2"),
        ("image,score,split\na.png,0.5,holdout\n", "line 2: split 'holdout'"),
        ("image,score,split\na.png,0.5,\n", "line 2: split ''"),
        ("image,score,std\na.png,0.5,-1\n", "negative"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", '{"image": "a.png"}', "no column 'score'"),
        ("t.json", '"image"', "list of names without scores"),
        ("t.json", "[1, 2]", "item 1"),
        ("t.json", "[{", "not valid JSON"),
        ("t.json", '[{"image": "a.png", "score": true}]', "item 1: score True"),
        ("t.json", '[{"image": ["a.png", "b.png"], "score": 1}]', "item 1: image"),
        ("t.jsonl", '{"image": "a.png", "score": 0.1}\n{oops\n', "line 2 is not valid JSON"),
        ("t.parquet", "PAR1 and no more", "not a readable Parquet"),
    ],
)
def test_bad_json_and_parquet(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_text_that_is_not_utf_8(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"image,score\n\xff\xfe.png,0.5\n")
    with pytest.raises(DataError, match="cannot read"):
        load(tmp_path / "t.csv")


def test_score_range_must_ascend(tmp_path):
    path = table(tmp_path / "t.csv", rated(6))
    with pytest.raises(ConfigError):
        load(path, score_range=(5, 1))
    with pytest.raises(ConfigError, match="max"):
        load(path, score_range=(-1, 1), normalizer="max")


# What is accepted


def test_paths_that_do_not_fit_say_what_is_accepted(tmp_path):
    (tmp_path / "empty").mkdir()
    table(tmp_path / "folder" / "scores.csv", rated(3))
    for path, message in (
        (None, "no data set"),
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "folder", "scores.csv"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load(path)
        assert "correct it" in str(caught.value) or "(CSV, JSON, JSON Lines, Parquet, Excel)" in str(caught.value)
        assert len(str(caught.value)) <= 500
    with pytest.raises(DataError, match=r"data\.images"):
        load(tmp_path / "folder" / "scores.csv", images=tmp_path / "nope")


def test_default_path(tmp_path):
    dataset = load_dataset(DataConfig(), ImageConfig(), 0, default_path=ava(tmp_path))
    assert dataset.name == "ava"


# Bad images


def test_hash_splits_are_stable_and_proportional():
    names = [f"d/{index}" for index in range(4000)]
    splits = hash_splits(names, seed=1, validation_fraction=0.1, test_fraction=0.2)
    shares = np.bincount(splits) / 4000  # train, validation, test
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    fewer = hash_splits(names[::2], seed=1, validation_fraction=0.1, test_fraction=0.2)
    assert fewer.tolist() == splits[::2].tolist()
    assert (splits != hash_splits(names, seed=2, validation_fraction=0.1, test_fraction=0.2)).any()
    with pytest.raises(DataError, match="nothing to train"):
        hash_splits(names, seed=1, validation_fraction=0.5, test_fraction=0.5)


def test_some_uids_are_sampled_by_the_seed_not_taken_from_the_start():
    uids = [f"d/{index}" for index in range(100)]
    rows = subsample(uids, 10, 0).tolist()
    assert rows == sorted(rows)
    assert len(set(rows)) == 10
    assert rows not in (subsample(uids, 10, 1).tolist(), list(range(10)))
    # An image more or less moves no other: what was sampled of the whole is sampled of a part.
    assert {uids[row] for row in rows if row >= 50} <= {uids[50 + row] for row in subsample(uids[50:], 10, 0)}
    assert subsample(uids, None, 0).tolist() == subsample(uids, 100, 0).tolist() == list(range(100))


def test_subsamples_are_seeded_and_stable(tmp_path):
    path = table(tmp_path / "t.csv", rated(80))
    whole = load(path)
    some = load(path, max_train=10, max_validation=3, max_test=4)
    assert some.info["counts"] == {"train": 10, "validation": 3, "test": 4}
    for split in SPLITS:
        assert uids(some, split) < uids(whole, split)
    assert uids(load(path, max_train=10), "train") == uids(some, "train")
    assert uids(load(path, max_train=9), "train") < uids(some, "train")
    assert uids(load(path, seed=1, max_train=10), "train") != uids(some, "train")
