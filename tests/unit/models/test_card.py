"""Card: version, scale and settings of an exported model, with and without a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.files.atomic import write_json
from rapo.algorithm.conformal import Bin, Calibration
from rapo.config import Config
from rapo.errors import ModelError
from rapo.models.card import CARD, Scale, read_card, weights_version, with_card


def test_a_card_names_the_weights_and_the_scale(tmp_path: Path) -> None:
    content = {"version": "abc", "dataset": "ava", "native_range": [1.0, 10.0], "normalizer": "minmax",
               "engine": {"dtype": "bfloat16", "max_completion_tokens": 99, "max_model_len": 700}}  # fmt: skip
    (tmp_path / CARD).write_text(json.dumps(content), encoding="utf-8")
    card = read_card(tmp_path)
    assert card.version == "abc"
    assert card.scales == (Scale("ava", 1.0, 10.0),)
    assert [card.scales[0].native(score) for score in (0.0, 0.5, 1.0)] == [1.0, 5.5, 10.0]
    config = with_card(Config(), card)
    assert (config.policy.dtype, config.policy.max_completion_tokens) == ("bfloat16", 99)
    assert config.rollout.engine.max_model_len == 700


def test_a_scale_that_was_divided_by_its_top_starts_at_zero(tmp_path: Path) -> None:
    content = {"version": "abc", "dataset": "tad66k", "native_range": [1.0, 10.0], "normalizer": "max"}
    (tmp_path / CARD).write_text(json.dumps(content), encoding="utf-8")
    assert read_card(tmp_path).scales == (Scale("tad66k", 0.0, 10.0),)


def test_each_data_set_of_a_mix_has_its_scale(tmp_path: Path) -> None:
    sets = {
        "ava": {"native_range": [1, 10], "normalizer": "max"},
        "para": {"native_range": [1, 5], "normalizer": "minmax"},
    }
    content = {"version": "abc", "dataset": "ava, para", "native_range": None, "normalizer": None, "sets": sets}
    (tmp_path / CARD).write_text(json.dumps(content), encoding="utf-8")
    assert read_card(tmp_path).scales == (Scale("ava", 0.0, 10.0), Scale("para", 1.0, 5.0))


def test_without_a_card_the_version_is_a_hash_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    card = read_card(tmp_path)
    assert card.version == weights_version(tmp_path)
    assert (len(card.version), card.scales) == (12, ())
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert read_card(tmp_path).version != card.version


def test_calibrated_intervals_are_kept_and_may_be_absent(tmp_path: Path) -> None:
    made = Calibration(0.9, "expected", 150, (Bin(0.0, 70, -0.2, 0.1), Bin(0.45, 80, -0.1, 0.05)))
    for kept in (made, None):
        write_json(tmp_path / CARD, {"version": "abc", "interval": kept})
        assert read_card(tmp_path).interval == kept
    write_json(tmp_path / CARD, {"version": "abc"})
    assert read_card(tmp_path).interval is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[]",
        '{"version": "v", "native_range": [1]}',
        '{"version": "v", "interval": {"coverage": 0.9}}',
        '{"version": "v", "interval": {"coverage": 0.9, "readout": "expected", "n": 20, "bins": []}}',
        '{"version": "v", "interval": {"coverage": 0.9, "readout": "expected", "n": 20, "bins": [{"start": 0}]}}',
    ],
)
def test_a_damaged_card_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / CARD).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=CARD):
        read_card(tmp_path)
