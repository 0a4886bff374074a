"""Evaluation run: what is asked, what is asked again, and what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from eval_builders import eval_set
from fake_scorer import FakeScorer, serving, status
from google.rpc import code_pb2
from label_files import make_image, rated, table

from cluster.evaluation import engines
from cluster.evaluation.answers import AnswerFile
from cluster.evaluation.models import FolderModel, GivenModel, ScorerModel, evaluated_models
from cluster.evaluation.runner import EvaluationRun
from cluster.terminal.console import Console
from rapo.client.sync import ScorerClient
from rapo.config import Config, load_config
from rapo.errors import ConfigError, DataError, ModelError, ServiceError
from rapo.evaluation.sets import EvalSet
from rapo.records import ImageRecord, Prediction

TARGETS = [0.1, 0.3, 0.5, 0.7, 0.9]


class Asked:
    """Stands in for the engines: answers the human score, and notes who was asked for what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uids: list[str] = []
        self.configs: list[Config] = []
        self.fails_after: int | None = None
        monkeypatch.setattr(engines.Engines, "predict", lambda _, *arguments: self.predict(*arguments))

    def predict(
        self,
        model: FolderModel,
        config: Config,
        records: Sequence[ImageRecord],
        keep: Callable[[Sequence[Prediction]], None],
    ) -> None:
        self.configs.append(config)
        for record in records:
            if self.fails_after is not None and len(self.uids) >= self.fails_after:
                raise ServiceError("killed")
            self.uids.append(record.uid)
            keep([Prediction(record.uid, record.dataset, record.score, record.score, "said", readout="expected")])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> FolderModel:
    return FolderModel("m", tiny_model)


def run(sets: Sequence[EvalSet], out: Path, *overrides: str) -> EvaluationRun:
    config = load_config(None, overrides)
    return EvaluationRun(config, None, overrides, sets, out, Console(), ScorerClient)


def test_figures_predictions_and_tables_are_written(tmp_path, asked, model):
    sets = [eval_set(tmp_path, TARGETS, "a"), eval_set(tmp_path, TARGETS[:3], "b")]
    found = run(sets, tmp_path / "out").evaluate([model])
    assert found["models"]["m"]["mean"]["srcc"]["value"] == 1.0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    assert "| m | 1.0000 / 1.0000 | 1.0000 / 1.0000 | 1.0000 / 1.0000 |" in (tmp_path / "out" / "table.md").read_text()
    assert "<table>" in (tmp_path / "out" / "table.html").read_text()
    rows = pq.read_table(tmp_path / "out" / "predictions" / "m" / "a.expected.parquet").to_pylist()
    assert [row["score"] for row in rows] == TARGETS
    assert [row["native_score"] for row in rows] == pytest.approx([1 + 9 * target for target in TARGETS])
    assert {row["text"] for row in rows} == {"said"}


def test_what_is_answered_is_not_asked_again(tmp_path, asked, model):
    sets = [eval_set(tmp_path, TARGETS, "a")]
    first = run(sets, tmp_path / "out").evaluate([model])
    asked.uids.clear()
    assert run(sets, tmp_path / "out").evaluate([model]) == first
    assert asked.uids == []
    more = [*sets, eval_set(tmp_path, TARGETS[:2], "b")]
    run(more, tmp_path / "out").evaluate([model])
    assert asked.uids == ["b/0.jpg", "b/1.jpg"]
    asked.uids.clear()
    (tmp_path / "a" / "1.jpg").write_bytes(b"another image")
    run(more, tmp_path / "out").evaluate([model])
    assert asked.uids == ["a/1.jpg"]
    asked.uids.clear()
    run(more, tmp_path / "out", "policy.max_completion_tokens=9").evaluate([model])
    assert len(asked.uids) == 7, "another length, other answers"
    run(sets, tmp_path / "out", "evaluate.readout=greedy").evaluate([model])
    assert len(asked.uids) == 12
    assert (tmp_path / "out" / "predictions" / "m" / "a.expected.parquet").is_file()


def test_a_look_at_a_few_images_costs_no_answer_for_the_others(tmp_path, asked, model):
    whole, few = eval_set(tmp_path, TARGETS, "a"), eval_set(tmp_path, TARGETS[:2], "a")
    first = run([whole], tmp_path / "out").evaluate([model])
    asked.uids.clear()
    assert run([few], tmp_path / "out").evaluate([model])["models"]["m"]["sets"]["a"]["n"] == 2
    run([few], tmp_path / "out").evaluate([model])
    assert run([whole], tmp_path / "out").evaluate([model]) == first
    assert asked.uids == []
    assert not list((tmp_path / "out").rglob("*.partial.jsonl"))


