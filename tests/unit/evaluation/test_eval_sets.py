"""Test sets: what is taken from paths, from sources with roles, and from a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from collection_files import COLLECTIONS, TEST, aadb, flickr_aes, koniq, para, tad66k
from label_files import make_image, rated, table

from rapo.config import load_config
from rapo.datasets.load import load_dataset
from rapo.errors import ConfigError, DataError
from rapo.evaluation.sets import EvalSet, image_digests, sets_of_config, sets_of_path, sets_of_records


def of_path(path: Path, limit: int | None = None, *overrides: str) -> list[EvalSet]:
    return sets_of_path(path, load_config(None, overrides), limit, path.parent / "work")


def of_sources(sources: str) -> list[EvalSet]:
    return sets_of_config(load_config(None, [f"data.sources={sources}"]), None, Path("/nowhere"))


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collection_gives_its_test_split_or_all_of_it(tmp_path, name):
    make, scale, _, has_splits, images = COLLECTIONS[name]
    make(tmp_path / name)
    (one,) = of_path(tmp_path / name)
    assert (one.name, one.collection, one.facts["native_range"]) == (name, name, list(scale))
    expected = {"ava": 5, "tad66k": TEST, "para": TEST, "aadb": TEST, "koniq": 5}.get(name, images)
    assert len(one.records) == one.there == expected
    assert {record.split for record in one.records} == {"test"}
    assert ("test split" if has_splits else "it has no splits") in one.source


def test_a_collection_without_a_test_split_is_refused(tmp_path):
    table(tmp_path / "t.csv", rated(5, split="train"))
    with pytest.raises(DataError, match="no image for test, only for train"):
        of_path(tmp_path / "t.csv")


def test_sources_for_training_are_left_out_and_others_give_their_test_split(tmp_path):
    for make, name in ((tad66k, "tad"), (flickr_aes, "fl"), (para, "para"), (aadb, "aadb")):
        make(tmp_path / name)
    sources = (
        f'[{{path="{tmp_path}/tad", weight=2.0, quota=3}}, {{path="{tmp_path}/fl", weight=1.0}}, '
        f'{{path="{tmp_path}/para", role="test"}}, {{path="{tmp_path}/aadb", role="train", weight=1.0}}, '
        f'{{path="{tmp_path}/k", role="validation"}}]'
    )
    koniq(tmp_path / "k")
    sets = {one.name: one for one in of_sources(sources)}
    assert list(sets) == ["tad66k", "flickr-aes", "para"]
    assert (len(sets["tad66k"].records), len(sets["para"].records)) == (TEST, TEST)
    # Without splits of its own it is divided as in a run, so that no image is one of training.
    config = load_config(None, [f"data.sources={sources}"])
    run = load_dataset(config.data, config.image, config.run.seed).split("test")
    tested = {record.uid for record in run if record.dataset == "flickr-aes"}
    assert {record.uid for record in sets["flickr-aes"].records} == tested
    assert len(tested) < 20


def test_several_sets_in_one_table_are_several_sets(tmp_path):
    rows = [{**row, "dataset": "one" if index % 2 else "two"} for index, row in enumerate(rated(8))]
    sets = of_path(table(tmp_path / "t.csv", rows))
    assert {one.name: len(one.records) for one in sets} == {"two": 4, "one": 4}
    (named,) = of_sources(f'[{{path="{tmp_path}/t.csv", name="para", columns={{dataset=""}}, role="test"}}]')
    assert (named.name, named.collection, len(named.records)) == ("para", "para", 8)


def test_a_limit_samples_by_the_seed_and_passes_over_bad_images(tmp_path):
    path = table(tmp_path / "t.csv", rated(60))
    (one,), (again,), (other,) = of_path(path, 10), of_path(path, 10), of_path(path, 10, "run.seed=1")
    uids = [record.uid for record in one.records]
    assert uids == [record.uid for record in again.records]
    assert set(uids) != {record.uid for record in other.records}
    assert set(uids) != {f"t/img/{index}.png" for index in range(10)}, "a sample, not the first rows"
    (tmp_path / uids[0].removeprefix("t/")).write_bytes(b"broken")
    (one,) = of_path(path, 10)
    assert len(one.records) == 10
    assert "1 images cannot be used" in one.notes[0]


def test_given_predictions_need_no_images(tmp_path):
    path = table(tmp_path / "t.csv", rated(60), images=False)
    config = load_config()
    (one,) = sets_of_path(path, config, 10, tmp_path, look=False)
    table(tmp_path / "t.csv", rated(60))
    (looked,) = sets_of_path(path, config, 10, tmp_path)
    assert [record.uid for record in one.records] == [record.uid for record in looked.records], "the same sample"


def test_nothing_for_testing_is_an_error(tmp_path):
    koniq(tmp_path / "k")
    with pytest.raises(ConfigError, match="names no data"):
        sets_of_config(load_config(), None, tmp_path)
    with pytest.raises(DataError, match="no source is for testing"):
        of_sources(f'[{{path="{tmp_path}/k", role="train"}}]')
    path = table(tmp_path / "t.csv", rated(4, split="test"), images=False)
    with pytest.raises(DataError, match="none of the 4 test images of t can be used"):
        of_path(path)


def test_a_run_gives_the_test_split_that_it_checked(tmp_path):
    path = table(tmp_path / "t.csv", rated(30))
    config = load_config(None, [f"data.path={path}"])
    records = load_dataset(config.data, config.image, 0).split("test")
    (one,) = sets_of_records(records, "the run", config, embedded=False)
    assert [record.uid for record in one.records] == list(records.uids())
    few = load_config(None, [f"data.path={path}", "evaluate.max_images=2"])
    (one,) = sets_of_records(records, "the run", few, embedded=True)
    assert (len(one.records), one.there, one.collection) == (2, len(records), "scenes")


def test_digests_follow_the_images(tmp_path):
    path = table(tmp_path / "t.csv", rated(3, split="test"))
    (one,) = of_path(path)
    before = image_digests(one.records)
    make_image(tmp_path / "img" / "1.png", 99)
    after = image_digests(one.records)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    (tmp_path / "img" / "1.png").unlink()
    with pytest.raises(DataError, match=r"img/1\.png cannot be read"):
        image_digests(one.records)
