"""Scripted core: a model that is a function from text to the next piece, in the place of vLLM, and
the ReadoutEngine on it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rapo.answers.answer_tokens import AnswerTokens
from rapo.answers.readout import CHARACTERS, NODES, NUMBERS, TEXTS
from rapo.families.inputs import EncodedImage
from rapo.inference.answer_trees import AnswerTrees
from rapo.inference.engine_core import StepOutput
from rapo.inference.readout_engine import ReadoutEngine
from rapo.inference.types import ReadoutRequest, ReadoutResult, SamplingSpec, TreeQuery

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

    def computed_tokens(self, name: str) -> int:
        request = self.requests.get(name)
        return 0 if request is None else PROMPT + len(request.ids) - 1

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
    return EncodedImage({}, [PAD] * tokens, "key")


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
