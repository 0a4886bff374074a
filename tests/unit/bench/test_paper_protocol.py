"""The paper's protocol: its configuration, what of it is missing, and the collections in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.support.paper_in_small import ON_CPU, PAPER
from bench.support.scene_collections import write_collections
from cluster.cli.check import problems
from cluster.cli.run import with_absolute_paths
from cluster.pipeline.runner import STAGES
from rapo.aescot.exchange.given import given_records
from rapo.config import load_config
from rapo.datasets.check import check_data
from rapo.datasets.load import load_dataset
from rapo.evaluation.published import PAPER_SETS
from rapo.evaluation.sets import sets_of_config

TRAIN, TEST = 30, 12


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    write_collections(folder / "data", TRAIN, TEST, critiques=20, size=56)
    return folder


def test_all_that_is_missing_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(load_config(PAPER))
    found = problems(config, STAGES, check_data(config))
    for name in ("TAD66K", "AVA", "FLICKR-AES", "PARA", "AADB"):
        assert any(f"data/{name} does not exist" in line for line in found), found
    assert any("AesCoT-3K.jsonl" in line for line in found)
    assert any("model folder not found" in line and "Qwen2.5-VL-7B-Instruct" in line for line in found)


def test_the_collections_have_the_layouts_and_the_roles_of_the_configuration(collections, monkeypatch):
    monkeypatch.chdir(collections)
    config = load_config(PAPER, ON_CPU)
    check = check_data(config)
    assert check.problems == []
    dataset = load_dataset(config.data, config.image, config.run.seed)
    sets = dataset.info["sets"]
    assert tuple(sets) == PAPER_SETS
    assert {name for name, one in sets.items() if one["counts"]["train"]} == {"tad66k", "ava", "flickr-aes"}
    assert {name: one["counts"]["test"] for name, one in sets.items() if name != "flickr-aes"} == dict.fromkeys(
        ("tad66k", "ava", "para", "aadb"), TEST
    )
    assert sets["flickr-aes"]["counts"]["test"] > 0
    assert {name: one.get("weight") for name, one in sets.items()} == {
        "tad66k": 2.0,
        "ava": 2.0,
        "flickr-aes": 1.0,
        "para": None,
        "aadb": None,
    }
    assert {name: one["normalizer"] for name, one in sets.items()} == dict.fromkeys(PAPER_SETS[:4], "max") | {
        "aadb": "minmax"
    }
    tested = {one.name: {record.uid for record in one.records} for one in sets_of_config(config, None, collections)}
    for name, uids in tested.items():
        assert uids == {record.uid for record in dataset.split("test") if record.dataset == name}


def test_the_scores_are_spread_over_the_bands(collections, monkeypatch):
    monkeypatch.chdir(collections)
    config = load_config(PAPER, ON_CPU)
    scores = load_dataset(config.data, config.image, 0).split("train").scores
    assert scores.min() < 0.4
    assert scores.max() > 0.7


def test_the_critiques_are_read_as_those_of_the_paper_are(collections, monkeypatch):
    monkeypatch.chdir(collections)
    config = load_config(PAPER, ON_CPU)
    dataset = load_dataset(config.data, config.image, config.run.seed)
    records, left_out = given_records(config.aescot.teacher, dataset.records)
    assert len(records) + left_out == 20
    by_path = {record.path and record.path.resolve(): record for record in dataset.records}
    for record in records:
        assert by_path[record.path and record.path.resolve()].score == pytest.approx(record.score, abs=0.005)


def test_in_small_the_protocol_is_the_same():
    paper, small = load_config(PAPER), load_config(PAPER, ON_CPU)
    assert [source.quota for source in paper.data.sources] == [6000, 6000, 3000, None, None]
    assert small.data.sources == paper.data.sources
    assert small.rapo.reward == paper.rapo.reward
    assert small.rapo.loss == paper.rapo.loss
    assert small.rapo.completions == paper.rapo.completions == 4
    assert small.run == paper.run
