"""ReadoutEngine: answers read after a rationale that ran off its form."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scripted_core import (
    BEFORE,
    USUAL,
    WAYS,
    Model,
    ScriptedCore,
    expected,
    model,
    read,
)

from rapo.answers.readout import expectation


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapo.inference.readout_engine.features_of", lambda *_: [])


def rambling(written: Sequence[str], closed: str) -> Model:
    """Writes `written`; after `closed` and the tags of an answer it goes on as usual."""
    usual = model(USUAL)
    before = f"<think>{closed}</think><answer>"

    def following(text: str) -> dict[str, float]:
        if text.startswith(before):
            return usual(BEFORE + text.removeprefix(before))
        so_far = ""
        for piece in written:
            if text == so_far:
                return {piece: 1.0}
            so_far += piece
        return {"": 1.0}

    return following


@pytest.mark.parametrize(
    ("written", "limit", "closed"),
    [
        (["<think>", "calm", ";", "calm"], 32, "calm;"),
        (["<think>", "calm", ";", "calm", "calm"], 5, "calm;"),
        (["<think>", "calm", "calm"], 3, "calmcalm"),
        (["<think>", "calm", "</think>"], 32, "calm"),
        (["calm", "</think>", "<answer>", "0"], 32, "calm"),
        (["<think>", "calm", "<think>", "calm", "</think>", "<answer>", "0"], 32, "calm"),
        (["<think>", "calm", "</think>", "x", "<answer>", "0"], 32, "calm"),
        (["<think>", "calm", ".", "6", "5", "</answer>"], 32, "calm."),
    ],
)
@WAYS
def test_a_rationale_without_its_form_is_closed_and_read(
    written: list[str], limit: int, closed: str, most: int | None
) -> None:
    script = rambling(written, closed)
    result = read(ScriptedCore(script), limit=limit, force=True, most=most)
    assert (result.forced, result.closed) == (True, closed)
    assert result.tree is not None
    assert result.tree.expectation().mean == pytest.approx(expectation(expected(model(USUAL))).mean, abs=1e-7)
    unforced = read(ScriptedCore(script), limit=limit)
    assert not unforced.forced


def test_an_answer_in_its_form_is_not_forced() -> None:
    script = model(USUAL)
    result, plain = read(ScriptedCore(script), force=True), read(ScriptedCore(script))
    assert not result.forced
    assert result.tree is not None
    assert plain.tree is not None
    assert result.tree.expectation() == plain.tree.expectation()


def test_a_forced_answer_without_room_loses_clauses() -> None:
    script = rambling(["<think>", "calm", ";", "calm", ";", "calm"], "calm;")
    # Prompt, five tokens of the closed rationale, four of the answer.
    result = read(ScriptedCore(script), force=True, prompt=200 - 5 - 4, most=None)
    assert result.closed == "calm;"
    assert read(ScriptedCore(script), force=True, prompt=200 - 4, most=None).tree is None
