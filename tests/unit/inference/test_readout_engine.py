"""ReadoutEngine: its way to the tree of answers, on a scripted model in the place of vLLM."""

from __future__ import annotations

import pytest
from scripted_core import (
    BEFORE,
    PROMPT,
    USUAL,
    WAYS,
    ScriptedCore,
    ScriptedEngine,
    ScriptedPass,
    expected,
    image_of,
    model,
    read,
    text_of,
)

from rapo.answers.answer_tokens import answer_tokens
from rapo.answers.readout import SYMBOLS, expectation
from rapo.errors import ModelError
from rapo.inference.types import ReadoutRequest, ReadoutResult, SamplingSpec


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapo.inference.readout_engine.features_of", lambda *_: [])


SCRIPTS = {
    "usual": USUAL,
    "nothing likely": {},
    "one": {"": {"1": 0.7, "0": 0.3}, "1": {".": 0.9, "0": 0.1}, "1.": {"0": 1.0}, "1.0": {"0": 0.8, "5": 0.2}},
    "one goes astray": {"": {"0": 0.8, "1": 0.2}, "1": {"5": 0.9, ".": 0.1}},
    "a word": {"": {"x": 0.7, "0": 0.3}},
    "one decimal": {"0.5": {"</answer>": 0.8, "5": 0.2}},
    "certain": {"": {"0": 1.0}, "0": {".": 1.0}, "0.": {"7": 1.0}, "0.7": {"3": 1.0}},
}


@WAYS
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_tree_is_complete_whatever_the_answer_is(name: str, most: int | None) -> None:
    script = model(SCRIPTS[name])
    result = read(ScriptedCore(script), most=most)
    assert result.tree is not None
    wanted = expectation(expected(script))
    found = result.tree.expectation()
    assert (found.mean, found.std, found.outside) == pytest.approx((wanted.mean, wanted.std, wanted.outside), abs=1e-7)


@WAYS
def test_without_a_rationale_it_starts_at_the_answer(most: int | None) -> None:
    script = model(USUAL)

    def hurried(text: str) -> dict[str, float]:
        return script(BEFORE + text.removeprefix("<think></think><answer>"))

    result = read(ScriptedCore(hurried), rationale=False, most=most)
    assert result.tree is not None
    assert result.tree.expectation().mean == pytest.approx(expectation(expected(script)).mean, abs=1e-7)


def test_a_pass_needs_no_request_and_no_token_of_the_answer() -> None:
    core = ScriptedCore(model(USUAL))
    result = read(core)
    assert (core.sent, core.steps, result.nodes) == (["a/"], 4, 0)
    assert text_of(result.completions[0].token_ids) == BEFORE


def test_without_a_pass_only_reachable_nodes_are_requested() -> None:
    core = ScriptedCore(model(SCRIPTS["certain"]))
    result = read(core, most=None)
    assert core.sent == ["a/", *(f"a/={node}" for node in ("", "0", "0.", "0.7"))]
    assert result.nodes == 4


def test_trees_that_are_ready_together_are_read_together() -> None:
    core = ScriptedCore(model(USUAL))
    read_trees = ScriptedPass(core, most=2)
    engine = ScriptedEngine(core, read_trees)
    for name in "abc":
        engine.add(name, image_of(PROMPT), ReadoutRequest(SamplingSpec(1, 0.0, 32), tree=True), 0)
    found: list[tuple[str, ReadoutResult]] = []
    while engine.busy:
        found += engine.step()
    # The third one did not fit, and had to compute its prefix again.
    assert [query.name for query in read_trees.queries] == ["a/", "b/", "c/="]
    assert [(name, result.nodes) for name, result in found] == [("a", 0), ("b", 0), ("c", 1)]
    means = [result.tree.expectation().mean for _, result in found if result.tree is not None]
    assert means == pytest.approx([expectation(expected(model(USUAL))).mean] * 3, abs=1e-7)


@WAYS
def test_a_token_that_spans_the_end_of_the_tag_is_tokenized_again(most: int | None) -> None:
    script = model(USUAL, opening=("<answer", ">0"))
    whole = model(USUAL)
    result = read(ScriptedCore(lambda text: whole(text) if text.startswith(BEFORE) else script(text)), most=most)
    assert result.tree is not None
    assert result.tree.expectation().mean == pytest.approx(expectation(expected(whole)).mean, abs=1e-7)


def test_a_token_limit_behind_the_tag_leaves_no_node_out() -> None:
    for limit in (4, 5, 6):
        result = read(ScriptedCore(model(USUAL)), limit=limit)
        assert result.tree is not None
        assert result.tree.expectation().mean == pytest.approx(expectation(expected(model(USUAL))).mean, abs=1e-7)