def test_another_processor_gives_other_answers(tmp_path, asked, tiny_model):
    model = FolderModel("m", Path(shutil.copytree(tiny_model, tmp_path / "model")))
    sets = [eval_set(tmp_path, TARGETS, "a")]
    run(sets, tmp_path / "out").evaluate([model])
    (model.folder / "rapo.json").unlink(missing_ok=True)
    asked.uids.clear()
    run(sets, tmp_path / "out").evaluate([model])
    assert asked.uids == []
    config = next(path for path in model.folder.glob("*processor_config.json"))
    config.write_text(config.read_text().rstrip() + "\n\n")
    run(sets, tmp_path / "out").evaluate([model])
    assert len(asked.uids) == len(TARGETS)


def test_human_scores_are_those_of_today(tmp_path, asked, model):
    run([eval_set(tmp_path, TARGETS, "a")], tmp_path / "out").evaluate([model])
    asked.uids.clear()
    one = eval_set(tmp_path / "new", [0.9, 0.7, 0.5, 0.3, 0.1], "a")
    for index, record in enumerate(one.records):
        assert record.path is not None
        record.path.write_bytes(b"%d" % round(100 * TARGETS[index]))
    found = run([one], tmp_path / "out").evaluate([model])
    assert asked.uids == [], "the same images"
    assert found["models"]["m"]["sets"]["a"]["figures"]["srcc"]["value"] == -1.0


def test_a_broken_evaluation_goes_on_where_it_ended(tmp_path, asked, model):
    sets = [eval_set(tmp_path, TARGETS, "a")]
    asked.fails_after = 3
    with pytest.raises(ServiceError, match="killed"):
        run(sets, tmp_path / "out").evaluate([model])
    partial = next((tmp_path / "out").rglob("*.partial.jsonl"))
    partial.write_bytes(partial.read_bytes()[:-20])  # torn by a crash
    asked.fails_after = None
    asked.uids.clear()
    found = run(sets, tmp_path / "out").evaluate([model])
    assert asked.uids == ["a/2.jpg", "a/3.jpg", "a/4.jpg"]
    assert found["models"]["m"]["sets"]["a"]["n"] == 5
    assert not partial.exists()


def test_a_folder_without_a_card_gets_longer_answers_and_a_note(tmp_path, asked, model):
    found = run([eval_set(tmp_path, TARGETS, "a")], tmp_path / "out", "evaluate.samples=3").evaluate([model])
    assert asked.configs[0].policy.max_completion_tokens == 1024
    assert asked.configs[0].rollout.engine.max_model_len == 2048, "as long as the model"
    assert asked.configs[0].evaluate.samples == 3
    assert any("m has no rapo.json: its answers end after 1024 tokens" in note for note in found["notes"])


def test_an_image_whose_prompt_is_too_long_has_no_score_and_ends_nothing(tmp_path, model):
    one = eval_set(tmp_path, TARGETS[:2], "a")
    for record in one.records:
        assert record.path is not None
        make_image(record.path, size=84)
    config = load_config(None, ["rollout.engine.max_model_len=512", "policy.max_completion_tokens=64"])
    assert [len(part) for part in engines.fitting(model, config, one.records)] == [2, 0]
    short = load_config(None, ["rollout.engine.max_model_len=70", "policy.max_completion_tokens=64"])
    fit, refused = engines.fitting(model, short, one.records)
    assert fit == []
    assert [(p.uid, p.score, p.reason) for p in refused] == [
        ("a/0.jpg", None, "prompt_too_long"),
        ("a/1.jpg", None, "prompt_too_long"),
    ]


def test_a_running_scorer(tmp_path):
    one = eval_set(tmp_path, TARGETS, "a")
    scorer = FakeScorer()
    assert one.records[3].path is not None
    one.records[3].path.write_bytes(b"no image")
    with serving(scorer) as address:
        scorer.failures.append(status(code_pb2.FAILED_PRECONDITION, "no score", "no_answer"))
        found = run([one], tmp_path / "out").evaluate([ScorerModel("s", address)])
        figures = found["models"]["s"]["sets"]["a"]
        assert figures["invalid"] == {"no_answer": 1, "unknown_format": 1}
        assert figures["figures"]["parse_rate"]["value"] == pytest.approx(3 / 5)
        requests = len(scorer.requests)
        run([one], tmp_path / "out").evaluate([ScorerModel("s", address)])
        assert len(scorer.requests) == requests, "every result is known"


