"""The judge model of the evaluation: what it is asked, and what is kept of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import png

from cluster.files.verdict_log import VERDICTS
from cluster.pipeline.stages import judging
from cluster.pipeline.stages.judging import judge_rationales
from rapo.answers.parse import format_completion
from rapo.config import load_config
from rapo.records import ImageRecord, Prediction
from tests.unit.chat_server import chat_server
from tests.unit.explanations.test_grounding_judge import by_text, vote


def test_rationales_are_judged_in_parts_and_none_is_paid_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_AT_ONCE", 2)
    records = [ImageRecord(f"u{i}", "d", "test", 0.5, 0.5, (0.0, 1.0), data=png(seed=i)) for i in range(5)]
    texts = ["Soft light.", "Hard light.", "Soft light.", "", "Soft light."]
    predictions = [
        Prediction(record.uid, "d", 0.5, 0.5, format_completion(text, 0.5))
        for record, text in zip(records, texts, strict=True)
    ]
    with chat_server(by_text(lambda text: vote(*["light and shadow"] * ("Soft" in text)))) as server:
        judge = ("kind=openai", "model=judge", f"endpoint.base_url={server.base_url}")
        config = load_config(None, [f"evaluate.grounded_judge.{item}" for item in judge])
        found = judge_rationales(config, records, predictions, tmp_path)
        again = judge_rationales(config, records, predictions, tmp_path)
    assert found == again
    assert (found["n"], found["unjudged"], found["model"]) == (5, 0, "judge")
    assert found["mean"] == pytest.approx(3 * 0.2 / 5)
    assert found["dimensions"]["light and shadow"] == pytest.approx(0.6)
    assert len(server.bodies) == 4, "an empty rationale costs nothing, and what is known is not asked again"
    assert len((tmp_path / VERDICTS).read_text().splitlines()) == 3
