"""Readouts of the deployment, on a scripted engine."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from scripted_scorer import GOOD, Context, FakeEngine, ScorerWithoutVllm, explain, png, score, tree_of

from rapo.algorithm.conformal import Bin, Calibration
from rapo.config import Config, load_config
from rapo.v1 import scorer_pb2
from services.replica.servicer import Scorer


def test_the_default_is_the_expectation_with_its_spread(scorer: ScorerWithoutVllm, engine: FakeEngine) -> None:
    context = Context()
    reply = score(scorer, context, request_id="mine")
    assert context.code is None
    assert (reply.rationale, reply.model_version, reply.request_id) == ("calm light", "v7", "mine")
    assert reply.score == pytest.approx(0.65)
    assert reply.std == pytest.approx(0.05)
    assert (reply.model_interval.low, reply.model_interval.high) == (0.6, 0.7)
    assert not reply.HasField("interval"), "the card has no calibration"
    assert reply.readout == scorer_pb2.READOUT_EXPECTED
    assert reply.timings.queue_ms >= 250
    assert reply.timings.generate_ms == 500
    assert reply.timings.completion_tokens == len(GOOD)
    assert not reply.cached
    assert not reply.HasField("native_score")
    assert not reply.dimensions
    assert [one.outside for one in scorer.observed] == [pytest.approx(0.0, abs=1e-9)]
    assert engine.encoded_images[0].tensors["pixels"].shape == (32, 32, 3)
    assert score(scorer, context, omit_rationale=True).rationale == ""


def test_greedy_is_the_number_that_was_written(scorer: Scorer) -> None:
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_GREEDY)
    assert (reply.score, reply.rationale, reply.readout) == (0.61, "calm light", scorer_pb2.READOUT_GREEDY)
    assert not reply.HasField("std")
    assert not reply.HasField("model_interval")


def test_the_calibrated_interval_comes_with_its_readout_alone(scorer: Scorer, engine: FakeEngine) -> None:
    scorer.calibration = Calibration(0.8, "expected", 90, (Bin(0.0, 40, -0.5, 0.5), Bin(0.6, 50, -0.3, 0.1)))
    reply = score(scorer, Context())
    assert (reply.interval.low, reply.interval.high) == (pytest.approx(0.35), pytest.approx(0.75))
    assert reply.interval.coverage == 0.8
    assert (reply.model_interval.low, reply.model_interval.high) == (0.6, 0.7)
    *_, last = explain(scorer, Context())
    assert last.response.interval == reply.interval
    for readout in (scorer_pb2.READOUT_GREEDY, scorer_pb2.READOUT_SAMPLED):
        assert not score(scorer, Context(), readout=readout).HasField("interval")
    engine.texts = ["0.61"]
    assert not score(scorer, Context(), readout=scorer_pb2.READOUT_FAST).HasField("interval")


def test_fast_has_no_rationale(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts = ["0.61"]
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_FAST)
    assert reply.score == pytest.approx(0.65)
    assert (reply.rationale, engine.requests[0].rationale, engine.requests[0].tree) == ("", False, True)


def test_sampled_is_the_mean_over_what_has_a_score(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts = [f"<think>{word}</think><answer>{word}</answer>" for word in ("0.2", "0.5", "0.9", "none")]
    reply = score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED, samples=4)
    assert reply.score == pytest.approx((0.2 + 0.5 + 0.9) / 3)
    assert reply.std == pytest.approx(np.std([0.2, 0.5, 0.9], ddof=1))
    assert reply.rationale == "0.5"
    assert 0.2 <= reply.model_interval.low < 0.5 < reply.model_interval.high <= 0.9
    assert engine.requests[0].sampling.completions == 4
    score(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED)
    assert engine.requests[1].sampling.completions == Config().serve.samples


def test_seeds_come_from_the_image(scorer: Scorer, engine: FakeEngine) -> None:
    for image in (png(), png(), png(red=1)):
        score(scorer, Context(), image, readout=scorer_pb2.READOUT_SAMPLED, request_id="x")
    assert engine.seeds[0] == engine.seeds[1] != engine.seeds[2]


def test_one_sample_with_a_score_is_no_spread(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts = [GOOD, "no tags"]
    context = Context()
    score(scorer, context, readout=scorer_pb2.READOUT_SAMPLED, samples=2)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "no_think")


def test_native_scale_and_dimensions_where_asked_for(scorer: Scorer) -> None:
    reply = score(scorer, Context(), native_scale="ava", with_dimensions=True)
    assert reply.native_score == pytest.approx(1 + 9 * 0.65)
    assert [(part.name, part.text) for part in reply.dimensions] == [("light and shadow", "calm light")]


@pytest.mark.parametrize("readout", [scorer_pb2.READOUT_GREEDY, scorer_pb2.READOUT_EXPECTED])
@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("no tags", "stop", "no_think"),
        ("<think>calm", "length", "truncated"),
        ("<think>calm</think> text <answer>0.6</answer>", "stop", "extra_text"),
        ("<think>calm</think>", "stop", "no_answer"),
    ],
)
def test_an_answer_without_a_score_is_a_status_not_a_score(
    scorer: Scorer, engine: FakeEngine, readout: scorer_pb2.Readout, text: str, finish: str, reason: str
) -> None:
    engine.texts, engine.finish = [text], finish
    if "<answer>" not in text:
        engine.tree = None
    context = Context()
    reply = score(scorer, context, readout=readout)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert reply == scorer_pb2.ScoreResponse()


def test_an_improbable_number_is_forced_or_no_score(scorer: ScorerWithoutVllm, engine: FakeEngine) -> None:
    engine.tree = tree_of(inside=0.04)
    reply = score(scorer, Context())
    assert (reply.score, reply.forced) == (pytest.approx(0.65), True)
    assert scorer.observed[-1].outside == pytest.approx(0.96)
    engine.texts, context = ["0.61"], Context()
    score(scorer, context, readout=scorer_pb2.READOUT_FAST)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "not_a_number")
    engine.texts = [GOOD]
    strict, context = ScorerWithoutVllm(engine, load_config(None, ["serve.force_answer=false"])), Context()
    score(strict, context)
    assert (context.code, context.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "not_a_number")
    engine.tree = tree_of(inside=0.06)
    reply = score(strict, Context())
    assert (reply.score, reply.forced) == (pytest.approx(0.65), False)


def test_a_closed_rationale_is_said_to_be_forced(scorer: Scorer, engine: FakeEngine) -> None:
    engine.texts, engine.finish, engine.closed = ["<think>calm; light and"], "length", "calm;"
    reply = score(scorer, Context())
    assert (reply.score, reply.rationale, reply.forced) == (pytest.approx(0.65), "calm;", True)
    assert engine.requests[-1].force
    *deltas, last = explain(scorer, Context())
    assert "".join(part.rationale_delta for part in deltas) == "calm; light and"
    assert last.response.rationale == "calm;"
    strict = ScorerWithoutVllm(engine, load_config(None, ["serve.force_answer=false"]))
    score(strict, Context())
    assert not engine.requests[-1].force


def test_the_rationale_comes_as_it_is_written(scorer: Scorer) -> None:
    *deltas, last = explain(scorer, Context(), request_id="mine")
    pieces = [part.rationale_delta for part in deltas]
    assert "".join(pieces) == "calm light"
    assert len(pieces) > 3
    assert last.response.score == pytest.approx(0.65)
    assert (last.response.rationale, last.response.request_id) == ("calm light", "mine")


def test_a_rationale_that_comes_whole_is_one_piece(scorer: Scorer) -> None:
    delta, last = explain(scorer, Context(), readout=scorer_pb2.READOUT_SAMPLED)
    assert delta.rationale_delta == last.response.rationale == "calm light"
    (only,) = explain(ScorerWithoutVllm(FakeEngine(), Config()), Context(), readout=scorer_pb2.READOUT_FAST)
    assert only.WhichOneof("part") == "response"
