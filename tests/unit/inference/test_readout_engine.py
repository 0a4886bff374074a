"""ReadoutEngine: its way through the tree of answers, on a scripted model in the place of vLLM."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rapo.answers.readout import CHARACTERS, NODES, NUMBERS, SYMBOLS, TEXTS, expectation
from rapo.errors import ModelError
from rapo.inference.answer_tokens import AnswerTokens, answer_tokens
from rapo.inference.answer_trees import AnswerTrees
from rapo.inference.engine_core import StepOutput
from rapo.inference.readout_engine import ReadoutEngine
from rapo.inference.types import EncodedImage, ReadoutRequest, ReadoutResult, SamplingSpec, TreeQuery

STOP, PAD = 0, 7
#: The tokens of the image's prompt.
PROMPT = 2
#: Tokens of several characters; every other token is one character, its id the character's code.
PIECES = {
    1000: "<think>",
    1001: "calm",
    1002: "</think>",
    1003: "<answer>",
    1004: "</answer>",
    1005: ">0",
    1006: "<answer",
}
SYMBOL_IDS = (*map(ord, CHARACTERS), 1004)
PIECE = re.compile("</?think>|</?answer>|calm|.", re.DOTALL)
BEFORE = "<think>calm</think><answer>"

#: The probability of each next piece after a text.
Model = Callable[[str], dict[str, float]]


def text_of(ids: Iterable[int]) -> str:
    return "".join(PIECES.get(int(i), chr(int(i))) for i in ids if int(i) != STOP)


def id_of(piece: str) -> int:
    return STOP if piece == "" else next((i for i, text in PIECES.items() if text == piece), 0) or ord(piece)


class ScriptedCore:
    """Gives every request its likeliest token in a step, with log-probs of it and of the answers'
    characters."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.requests: dict[str, SimpleNamespace] = {}
        self.sent: list[str] = []
        self.steps = 0

    def add(self, name: str, prompt: list[int], features: list[object], parameters: SimpleNamespace) -> None:
        self.sent.append(name)
        ids = [i for i in prompt if i != PAD]
        self.requests[name] = SimpleNamespace(ids=ids, wrote=0, parameters=parameters)

    def cancel(self, names: Iterable[str]) -> None:
        for name in names:
            self.requests.pop(name, None)

    def step(self) -> list[StepOutput]:
        self.steps += 1
        steps = []
        for name, request in list(self.requests.items()):
            chances = self.model(text_of(request.ids))
            by_id = {id_of(piece): math.log(chance) for piece, chance in chances.items() if chance > 0}
            token = max(by_id, key=lambda i: by_id[i])
            logprobs = np.array([[by_id.get(i, -100.0) for i in [token, *SYMBOL_IDS]]], np.float32)
            request.ids.append(token)
            request.wrote += 1
            ended = token == STOP or request.wrote == request.parameters.max_tokens
            reason = ("stop" if token == STOP else "length") if ended else None
            if ended:
                del self.requests[name]
            steps.append(StepOutput(name, [token], logprobs, reason))
        return steps


class ScriptedPass:
    """Reads at most `most` trees at once from the tokens of the core's requests."""

    def __init__(self, core: ScriptedCore, most: int = 100) -> None:
        self.core, self.most = core, most
        self.queries: list[TreeQuery] = []

    def __call__(self, queries: Sequence[TreeQuery]) -> np.ndarray:
        self.queries += queries[: self.most]
        return np.array([self._tree(query) for query in queries[: self.most]], np.float32).reshape(-1, 16, 12)

    def _tree(self, query: TreeQuery) -> list[list[float]]:
        ids = self.core.requests[query.name].ids  # a request that has ended lost its blocks
        before = ids[: query.length - PROMPT]
        assert before[-1] == query.last_token
        rows = []
        for node in NODES:
            chances = self.core.model(text_of(before) + node)
            by_id = {id_of(piece): math.log(chance) for piece, chance in chances.items() if chance > 0}
            rows.append([by_id.get(i, -100.0) for i in SYMBOL_IDS])
        return rows


