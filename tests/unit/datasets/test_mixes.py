"""Mixes: several sources in one run, contamination between them, and the index of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from collection_files import TEST, TRAIN, eva, koniq, para, tad66k
from label_files import ava, make_image, rated, table, uids
from PIL import Image

from rapo.config import DataConfig, ImageConfig, SourceConfig
from rapo.datasets.index import read_index, write_index
from rapo.datasets.load import load_dataset
from rapo.errors import ConfigError, DataError, RunFolderError


def source(path, **config):
    return SourceConfig(path=path, **config)


def load(*sources, seed=0, **config):
    return load_dataset(DataConfig(sources=sources, **config), ImageConfig(), seed)


@pytest.fixture
def three(tmp_path: Path) -> tuple[SourceConfig, ...]:
    return (
        source(ava(tmp_path / "ava"), normalizer="max", weight=2.0),
        source(tad66k(tmp_path / "tad"), weight=2.0, quota=5),
        source(koniq(tmp_path / "koniq"), weight=1.0),
    )


def photo(path: Path, seed: int, quality: int = 95) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(grid).resize((96, 96), Image.Resampling.BICUBIC).save(path, quality=quality)


def photos(folder: Path, seeds: dict[str, int], quality: int = 95) -> Path:
    for name, seed in seeds.items():
        photo(folder / name, seed, quality)
    return table(folder / "t.csv", [{"image": name, "score": 0.5} for name in seeds], images=False)


def test_each_set_keeps_its_scale_normaliser_and_name(three):
    dataset = load(*three)
    sets = dataset.info["sets"]
    assert list(sets) == ["ava", "tad66k", "koniq"]
    assert {name: (one["native_range"], one["normalizer"]) for name, one in sets.items()} == {
        "ava": ([1, 10], "max"),
        "tad66k": ([1, 10], "minmax"),
        "koniq": ([0, 100], "minmax"),
    }
    assert dataset.info["normalizer"] is None
    assert dataset.info["native_range"] is None
    by_set = {record.dataset: record for record in dataset.records}
    assert by_set["ava"].score == pytest.approx(by_set["ava"].native_score / 10)
    assert by_set["koniq"].score == pytest.approx(by_set["koniq"].native_score / 100)
    assert (sets["tad66k"]["with_std"], sets["koniq"]["with_std"] > 0) == (0, True)
    assert len({record.uid for record in dataset.records}) == len(dataset.records)


def test_a_quota_is_a_seeded_sample_of_the_training_images(three):
    dataset = load(*three)
    tad = [record for record in dataset.split("train") if record.dataset == "tad66k"]
    assert len(tad) == 5
    assert dataset.info["sets"]["tad66k"]["counts"]["test"] == TEST
    assert uids(load(*three), "train") == uids(dataset, "train")
    picks = {frozenset(r.uid for r in load(*three, seed=s).split("train") if r.dataset == "tad66k") for s in range(3)}
    assert len(picks) == 3


def test_weights_belong_to_the_sets(three):
    assert load(*three).weights == {"ava": 2.0, "tad66k": 2.0, "koniq": 1.0}
    assert load(*(s.model_copy(update={"weight": None}) for s in three)).weights is None
    with pytest.raises(ValueError, match="a weight, or none"):
        DataConfig(sources=(three[0], source(three[1].path)))


def test_a_weight_of_a_source_of_several_sets_is_divided_by_their_images(tmp_path):
    rows = [{**row, "dataset": "a" if index < 30 else "b", "split": ("train", "test")[index % 4 == 0]}
            for index, row in enumerate(rated(40))]  # fmt: skip
    dataset = load(source(table(tmp_path / "t.csv", rows), weight=4.0), validation_fraction=0.0)
    train = [record.dataset for record in dataset.split("train")]
    assert dataset.weights == pytest.approx({name: 4.0 * train.count(name) / len(train) for name in ("a", "b")})
    assert {record.uid.partition("/")[0] for record in dataset.records} == {"a", "b"}


def test_a_test_only_source_is_not_trained_on(tmp_path):
    dataset = load(source(ava(tmp_path / "ava")), source(para(tmp_path / "para"), role="test"))
    counts = dataset.info["sets"]["para"]["counts"]
    assert counts == {"train": 0, "validation": 0, "test": TEST}
    exchange = table(tmp_path / "list.json", [{"image": f"{i}.png", "gt_score": 0.5} for i in range(4)])
    dataset = load(source(ava(tmp_path / "ava")), source(exchange))
    assert dataset.info["sets"]["list"]["counts"] == {"train": 0, "validation": 0, "test": 4}


def test_a_list_for_testing_alone_is_refused_in_words(tmp_path):
    exchange = table(tmp_path / "list.json", [{"image": f"{i}.png", "gt_score": 0.5} for i in range(4)])
    with pytest.raises(DataError, match=r"train split.*for testing.*data\.role"):
        load_dataset(DataConfig(path=exchange), ImageConfig(), 0)
    named = table(tmp_path / "my_test.csv", rated(9))
    with pytest.raises(DataError, match="says test"):
        load_dataset(DataConfig(path=named), ImageConfig(), 0)
    assert len(load_dataset(DataConfig(path=named, role="split"), ImageConfig(), 0).records) == 9


def test_roles_restrict_sources_with_splits_and_fill_those_without(tmp_path):
    tad = tad66k(tmp_path / "tad")
    one, other = table(tmp_path / "a.csv", rated(9)), table(tmp_path / "b" / "b.csv", rated(7))
    dataset = load(
        source(tad, role="train"), source(one, role="validation"), source(other, role="test"), contamination="report"
    )
    assert dataset.info["counts"] == {"train": TRAIN, "validation": 9, "test": 7}
    with pytest.raises(DataError, match=r"source 1 of data\.sources.*no image for validation, only for test, train"):
        load(source(tad, role="validation"), source(one))


def test_two_sources_of_one_name(tmp_path):
    one, other = table(tmp_path / "a" / "t.csv", rated(9)), table(tmp_path / "b" / "t.csv", rated(4))
    with pytest.raises(ConfigError, match="two sources are called 't'"):
        load(source(one), source(other))
    with pytest.raises(ConfigError, match="different scales"):
        load(source(one, name="x"), source(other, name="x", score_range=(0, 5)))
    for index in range(4):
        (tmp_path / "b" / f"img/{index}.png").rename(tmp_path / "b" / f"img/t{index}.png")
    other = table(tmp_path / "b" / "t.csv", [{"image": f"img/t{i}.png", "score": 0.5} for i in range(4)], images=False)
    dataset = load(source(one, name="x", role="train"), source(other, name="x", role="test"), contamination="report")
    assert list(dataset.info["sets"]) == ["x"]
    assert dataset.info["counts"]["test"] == 4


def test_the_same_bytes_in_train_and_test_leave_train(tmp_path):
    train = photos(tmp_path / "a", {f"a{i}.jpg": i for i in range(8)})
    test = photos(tmp_path / "b", {f"b{i}.jpg": i for i in (2, 5, 90)})
    sources = source(train, name="a", role="train"), source(test, name="b", role="test")
    dataset = load(*sources)
    assert {(leak["image"], leak["kind"], leak["also"]) for leak in dataset.leaks} == {
        ("a/a2.jpg", "content", "b/b2.jpg"),
        ("a/a5.jpg", "content", "b/b5.jpg"),
    }
    assert dataset.info["leaks"] == {"content": 2}
    assert not {"a/a2.jpg", "a/a5.jpg"} & {record.uid for record in dataset.records}
    kept = load(*sources, contamination="report")
    assert len(kept.records) == len(dataset.records) + 2
    assert kept.info["leaks"] == {"content": 2}


def test_a_link_is_the_same_image(tmp_path):
    seeds = {f"a{i}.jpg": i for i in range(4)}
    photos(tmp_path / "img", seeds)
    (tmp_path / "linked").symlink_to("img")
    rows = [{"image": f"img/{name}", "score": 0.5, "split": "train"} for name in seeds]
    rows += [{"image": "linked/a1.jpg", "score": 0.5, "split": "test"}]
    path = table(tmp_path / "t.csv", rows, images=False)
    dataset = load_dataset(DataConfig(path=path), ImageConfig(), 0)
    assert [leak["image"] for leak in dataset.leaks] == ["t/img/a1.jpg"]


def test_the_same_name_counts_where_the_images_look_alike(tmp_path):
    train = photos(tmp_path / "a", {"one.jpg": 1, "two.jpg": 2, "three.jpg": 3, "four.jpg": 4})
    test = photos(tmp_path / "b", {"one.jpg": 1, "two.jpg": 77, "other.jpg": 3}, quality=60)
    dataset = load(source(train, name="a", role="train"), source(test, name="b", role="test"))
    assert {(leak["image"], leak["kind"]) for leak in dataset.leaks} == {("a/one.jpg", "name")}


def test_eva_is_told_from_ava_by_its_ids(tmp_path):
    dataset = load(source(ava(tmp_path / "ava"), role="train"), source(eva(tmp_path / "eva"), role="test"))
    shared = [f"ava/{number}" for number in range(1005, 1018)]  # 1000 to 1004 are AVA's test list
    assert [leak["image"] for leak in dataset.leaks] == shared
    assert {leak["kind"] for leak in dataset.leaks} == {"id"}


def test_training_images_that_are_all_in_test_are_an_error(tmp_path):
    train = photos(tmp_path / "a", {"x.jpg": 1, "y.jpg": 2})
    test = photos(tmp_path / "b", {"z.jpg": 1, "w.jpg": 2})
    with pytest.raises(DataError, match=r"every image of the train split.*data\.contamination"):
        load(source(train, name="a", role="train"), source(test, name="b", role="test"))


def test_an_image_is_listed_once_where_two_sources_hold_it(tmp_path):
    first = photos(tmp_path / "a", {f"{i}.jpg": i for i in range(6)})
    again = photos(tmp_path / "b", {f"{i}.jpg": i for i in (4, 5, 8)})
    test = photos(tmp_path / "c", {"t.jpg": 99})
    same = {"name": "x", "role": "train"}
    dataset = load(source(first, **same), source(again, **same), source(test, name="t", role="test"))
    assert dataset.info["skipped"].get("repeated", 0) + len(dataset.leaks) == 2
    assert len({record.uid for record in dataset.records}) == len(dataset.records) == 8


# The index


def test_the_index_gives_the_same_records(three, tmp_path):
    config = DataConfig(sources=three)
    dataset = load_dataset(config, ImageConfig(), 0)
    write_index(tmp_path / "index", dataset)
    known = read_index(tmp_path / "index")
    assert known is not None
    assert list(known.records) == list(dataset.records)
    assert (known.info, known.skipped, known.leaks, known.name) == (
        dataset.info,
        dataset.skipped,
        dataset.leaks,
        dataset.name,
    )
    assert known.weights == dataset.weights
    assert list(known.split("test")) == list(dataset.split("test"))


def test_labels_that_changed_are_refused(three, tmp_path):
    config = DataConfig(sources=three)
    write_index(tmp_path / "index", load_dataset(config, ImageConfig(), 0))
    labels = three[0].path / "AVA.txt"
    text = labels.read_text()
    labels.write_text(text.replace(" 1 ", " 2 ", 1))
    with pytest.raises(RunFolderError, match=r"AVA\.txt has changed since the data stage"):
        read_index(tmp_path / "index")
    labels.write_text(text)
    assert read_index(tmp_path / "index") is not None
    shutil.rmtree(three[1].path / "merge")
    with pytest.raises(RunFolderError, match=r"merge/test\.csv is gone"):
        read_index(tmp_path / "index")


def test_a_folder_that_is_moved_with_its_data(tmp_path):
    dataset = load(source(ava(tmp_path / "run" / "scenes")))
    write_index(tmp_path / "run", dataset)
    (tmp_path / "run").rename(tmp_path / "moved")
    known = read_index(tmp_path / "moved")
    assert known is not None
    assert known.records.path(3).is_file()


def test_without_an_index_there_is_none(tmp_path):
    assert read_index(tmp_path) is None
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(RunFolderError, match="remove it"):
        read_index(tmp_path)


def test_images_inside_of_a_table_are_unpacked_once(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows, contents = [], []
    for index in range(9):
        make_image(tmp_path / "one.png", index)
        name = "same.png" if index < 2 else None
        contents.append((tmp_path / "one.png").read_bytes())
        rows.append({"image": {"bytes": contents[-1], "path": name}, "score": index / 10})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    config = DataConfig(path=tmp_path / "t.parquet")
    dataset = load_dataset(config, ImageConfig(), 0, work=tmp_path / "work")
    assert len(dataset.records) == 9
    assert dataset.records[0].uid == "t/row-00000001/same.png"
    assert dataset.records.path(3).read_bytes() == contents[3]
    stamp = dataset.records.path(3).stat().st_mtime_ns
    again = load_dataset(config, ImageConfig(), 0, work=tmp_path / "work")
    assert again.records.path(3).stat().st_mtime_ns == stamp
    write_index(tmp_path / "index", again)
    known = read_index(tmp_path / "index")
    assert known is not None
    assert list(known.records) == list(dataset.records)
