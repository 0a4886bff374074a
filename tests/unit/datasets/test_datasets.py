"""Dataset loading: AVA and tables, splits, bad labels (errors) and bad images (skipped)."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rapo.config import DataConfig, ImageConfig
from rapo.datasets.ava import vote_statistics
from rapo.datasets.load import load_dataset
from rapo.datasets.splits import hash_fraction, hash_splits
from rapo.errors import ConfigError, DataError

SPLITS = ("train", "validation", "test")


def make_image(path: Path, shade: int = 0, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade % 256, 80, 160)).save(path)


def ava(folder: Path, images: int = 30, test: int = 5, validation: int = 0, where: str = "images") -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for index in range(images):
        votes = rng.integers(1, 20, 10)
        lines.append(f"{index + 1} {1000 + index} {' '.join(map(str, votes))} 0 0 {index % 7}")
        make_image(folder / where / f"{1000 + index}.jpg", index)
    (folder / "AVA.txt").write_text("\n".join(lines) + "\n")
    lists = folder / "aesthetics_image_lists"
    lists.mkdir(exist_ok=True)
    if test:
        (lists / "generic_test.jpgl").write_text("\n".join(str(1000 + index) for index in range(test)))
    if validation:
        (lists / "validation.jpgl").write_text("\n".join(str(1000 + test + index) for index in range(validation)))
    return folder


def table(path, rows, *, images=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    if images:
        for index, row in enumerate(rows):
            make_image(path.parent / row["image"], index)
    return path


def rated(count, **more):
    return [{"image": f"img/{index}.png", "score": round(index / count, 3), **more} for index in range(count)]


def load(path, seed=0, **config):
    return load_dataset(DataConfig(path=path, **config), ImageConfig(), seed)


def uids(dataset, split):
    return {record.uid for record in dataset.split(split)}


# AVA


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


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_table_formats_agree(tmp_path, suffix):
    rows = [{**row, "std": 0.5, "split": SPLITS[index % 3]} for index, row in enumerate(rated(12))]
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
    dataset = load(path, images=tmp_path / "elsewhere", name="other")
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
        ("image,rating\na.png,1\n", r"no column 'score'.*rating"),
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
        ("t.json", '{"image": "a.png"}', "list of objects"),
        ("t.json", "[1, 2]", "item 1"),
        ("t.json", "[{", "not valid JSON"),
        ("t.json", '[{"image": "a.png", "score": true}]', "item 1: score True"),
        ("t.json", '[{"image": ["a.png"], "score": 1}]', "item 1: image"),
        ("t.jsonl", '{"image": "a.png", "score": 0.1}\n{oops\n', "line 2 is not valid JSON"),
        ("t.parquet", "not parquet", "not a readable Parquet"),
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
    (tmp_path / "file.txt").write_text("x")
    table(tmp_path / "folder" / "scores.csv", rated(3))
    for path, message in (
        (None, "no data set"),
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "folder", "scores.csv"),
        (tmp_path / "file.txt", "not of the format"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load(path)
        assert "AVA.txt" in str(caught.value)
        assert ".parquet" in str(caught.value)
    with pytest.raises(DataError, match=r"data\.images"):
        load(tmp_path / "folder" / "scores.csv", images=tmp_path / "nope")


def test_default_path(tmp_path):
    dataset = load_dataset(DataConfig(), ImageConfig(), 0, default_path=ava(tmp_path))
    assert dataset.name == "ava"


# Bad images


def test_bad_images_are_skipped_and_listed(tmp_path, monkeypatch):
    rows = [{**row, "split": SPLITS[index % 3]} for index, row in enumerate(rated(15))]
    path = table(tmp_path / "t.csv", rows)
    (tmp_path / "img/3.png").unlink()
    (tmp_path / "img/4.png").write_bytes(b"")
    (tmp_path / "img/5.png").write_bytes(b"no image")
    (tmp_path / "img/6.png").write_bytes((tmp_path / "img/7.png").read_bytes()[:60])
    make_image(tmp_path / "img/8.png", size=8)
    dataset = load(path)
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
    large = load(path)
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


def test_hash_splits_are_stable_and_proportional():
    names = [f"d/{index}" for index in range(4000)]
    splits = hash_splits(names, seed=1, validation_fraction=0.1, test_fraction=0.2)
    assert abs(splits.count("test") / 4000 - 0.2) < 0.03
    assert abs(splits.count("validation") / 4000 - 0.1) < 0.03
    fewer = hash_splits(names[::2], seed=1, validation_fraction=0.1, test_fraction=0.2)
    assert fewer == splits[::2]
    assert splits != hash_splits(names, seed=2, validation_fraction=0.1, test_fraction=0.2)
    with pytest.raises(DataError, match="nothing to train"):
        hash_splits(names, seed=1, validation_fraction=0.5, test_fraction=0.5)


def test_hash_is_the_same_on_every_machine():
    assert hash_fraction(0, "ava/1", "split") == 0.9077396259536089


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


def test_bad_images_do_not_shrink_a_subsample(tmp_path):
    path = table(tmp_path / "t.csv", rated(60))
    picked = load(path, max_train=10)
    for record in picked.split("train")[:4]:
        record.path.unlink()
    again = load(path, max_train=10)
    assert again.info["counts"]["train"] == 10
    assert again.info["skipped"] == {"missing": 4}


def test_decoding_2400_images_takes_under_three_seconds(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(2400):
        pixels = rng.integers(0, 255, (84, 84, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.jpg")
    rows = [{"image": f"{index}.jpg", "score": 0.5} for index in range(2400)]
    path = table(tmp_path / "t.csv", rows, images=False)
    start = time.process_time()
    assert load(path).info["verify"] == "decode"
    assert time.process_time() - start < 3
