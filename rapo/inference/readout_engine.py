"""An engine whose requests are readouts: one image in, one reading out, however many requests of
vLLM's that takes.

For `expected` the rationale is written greedily, with the log-probs of the answer's characters at
each token. When the answer begins, the greedy answer's own path through the tree of answers comes
for free; every other node that the model could reach becomes a request of one token, whose prompt
lies in the prefix cache but for its last few tokens. They run in the same steps as the rest of the
answer, so that the reading is complete with its last digit; closing tags are not waited for. `fast`
is the same from an empty rationale on. All of it happens between steps of the engine, in the thread
that owns it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapo.answers.readout import NODES, AnswerTree
from rapo.config import EngineConfig
from rapo.inference.answer_tokens import OPEN, answer_tokens
from rapo.inference.completion_builder import CompletionBuilder
from rapo.inference.engine import Engine, one_each
from rapo.inference.engine_core import StepOutput
from rapo.inference.image_inputs import features_of
from rapo.inference.types import Completion, EncodedImage, ReadoutRequest, ReadoutResult, SamplingSpec

#: The longest way to an answer's end once it has begun: four characters.
_ANSWER_TOKENS = 4


@dataclass(slots=True)
class _Work:
    name: str
    ask: ReadoutRequest
    encoded: EncodedImage
    features: list[Any]
    asked_at: float
    began_at: float | None = None
    token_ids: list[int] = field(default_factory=list)
    tail: str = ""
    # Where the greedy answer stands in the tree; None before it has begun and after it has left the
    # tree.
    node: str | None = None
    tree: AnswerTree | None = None
    prefix: tuple[int, ...] = ()
    asked: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    nodes: int = 0
    # What is sampled, where several answers are.
    drawing: CompletionBuilder | None = None
    completions: tuple[Completion, ...] = ()


class ReadoutEngine(Engine):
    """An `Engine` that takes an `ReadoutRequest` for a `SamplingSpec` and gives a `ReadoutResult`
    for completions. Not thread-safe either.

    Raises `ModelError` where the model's tokenizer does not write answers digit by digit.
    """

    def __init__(self, model_dir: str, settings: EngineConfig, *, dtype: str, seed: int = 0) -> None:
        super().__init__(model_dir, settings, dtype=dtype, seed=seed)
        tokenizer = self.processor.tokenizer
        self.tokens = answer_tokens(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
        one_token = SamplingSpec(1, 0.0, 1, logprobs=False)
        self._node_parameters = self._parameters(one_token, 0, logprob_token_ids=list(self.tokens.characters))
        self._pieces: dict[int, str] = {}
        self._works: dict[str, _Work] = {}

    @property
    def busy(self) -> bool:
        return bool(self._works)

    def text(self, token_ids: NDArray[np.int32]) -> str:
        """The text of a completion. From any thread."""
        return self.processor.decode(token_ids)

    def add(self, name: str, encoded: EncodedImage, ask: ReadoutRequest, seed: int) -> None:  # type: ignore[override]
        """Raises `ValueError` for a prompt that is too long; nothing is then added. `name` must
        hold no slash."""
        sampling = ask.sampling
        work = _Work(name, ask, encoded, features_of(encoded, self.processor.image_token_id), time.perf_counter())
        more: dict[str, Any] = {}
        if ask.tree:
            more = {"logprob_token_ids": list(self.tokens.characters), "logprobs": None}
            if not ask.rationale:
                work.prefix, work.node, work.tree = self.tokens.no_rationale, "", AnswerTree()
                more["max_tokens"] = _ANSWER_TOKENS
        length = len(encoded.prompt_ids) + len(work.prefix)
        if length + _ANSWER_TOKENS > self._max_length:
            raise ValueError(f"its prompt has {length} tokens, the model takes {self._max_length} with the answer")
        parameters = self._parameters(sampling, seed, **more)
        if sampling.completions == 1:
            self._send(work, "", parameters)
        else:
            work.drawing = CompletionBuilder(sampling.completions, logprobs=sampling.logprobs)
            for number, own in enumerate(one_each(parameters, sampling.completions)):
                self._send(work, str(number), own)
        self._works[name] = work

    def cancel(self, name: str) -> None:
        if (work := self._works.pop(name, None)) is not None:
            self._abort(work)

    def step(self) -> list[tuple[str, ReadoutResult]]:  # type: ignore[override]
        """Advance by a token; `(name, reading)` of the asks that this finished."""
        began = time.perf_counter()
        finished = []
        for written in self._core.step():
            name, _, request = written.name.partition("/")
            work = self._works.get(name)
            if work is None or request not in work.open:
                continue
            if work.began_at is None:
                work.began_at = began
            if request.startswith("="):
                self._learn_node(work, request, written)
            elif work.drawing is not None:
                self._draw(work, work.drawing, request, written)
            else:
                self._advance(work, written)
            if not work.open:
                finished.append((name, self._reading(work)))
                del self._works[name]
        return finished

    def _learn_node(self, work: _Work, request: str, written: StepOutput) -> None:
        work.open.discard(request)
        work.nodes += 1
        assert work.tree is not None
        assert written.logprobs is not None
        work.tree.learn(request[1:], self._of_characters(written.logprobs[-1]))
        self._ask_nodes(work)

    def _draw(self, work: _Work, drawing: CompletionBuilder, request: str, written: StepOutput) -> None:
        """Take in what one of several sampled answers wrote in this step."""
        whole = drawing.take(int(request), written, self.version)
        if written.reason is not None:
            work.open.discard(request)
        if whole:
            work.completions = tuple(drawing.completions())

    def _advance(self, work: _Work, written: StepOutput) -> None:
        """Take in what the main request wrote in this step."""
        before = work.tree is None, work.node
        for place, token_id in enumerate(written.token_ids):
            work.token_ids.append(token_id)
            if work.ask.tree:
                assert written.logprobs is not None
                self._follow(work, token_id, written.logprobs[place])
        if work.ask.tell is not None:
            work.ask.tell(list(written.token_ids))
        if written.reason is not None:
            work.node = None
        if work.tree is not None and (False, work.node) != before:
            self._ask_nodes(work)
        # Past the tree nothing that the model writes is of use any more.
        useless = work.tree is not None and work.node is None
        if written.reason is not None or useless:
            work.open.discard("")
            if written.reason is None:
                self._core.cancel([f"{work.name}/"])
            self._complete(work, written.reason or "stop")

    def _complete(self, work: _Work, reason: str) -> None:
        ids = np.asarray(work.token_ids, np.int32)
        work.completions = (Completion(ids, None, reason, np.full(len(ids), self.version, np.int32)),)

    def _follow(self, work: _Work, token_id: int, logprobs: NDArray[np.float32]) -> None:
        """Keep track of whether the answer has begun, and where in the tree the greedy answer
        is."""
        if work.tree is None:
            work.tail = (work.tail + self._piece(token_id))[-2 * len(OPEN) :]
            if OPEN in work.tail:
                work.prefix = self._up_to_answer(work)
                if len(work.encoded.prompt_ids) + len(work.prefix) + _ANSWER_TOKENS <= self._max_length:
                    work.tree = AnswerTree()
                    work.node = "" if work.tail.endswith(OPEN) else None
        elif work.node is not None:
            work.tree.learn(work.node, self._of_characters(logprobs))
            character = self.tokens.character(token_id)
            after = work.node + (character or "?")
            work.node = after if after in NODES else None

    def _up_to_answer(self, work: _Work) -> tuple[int, ...]:
        """The tokens before the answer. Where one token holds the tag's end and more, the text is
        tokenized anew."""
        if work.tail.endswith(OPEN):
            return tuple(work.token_ids)
        text = self.processor.decode(np.asarray(work.token_ids, np.int32))
        before = text[: text.index(OPEN) + len(OPEN)]
        return tuple(self.processor.tokenizer(before, add_special_tokens=False)["input_ids"])

    def _ask_nodes(self, work: _Work) -> None:
        """ReadoutRequest for each node that is still missing, unless the greedy answer is about to
        tell it."""
        tree = work.tree
        assert tree is not None
        missing = set(tree.missing()) - work.asked
        if work.node is not None:
            missing.discard(work.node)
        work.asked |= missing
        for node in missing:
            self._send(work, f"={node}", copy(self._node_parameters), [*work.prefix, *self.tokens.ids(node)])

    def _send(self, work: _Work, request: str, parameters: Any, suffix: Sequence[int] | None = None) -> None:
        name, written = f"{work.name}/{request}", work.prefix if suffix is None else suffix
        self._core.add(name, [*work.encoded.prompt_ids, *written], work.features, parameters)
        work.open.add(request)

    def _abort(self, work: _Work) -> None:
        self._core.cancel(f"{work.name}/{request}" for request in work.open)
        work.open.clear()

    def _of_characters(self, logprobs: NDArray[np.float32]) -> NDArray[np.float64]:
        # The first is that of the token that was written.
        return np.minimum(logprobs[1 : 1 + len(self.tokens.characters)].astype(np.float64), 0.0)

    def _piece(self, token_id: int) -> str:
        if token_id not in self._pieces:
            self._pieces[token_id] = self.processor.decode(np.asarray([token_id], np.int32))
        return self._pieces[token_id]

    def _reading(self, work: _Work) -> ReadoutResult:
        now = time.perf_counter()
        began = work.began_at if work.began_at is not None else now
        return ReadoutResult(work.completions, work.tree, work.nodes, began - work.asked_at, now - began)