def test_without_an_answer_there_is_no_tree() -> None:
    result = read(ScriptedCore(model(USUAL)), limit=3)
    assert result.tree is None
    assert result.completions[0].finish_reason == "length"
    assert text_of(result.completions[0].token_ids) == "<think>calm</think>"


@pytest.mark.parametrize("ends_at", [5, 32])
def test_a_tree_waits_for_others_unless_its_request_ends(ends_at: int) -> None:
    core = ScriptedCore(model(USUAL))
    read_trees = ScriptedPass(core)
    engine = ScriptedEngine(core, read_trees)
    engine.add("a", image_of(PROMPT), ReadoutRequest(SamplingSpec(1, 0.0, ends_at), tree=True), 0)
    engine.step()
    engine.add("b", image_of(PROMPT), ReadoutRequest(SamplingSpec(1, 0.0, 32), tree=True), 0)
    found: list[tuple[str, ReadoutResult]] = []
    while engine.busy:
        found += engine.step()
    # Both are read in one pass. The first one's request may end in the step of the wait, and its
    # tokens are then computed again.
    ended = ends_at == 5
    assert [query.name for query in read_trees.queries] == (["b/", "a/="] if ended else ["a/", "b/"])
    assert core.steps == (6 if ended else 5)
    means = [result.tree.expectation().mean for _, result in found if result.tree is not None]
    assert means == pytest.approx([expectation(expected(model(USUAL))).mean] * 2, abs=1e-7)


def test_a_prompt_that_is_too_long_is_refused() -> None:
    engine = ScriptedEngine(ScriptedCore(model({})))
    image = image_of(198)
    with pytest.raises(ValueError, match="198 tokens"):
        engine.add("a", image, ReadoutRequest(SamplingSpec(1, 0.0, 8)), 0)
    assert not engine.busy


def test_cancelling_removes_the_node_requests_too() -> None:
    core = ScriptedCore(model({}))
    engine = ScriptedEngine(core)
    image = image_of(PROMPT)
    for name in ("a", "b"):
        engine.add(name, image, ReadoutRequest(SamplingSpec(1, 0.0, 32), tree=True), 0)
    for _ in range(5):
        engine.step()
    assert set(core.requests) == {f"{name}/={node}" for name in "ab" for node in "01"}
    engine.cancel("a")
    engine.cancel("unknown")
    assert {name.partition("/")[0] for name in core.requests} == {"b"}


def test_sampled_answers_are_requests_of_their_own_with_seeds_in_a_row() -> None:
    core = ScriptedCore(model(USUAL))
    engine = ScriptedEngine(core)
    image = image_of(1)
    engine.add("a", image, ReadoutRequest(SamplingSpec(3, 0.7, 32, logprobs=False)), 40)
    assert {name: request.parameters.seed for name, request in core.requests.items()} == {
        "a/0": 40,
        "a/1": 41,
        "a/2": 42,
    }
    core.requests["a/1"].parameters.max_tokens = 2
    found = []
    while engine.busy:
        found += engine.step()
    ((_, result),) = found
    assert [completion.finish_reason for completion in result.completions] == ["stop", "length", "stop"]
    assert text_of(result.completions[1].token_ids) == "<think>calm"
    assert (result.tree, result.nodes) == (None, 0)


def test_tokens_are_passed_on_step_by_step() -> None:
    tokens: list[int] = []
    engine = ScriptedEngine(ScriptedCore(model(USUAL)))
    image = image_of(1)
    engine.add("a", image, ReadoutRequest(SamplingSpec(1, 0.0, 32), tree=True, on_tokens=tokens.extend), 0)
    engine.step()
    engine.step()
    assert text_of(tokens) == "<think>calm"


def test_a_tokenizer_that_joins_digits_with_other_characters_is_refused() -> None:
    def pairs(text: str) -> list[str]:
        return [text[i : i + 2] for i in range(0, len(text), 2)]

    with pytest.raises(ModelError, match="digit by digit"):
        answer_tokens(pairs)  # type: ignore[arg-type]
    assert answer_tokens(lambda text: [ord(c) for c in text]).ids("0.5") == [48, 46, 53]
    with pytest.raises(ModelError, match="0 tokens"):
        answer_tokens(lambda text: [1, 2])


def test_the_embedded_tokenizer_writes_digit_by_digit() -> None:
    from rapo.aescot.writer import phrases
    from rapo.families.tiny_prompt import build_tokenizer

    tokenizer = build_tokenizer(1024, phrases())
    tokens = answer_tokens(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    assert len(set(tokens.symbols)) == len(SYMBOLS)
