"""Collections: each layout is recognised by its content and read with its own scale and splits."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from collection_files import (
    COLLECTIONS,
    TEST,
    TRAIN,
    aadb,
    aadb_info,
    eva,
    flickr_aes,
    koniq,
    para,
    scores,
    tad66k,
    write,
    xlsx,
)
from label_files import ava, load

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found
from rapo.datasets.labels import SPLITS, strings
from rapo.datasets.registry import find_layout, read_source
from rapo.errors import ConfigError, DataError


def read(path, **config):
    return read_source(SourceConfig(path=path, **config))


def splits(source):
    codes = source.labels.splits
    assert codes is not None
    return {split: int((codes == code).sum()) for code, split in enumerate(SPLITS) if (codes == code).any()}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collection_is_recognised_and_all_its_images_are_found(tmp_path, name):
    make, native_range, std_range, has_splits, images = COLLECTIONS[name]
    dataset = load(make(tmp_path / "data"))
    assert dataset.info["format"] == name
    assert dataset.skipped == ()
    assert len(dataset.records) == images
    assert dataset.info["native_range"] == list(native_range)
    assert (dataset.info["split_source"] != "hash") == has_splits
    assert all(0.0 <= record.score <= 1.0 for record in dataset.records)
    stds = [record.std for record in dataset.records]
    if std_range is None:
        assert set(stds) == {None}
    else:
        assert all(0.0 <= std <= 0.5 for std in stds)
        raw = dataset.records.parts[0].labels.stds
        assert raw is not None
        assert stds == pytest.approx(raw / (std_range[1] - std_range[0]))


def test_tad66k_reads_merge_and_keeps_its_test_list_from_unmerge(tmp_path):
    folder = tad66k(tmp_path, ("merge", "unmerge"))
    assert splits(read(folder)) == {"train": TRAIN, "test": TEST}
    assert "merge" in read(folder).split_source
    assert splits(read(folder / "unmerge")) == {"train": TRAIN, "test": TEST}
    leaked = "someone1234600.jpg,5\r\n"  # an image of merge's test list, which unmerge trains on
    with (folder / "unmerge" / "train" / "cat.csv").open("a", newline="") as file:
        file.write(leaked)
    with (folder / "unmerge" / "test" / "cat.csv").open("w", newline="") as file:
        file.write("image,score\r\nother.jpg,5\r\n")
    source = read(folder / "unmerge")
    assert splits(source)["train"] == TRAIN
    assert "1 training images are left out" in source.notes[0]


def test_tad66k_unmerge_alone_warns_of_the_leak(tmp_path):
    source = read(tad66k(tmp_path, ("unmerge",)))
    assert splits(source) == {"train": TRAIN, "test": TEST}
    assert "478" in source.notes[0]


def test_flickr_aes_spreads_come_from_the_raters(tmp_path):
    with_workers = read(flickr_aes(tmp_path / "a"))
    assert with_workers.labels.stds is not None
    ratings = np.array([1 + (3 + w) % 5 for w in range(3)])
    assert with_workers.labels.stds[3] == pytest.approx(ratings.std() / 5)
    assert with_workers.labels.scores[3] == pytest.approx(0.32)
    assert read(flickr_aes(tmp_path / "b", workers=False)).labels.stds is None
    (tmp_path / "a" / "FLICKR-AES_image_score.txt").unlink()
    assert read(tmp_path / "a").labels.scores[3] == pytest.approx(ratings.mean() / 5)


def test_para_names_an_image_by_session_and_name(tmp_path):
    source = read(para(tmp_path))
    names = list(strings(source.labels.names))
    assert {"session1/iaa_pub0_.jpg", "session2/iaa_pub0_.jpg"} < set(names)
    assert source.labels.place(names.index("session1/iaa_pub3_.jpg")) == "PARA-GiaaTrain.csv line 5"
    assert splits(source) == {"train": TRAIN, "test": TEST}
    assert source.labels.votes is not None
    assert source.labels.votes.shape == (TRAIN + TEST, 9)


def test_para_in_a_folder_of_its_own_name(tmp_path):
    dataset = load(para(tmp_path / "PARA" / "PARA").parent)
    assert dataset.skipped == ()


def test_a_test_file_alone_is_for_testing(tmp_path):
    path = para(tmp_path) / "annotation" / "PARA-GiaaTest.csv"
    assert splits(read(path)) == {"test": TEST}
    with pytest.raises(DataError, match="no image falls into the train split"):
        load(path)


def test_aadb_takes_the_new_test_list_and_leaves_attributes(tmp_path):
    source = read(aadb(tmp_path))
    assert splits(source) == {"train": TRAIN, "validation": 3, "test": TEST}
    assert source.labels.scores.min() >= 0


def test_aadb_as_matlab_file(tmp_path):
    source = read(aadb_info(tmp_path / "renamed"))
    assert (source.format, splits(source)) == ("aadb", {"train": TRAIN, "test": TEST})
    (tmp_path / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b" " * 200)
    with pytest.raises(DataError, match="MATLAB"):
        read(tmp_path / "damaged.mat")


def test_eva_averages_votes_and_takes_ids_as_text(tmp_path):
    source = read(eva(tmp_path))
    votes = np.array([(3 + user) % 11 for user in range(5)])
    assert source.labels.name(3) == "1003"
    assert source.labels.scores[3] == pytest.approx(votes.mean())
    assert source.labels.stds is not None
    assert source.labels.stds[3] == pytest.approx(votes.std())
    for name, what in (("users.csv", "raters"), ("image_content_category.csv", "categories")):
        with pytest.raises(DataError, match=f"{what}.*no scores"):
            read(tmp_path / "data" / name)


@pytest.mark.parametrize(("factor", "scale"), [(1, (0, 100)), (0.1, (0, 10)), (0.05, None)])
def test_spaq_tells_its_scale(tmp_path, factor, scale):
    rows = [[f"{index:05d}.jpg", *[value * factor for value in scores(6, 20, 95, index)]] for index in range(8)]
    head = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    assert read(xlsx(tmp_path / "labels", [head, *rows])).native_range == scale


def test_spaq_as_the_other_collections_ship_it(tmp_path):
    head = "image_id,MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness\n"
    for name, first in (("spaqTrain.csv", 1), ("spaqTest.csv", 10001)):
        write(tmp_path / name, head + "".join(f"{first + i:05d}.jpg,6.{i},4,5,5,5,6\n" for i in range(4)))
    assert splits(read(tmp_path)) == {"train": 4, "test": 4}


def test_koniq_has_two_meanings_of_mos(tmp_path):
    sets, zscore = read(koniq(tmp_path / "a")), read(koniq(tmp_path / "b", zscore=True))
    assert (sets.native_range, zscore.native_range) == ((0, 100), (1, 5))
    assert sets.std_range == zscore.std_range == (1, 5)
    assert sets.labels.votes.tolist() == zscore.labels.votes.tolist()
    assert splits(sets) == {"train": 10, "validation": 5, "test": 5}
    assert zscore.labels.splits is None


def test_a_web_page_under_a_label_files_name(tmp_path):
    path = write(tmp_path / "koniq10k_distributions_sets.csv", "\n<!DOCTYPE html>\n<html><body>...</body></html>\n")
    with pytest.raises(DataError, match="web page"):
        read(path)


@pytest.mark.parametrize("name", ["ava", "koniq", "para", "spaq", "eva"])
def test_renamed_files_are_recognised_all_the_same(tmp_path, name):
    make = COLLECTIONS[name][0]
    make(tmp_path / "data")
    for path in [p for p in (tmp_path / "data").rglob("*") if p.is_file() and p.suffix not in (".jpg", ".jpgl")]:
        shutil.move(path, path.with_name(f"renamed-{len(path.name)}.dat"))
    assert find_layout(Found(tmp_path / "data")).name == name


def test_ava_votes_as_csv(tmp_path):
    head = ",".join(["image_id", *(f"score{number}" for number in range(2, 12)), "tag1", "tag2", "tag3"])
    write(tmp_path / "v.csv", f"{head}\n591979,0,0,0,0,1,1,0,0,0,0,15,28,738\n\n42,0,0,0,0,0,0,0,0,0,3,1,2,3\n")
    source = read(tmp_path / "v.csv")
    assert list(strings(source.labels.files)) == ["591979.jpg", "42.jpg"]
    assert source.labels.scores.tolist() == [5.5, 10.0]
    assert "not split as AVA is" in source.notes[0]
    write(tmp_path / "w.csv", f"{head}\n591979,0,0,0,0,0,0,0,0,0,0,15,28,738\n")
    with pytest.raises(DataError, match="line 2"):
        read(tmp_path / "w.csv")


def test_a_layout_can_be_named(tmp_path):
    folder = tad66k(tmp_path)
    assert read(folder / "merge" / "train.csv", format="tad66k").native_range == (1, 10)
    with pytest.raises(ConfigError, match=r"'tad'.*tad66k"):
        read(folder, format="tad")
    with pytest.raises(DataError, match="PARA"):
        read(ava(tmp_path / "ava"), format="para")