class ScriptedEngine(ReadoutEngine):
    def __init__(self, core: ScriptedCore, read: ScriptedPass | None = None) -> None:
        self._core = core  # type: ignore[assignment]
        self.version = 0
        self._tokens = AnswerTokens(SYMBOL_IDS, (1000, 1002, 1003))
        self._token_texts, self._requests = {}, {}
        self._max_length = 200
        parameters: Any = SimpleNamespace(max_tokens=1, seed=0)
        self._trees = AnswerTrees(self._core, self._tokens, parameters, read)

        def tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [id_of(piece) for piece in PIECE.findall(text)]}

        self.processor = SimpleNamespace(decode=text_of, tokenizer=tokenizer, image_token_id=PAD)  # type: ignore[assignment]

    def _parameters(self, sampling: SamplingSpec, seed: int, **overrides: object) -> SimpleNamespace:
        return SimpleNamespace(**({"max_tokens": sampling.max_tokens, "seed": seed} | overrides))


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapo.inference.readout_engine.features_of", lambda *_: [])


def model(answers: dict[str, dict[str, float]], opening: tuple[str, ...] = ("<answer>",)) -> Model:
    """Writes the rationale, opens the answer, goes on as `answers` says (0.05 for each digit where
    it says nothing) and stops."""
    script = ["<think>", "calm", "</think>", *opening]

    def following(text: str) -> dict[str, float]:
        written = ""
        for piece in script:
            if text == written:
                return {piece: 1.0}
            written += piece
        answer = text[text.index("<answer>") + len("<answer>") :]
        if "</answer>" in text:
            return {"": 1.0}
        if len(answer) >= 4:
            return {"</answer>": 1.0}
        return answers.get(answer, {**dict.fromkeys("0123456789", 0.05), ".": 0.3, "</answer>": 0.2})

    return following


def image_of(tokens: int) -> EncodedImage:
    return EncodedImage(np.zeros((1, 1), np.uint8), np.zeros(3, np.int64), [PAD] * tokens, "key")


def expected(script: Model, before: str = BEFORE) -> np.ndarray:
    def chance(pieces: Sequence[str]) -> float:
        return math.prod(script(before + "".join(pieces[:i])).get(piece, 0.0) for i, piece in enumerate(pieces))

    mass = np.array([chance(text) for text in TEXTS])
    for number in NUMBERS:
        mass[round(100 * float(number))] += chance([*number, "</answer>"])
    return mass


def read(
    core: ScriptedCore,
    *,
    limit: int = 32,
    rationale: bool = True,
    force: bool = False,
    prompt: int = PROMPT,
    most: int | None = 100,
) -> ReadoutResult:
    """One readout; `most` as in `ScriptedPass`, None for an engine without passes."""
    engine = ScriptedEngine(core, None if most is None else ScriptedPass(core, most))
    greedy = SamplingSpec(1, 0.0, limit, logprobs=False)
    engine.add("a", image_of(prompt), ReadoutRequest(greedy, tree=True, rationale=rationale, force=force), 0)
    found: list[tuple[str, ReadoutResult]] = []
    while engine.busy:
        found += engine.step()
        assert core.steps < 50
    assert not core.requests, "something is left in the core"
    return found[0][1]


#: An engine that reads trees in one pass, one whose pass has no room for them, and one without.
WAYS = pytest.mark.parametrize("most", [100, 0, None])

USUAL = {"": {"0": 0.9, "1": 0.06, "x": 0.04}, "0": {".": 1.0}, "0.": {"5": 0.6, "6": 0.4}, "1.": {"0": 1.0}}
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


def test_a_tokenizer_that_joins_digits_is_refused() -> None:
    def pairs(text: str) -> list[str]:
        return [text[i : i + 2] for i in range(0, len(text), 2)]

    with pytest.raises(ModelError, match="digit by digit"):
        answer_tokens(pairs)  # type: ignore[arg-type]
    assert answer_tokens(lambda text: [ord(c) for c in text]).ids("0.5") == [48, 46, 53]
    with pytest.raises(ModelError, match="2 tokens"):
        answer_tokens(lambda text: [1, 2])


def test_the_embedded_tokenizer_writes_digit_by_digit() -> None:
    from rapo.aescot.writer import phrases
    from rapo.policy.tiny_model import _build_tokenizer

    tokenizer = _build_tokenizer(1024, phrases())
    tokens = answer_tokens(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    assert len(set(tokens.symbols)) == len(SYMBOLS)
