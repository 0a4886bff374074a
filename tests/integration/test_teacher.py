"""The vLLM teacher for real: an embedded model in vLLM, as Ray Data runs it, with the judge behind
it.

The model has random weights, so what it writes means nothing; that it answers, repeatably, to the
image and the score it was given, and that bad rows are named, is what counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image

from actors.guarded import GuardedJudge, GuardedTeacher
from actors.judge import Judge
from actors.teacher import Teacher
from rapo.aescot.read_images import ImageReader
from rapo.aescot.rows import ASKED
from rapo.config import Config, TinyModelConfig, load_config
from rapo.datasets.scenes import render_scene

pytestmark = [pytest.mark.integration, pytest.mark.long]

BATCH = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    from rapo.aescot.writer import phrases
    from rapo.families.tiny_model import build_tiny_model

    folder = tmp_path_factory.mktemp("teacher")
    build_tiny_model(folder, TinyModelConfig(), 0, phrases())
    settings = [f"model={folder}", "kind=vllm", "temperature=1.0", "max_tokens=700", "engine.max_model_len=1536"]
    return load_config(overrides=[f"aescot.teacher.{setting}" for setting in settings])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Four batches: four scenes; the same in reverse; the first one changed in one way each; and
    images that are not there."""
    folder = tmp_path_factory.mktemp("scenes")
    scenes = [render_scene(np.random.default_rng(i), 84) for i in range(BATCH)]
    plain: list[dict[str, Any]] = []
    for i, scene in enumerate(scenes):
        path = folder / f"{i}.png"
        Image.fromarray(scene.image).save(path)
        plain.append({"uid": f"scene-{i}", "dataset": "scenes", "path": str(path), "score": scene.score, "band": 0})
    first = plain[0]
    missing = [{**row, "path": f"{row['path']}.gone"} for row in plain]
    changed = [
        {**first, "uid": "another"},
        {**first, "score": 1 - first["score"]},
        {**first, "path": plain[1]["path"]},
        missing[0],
    ]
    rows = [*plain, *reversed(plain), *changed, *missing]
    return [{**row, "place": place} for place, row in enumerate(rows)]


@pytest.fixture(scope="module")
def judged(config: Config, rows: list[dict[str, Any]], local_ray: None) -> list[dict[str, Any]]:
    ray.data.DataContext.get_current().enable_progress_bars = False
    table = ImageReader(config.image)(pa.Table.from_pylist(rows, schema=ASKED))
    dataset: ray.data.Dataset = ray.data.from_arrow(table)
    for guard, actor in ((GuardedTeacher, Teacher), (GuardedJudge, Judge)):
        dataset = dataset.map_batches(
            guard,
            fn_constructor_args=(actor, config),
            batch_size=BATCH,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
        )
    return sorted(dataset.take_all(), key=lambda row: row["place"])


def answer(row: dict[str, Any]) -> tuple[str | None, str | None]:
    return row["critique"], row["problem"]


def test_every_row_gets_a_text_or_a_named_problem(judged: list[dict[str, Any]]) -> None:
    assert len(judged) == 4 * BATCH
    assert all((row["critique"] is None) != (row["problem"] is None) for row in judged)
    assert any(row["critique"] for row in judged), "no row at all got a critique"
    for row in judged[: 2 * BATCH]:
        assert row["critique"] or any(named in row["problem"] for named in ("max_tokens", "holds the tag"))


def test_the_same_seed_gives_the_same_text(judged: list[dict[str, Any]]) -> None:
    once, again = judged[:BATCH], judged[BATCH : 2 * BATCH][::-1]
    assert [row["uid"] for row in once] == [row["uid"] for row in again]
    assert [answer(row) for row in once] == [answer(row) for row in again]
    assert len({answer(row) for row in once}) == BATCH


@pytest.mark.parametrize(("place", "what"), enumerate(["uid", "score", "path"]))
def test_the_text_depends_on_seed_score_and_image(judged: list[dict[str, Any]], place: int, what: str) -> None:
    changed = judged[2 * BATCH + place]
    assert changed[what] != judged[0][what]
    assert answer(changed) != answer(judged[0])


def test_a_missing_image_is_named_and_rejected_even_where_a_batch_holds_nothing_else(
    judged: list[dict[str, Any]],
) -> None:
    for row in (judged[3 * BATCH - 1], *judged[3 * BATCH :]):
        assert row["critique"] is None
        assert ".gone" in row["problem"]
        assert (row["keep"], row["reason"], row["detail"]) == (False, "image", row["problem"])
