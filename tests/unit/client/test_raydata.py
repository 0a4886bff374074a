"""ScoreImages, over a scripted scorer, also in the recipe for `datasets` of the documents."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_scorer import FakeScorer, serving, status
from google.rpc import code_pb2

from rapo.client import CallError
from rapo.client.raydata import ScoreImages
from rapo.errors import DataError


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def target(scorer: FakeScorer) -> Iterator[str]:
    with serving(scorer) as target:
        yield target


def test_a_batch_gets_its_columns_and_keeps_its_rows(target: str, scorer: FakeScorer) -> None:
    batch = {"name": np.array(["a", "b", "c"]), "bytes": np.array([b"42", b"bad", b"7"], dtype=object)}
    scored = ScoreImages(target)(batch)
    assert tuple(scored) == (
        *("name", "bytes", "aesthetic_score", "aesthetic_score_std"),
        *("interval_low", "interval_high", "interval_coverage", "model_version", "error"),
    )
    ends = [scored[f"interval_{name}"][0] for name in ("low", "high", "coverage")]
    assert ends == [pytest.approx(0.12), pytest.approx(0.52), 0.9]
    assert math.isnan(scored["interval_low"][1])
    assert scored["name"].tolist() == ["a", "b", "c"]
    assert scored["aesthetic_score"][::2] == [0.42, 0.07]
    assert math.isnan(scored["aesthetic_score"][1])
    assert scored["aesthetic_score_std"][0] == 0.1
    assert [words == "" for words in scored["error"]] == [True, False, True]
    assert "not an image" in scored["error"][1]
    assert all(request.omit_rationale for request in scorer.requests)


def test_paths_and_requested_columns(target: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("50")
    step = ScoreImages(
        target, "file", options={"rationale": True, "native_scale": "ava", "readout": "greedy"}, null=None
    )
    scored = pickle.loads(pickle.dumps(step))({"file": [str(tmp_path / "a.jpg"), str(tmp_path / "gone.jpg")]})
    assert scored["aesthetic_score"] == [0.5, None]
    assert scored["aesthetic_score_std"] == scored["interval_low"] == scored["interval_coverage"] == [None, None]
    assert scored["native_score"] == [5.5, None]
    assert scored["rationale"] == ["soft light", ""]
    assert "gone.jpg" in scored["error"][1]


def test_a_batch_without_images_is_refused(target: str) -> None:
    with pytest.raises(DataError, match="no column 'bytes or path' in name"):
        ScoreImages(target)({"name": ["a"]})


def test_a_row_without_an_image_keeps_its_place(target: str) -> None:
    values = [b"1", None, {"bytes": b"2", "path": "x"}, {"bytes": None, "path": "gone.jpg"}]
    scored = ScoreImages(target, null=None)({"bytes": values})
    assert scored["aesthetic_score"] == [0.01, None, 0.02, None]
    assert "there is no image" in scored["error"][1]
    assert "gone.jpg" in scored["error"][3]


def test_a_step_keeps_the_version_of_its_first_batch(target: str, scorer: FakeScorer) -> None:
    step = ScoreImages(target)
    assert step({"bytes": [b"1", b"bad"]})["model_version"] == ["v7", ""]
    scorer.default = "v6"
    assert step({"bytes": [b"2"]})["model_version"] == ["v7"]
    assert ScoreImages(target)({"bytes": [b"3"]})["model_version"] == ["v6"]


def test_a_scorer_that_refuses_fails_the_step(target: str, scorer: FakeScorer) -> None:
    scorer.stream_refusal = status(code_pb2.UNAUTHENTICATED, "no known token", "no_token")
    with pytest.raises(CallError, match="token"):
        ScoreImages(target)({"bytes": [b"1"]})


def test_datasets_map_takes_it(target: str) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"bytes": [b"42", b"7", b"bad"], "name": ["a", "b", "c"]})
    # The first batch, which settles the types, has no error; the second one has.
    scored = table.map(ScoreImages(target, null=None), batched=True, batch_size=2, writer_batch_size=2)
    assert scored["aesthetic_score"][:] == [0.42, 0.07, None]
    assert scored["name"][:] == ["a", "b", "c"]
    assert scored.features["aesthetic_score"].dtype == "float64"
    assert [words == "" for words in scored["error"]] == [True, True, False]


def test_a_folder_of_images_is_scored_as_the_documents_say(target: str, tmp_path: Path) -> None:
    import datasets

    for name, content in (("a.jpg", "42"), ("b.jpg", "7")):
        (tmp_path / name).write_text(content)
    table = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "cache")
    )
    table = table.cast_column("image", datasets.Image(decode=False))
    table = table.map(ScoreImages(target, "image", null=None), batched=True, batch_size=64)
    assert sorted(table["aesthetic_score"][:]) == [0.07, 0.42]