def test_images_that_a_scorer_left_out_are_asked_for_again(tmp_path):
    one = eval_set(tmp_path, TARGETS, "a")
    scorer = FakeScorer()
    with serving(scorer) as address:
        scorer.failures.append(status(code_pb2.INTERNAL, "broken", "internal"))
        with pytest.raises(ServiceError, match=r"1 of 5 images got no answer.*broken.*asks for the rest"):
            run([one], tmp_path / "out").evaluate([ScorerModel("s", address)])
        requests = len(scorer.requests)
        found = run([one], tmp_path / "out").evaluate([ScorerModel("s", address)])
        assert len(scorer.requests) == requests + 1
        assert found["models"]["s"]["sets"]["a"]["n_valid"] == 5


def test_a_scorer_that_does_not_answer_is_an_error_before_anything_is_asked(tmp_path, asked, model):
    scorer = FakeScorer()
    scorer.token = "another"
    with serving(scorer) as address, pytest.raises(ServiceError, match="does not let this client in"):
        run([eval_set(tmp_path, TARGETS, "a")], tmp_path / "out").evaluate([model, ScorerModel("s", address)])
    assert asked.uids == []


def test_a_scorer_that_changes_its_default_is_asked_for_the_version_of_the_table(tmp_path, monkeypatch):
    sets = [eval_set(tmp_path, TARGETS, "a"), eval_set(tmp_path, TARGETS, "b")]
    scorer, add = FakeScorer(), AnswerFile.add

    def switch(file: AnswerFile, predictions: Sequence[Prediction]) -> None:
        scorer.default = "v6"
        add(file, predictions)

    monkeypatch.setattr(AnswerFile, "add", switch)
    with serving(scorer) as address:
        run(sets, tmp_path / "out").evaluate([ScorerModel("s", address)])
    assert scorer.default == "v6"
    assert {request.model_version for request in scorer.requests} == {"v7"}


def test_a_request_that_a_scorer_refuses_is_no_property_of_the_images(tmp_path):
    scorer, one = FakeScorer(), eval_set(tmp_path, TARGETS, "a")
    refused = status(code_pb2.INVALID_ARGUMENT, "samples must be 2 to 16", "samples_out_of_range", field="samples")
    scorer.failures = [refused] * 5
    with serving(scorer) as address:
        with pytest.raises(ServiceError, match="samples must be 2 to 16"):
            run([one], tmp_path / "out").evaluate([ScorerModel("s", address)])
        scorer.failures.clear()
        found = run([one], tmp_path / "out").evaluate([ScorerModel("s", address)])
    assert found["models"]["s"]["sets"]["a"]["n_valid"] == 5, "it was kept as an answer"


def test_predictions_of_another_system(tmp_path, asked, model):
    one = eval_set(tmp_path, TARGETS, "a")
    path = tmp_path / "p.csv"
    path.write_text("image,prediction\n0.jpg,.1\n1.jpg,.2\n2.jpg,.3\n3.jpg,.1\n4.jpg,.9\n")
    found = run([one], tmp_path / "out").evaluate([GivenModel("p", path, None), model])
    assert {row["n"] for row in found["differences"]} == {5}
    assert (tmp_path / "out" / "predictions" / "p" / "a.given.parquet").is_file()
    path.write_text("image,prediction\nx.jpg,.1\n")
    with pytest.raises(DataError, match="no row for any image of a"):
        run([one], tmp_path / "out").evaluate([GivenModel("p", path, None)])


def test_models_are_told_apart(tmp_path, tiny_model):
    path = table(tmp_path / "p.csv", rated(2), images=False)
    found = evaluated_models([str(tiny_model), f"x={path}@1..5", f"y={path}@native", str(path), "s=localhost:50051"])
    assert found[0] == FolderModel(tiny_model.name, tiny_model)
    given = [one for one in found if isinstance(one, GivenModel)]
    assert [one.name for one in given] == ["x", "y", "p"]
    assert [one.scale and one.scale.ends for one in given] == [(1.0, 5.0), None, None]
    assert found[-1] == ScorerModel("s", "localhost:50051")
    for argument, error, words in (
        ("nothing", ConfigError, "nothing is no model"),
        ("x" * 300, ConfigError, "is no model"),
        (f"{path}@5..1", ConfigError, r"give the scale as @LOW\.\.HIGH"),
        (str(tmp_path), ModelError, "no config.json"),
    ):
        with pytest.raises(error, match=words):
            evaluated_models([argument])
    with pytest.raises(ConfigError, match="two models are called 'p'"):
        evaluated_models([str(path), f"p={path}"])
