"""ReadoutEngine: an engine whose requests are readouts, each an image in and a result out.

- `expected`: the rationale is written greedily, with the log-probs of the answer's symbols at
  each token. The greedy answer's own path gives its nodes of the tree of answers for free. Every
  other node that the model could reach becomes a request of one token; all but the last few tokens
  of its prompt lie in the prefix cache.
- The node requests run in the same steps as the rest of the answer, so the result is complete with
  the answer's last digit. Closing tags are not waited for.
- A rationale that ran off its form, or its token limit, is closed where the request allows it
  (`rapo.answers.forced`): the tree is then read after the closed text.
- `fast` is the same from an empty rationale on.
- All of this happens between the engine's steps, in the thread that owns the engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rapo.answers.answer_tokens import OPEN, AnswerTokens
from rapo.answers.forced import forced_prefix, has_form, kept_rationale, without_last_clause
from rapo.answers.readout import NODES, AnswerTree
from rapo.arrays import Floats
from rapo.config import EngineConfig
from rapo.inference.completion_builder import CompletionBuilder
from rapo.inference.engine import Engine, seeded_copies
from rapo.inference.engine_core import StepOutput
from rapo.inference.image_inputs import features_of
from rapo.inference.types import Completion, EncodedImage, ReadoutRequest, ReadoutResult, SamplingSpec

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.multimodal.inputs import MultiModalFeatureSpec

#: The tokens of the longest answer: four characters.
_ANSWER_TOKENS = 4


@dataclass(slots=True)
class _ReadoutState:
    """A readout in flight.

    To vLLM it is several requests, named "<name>/<part>": part "" writes the rationale and the
    answer, part "=0.5" asks for the node "0.5" of the tree, and parts "0", "1", ... are the
    completions where several are sampled.
    """

    name: str
    request: ReadoutRequest
    image: EncodedImage
    features: list[MultiModalFeatureSpec]
    added_at: float
    started_at: float | None = None
    token_ids: list[int] = field(default_factory=list)
    # The end of the text, long enough to find the tag that opens the answer.
    tail: str = ""
    # The greedy answer's node in the tree; None before the answer has begun, and after it has left
    # the tree.
    node: str | None = None
    tree: AnswerTree | None = None
    # The tokens between the prompt and the answer.
    prefix: tuple[int, ...] = ()
    # The rationale that was closed to force an answer.
    closed: str | None = None
    requested_nodes: set[str] = field(default_factory=set)
    parts_in_flight: set[str] = field(default_factory=set)
    nodes: int = 0
    # Set where several completions are sampled.
    builder: CompletionBuilder | None = None
    completions: tuple[Completion, ...] = ()


class ReadoutEngine(Engine[_ReadoutState]):
    """An `Engine` that turns a `ReadoutRequest` into a `ReadoutResult`.

    A request that needs the symbols of answers raises `ModelError` where the model's tokenizer does
    not write answers digit by digit.
    """

    def __init__(self, model_dir: str, settings: EngineConfig, *, dtype: str, seed: int = 0, version: int = 0) -> None:
        super().__init__(model_dir, settings, dtype=dtype, seed=seed, version=version)
        self._token_texts: dict[int, str] = {}

    @cached_property
    def _tokens(self) -> AnswerTokens:
        return self.processor.answer_tokens

    @cached_property
    def _node_parameters(self) -> SamplingParams:
        one_token = SamplingSpec(1, 0.0, 1, logprobs=False)
        return self._parameters(one_token, 0, logprob_token_ids=list(self._tokens.symbols))

    def text(self, token_ids: NDArray[np.int32]) -> str:
        """The text of a completion. Call it from any thread."""
        return self.processor.decode(token_ids)

    def add(self, name: str, image: EncodedImage, request: ReadoutRequest, seed: int) -> None:
        """Put a readout into the continuous batch; `step` returns its result under `name`, which
        must hold no slash.

        Raises `ValueError` for a prompt that leaves no room for an answer; nothing is added then.
        """
        sampling = request.sampling
        features = features_of(image, self.processor.image_token_id)
        state = _ReadoutState(name, request, image, features, added_at=time.perf_counter())
        overrides: dict[str, object] = {}
        if sampling.symbols:
            overrides = {"logprob_token_ids": list(self._tokens.symbols)}
        if request.tree:
            overrides = {"logprob_token_ids": list(self._tokens.symbols), "logprobs": None}
            if not request.rationale:
                state.prefix, state.node, state.tree = self._tokens.no_rationale, "", AnswerTree()
                overrides["max_tokens"] = _ANSWER_TOKENS
        self._check_length(len(image.prompt_ids) + len(state.prefix), _ANSWER_TOKENS)
        parameters = self._parameters(sampling, seed, **overrides)
        if sampling.completions == 1:
            self._send(state, "", parameters, state.prefix)
        else:
            state.builder = CompletionBuilder(sampling.completions, logprobs=sampling.logprobs)
            for index, own in enumerate(seeded_copies(parameters, sampling.completions)):
                self._send(state, str(index), own, state.prefix)
        self._requests[name] = state

    def cancel(self, name: str) -> None:
        """Stop a readout and free what it holds; `step` returns nothing of it. An unknown name is
        ignored."""
        if (state := self._requests.pop(name, None)) is not None:
            self._core.cancel(f"{name}/{part}" for part in state.parts_in_flight)

    def step(self) -> list[tuple[str, ReadoutResult]]:
        """Advance every running readout by a token; `(name, result)` of those that ended."""
        started = time.perf_counter()
        finished = []
        for output in self._core.step():
            name, _, part = output.name.partition("/")
            state = self._requests.get(name)
            if state is None or part not in state.parts_in_flight:
                continue
            if state.started_at is None:
                state.started_at = started
            if part.startswith("="):
                self._learn_node(state, part, output)
            elif state.builder is not None:
                self._add_sampled(state, state.builder, part, output)
            else:
                self._advance(state, output)
            if not state.parts_in_flight:
                finished.append((name, self._result(state)))
                del self._requests[name]
        return finished

    def _learn_node(self, state: _ReadoutState, part: str, output: StepOutput) -> None:
        state.parts_in_flight.discard(part)
        state.nodes += 1
        assert state.tree is not None
        assert output.logprobs is not None
        state.tree.learn(part[1:], self._symbol_logprobs(output.logprobs[-1]))
        self._request_nodes(state)

    def _add_sampled(self, state: _ReadoutState, builder: CompletionBuilder, part: str, output: StepOutput) -> None:
        """Add a step's tokens of one of several sampled completions."""
        complete = builder.add(int(part), output, self.version)
        if output.reason is not None:
            state.parts_in_flight.discard(part)
        if complete:
            state.completions = tuple(builder.completions())

    def _advance(self, state: _ReadoutState, output: StepOutput) -> None:
        """Add a step's tokens of the part that writes rationale and answer."""
        before = state.tree is None, state.node
        for index, token_id in enumerate(output.token_ids):
            state.token_ids.append(token_id)
            if state.request.tree:
                assert output.logprobs is not None
                self._follow(state, token_id, output.logprobs[index])
        if state.request.on_tokens is not None:
            state.request.on_tokens(list(output.token_ids))
        if output.reason is not None:
            state.node = None
            if state.tree is None and state.request.tree and state.request.force:
                self._force(state)
        if state.tree is not None and (False, state.node) != before:
            self._request_nodes(state)
        # Past the tree no further token of the answer is of use.
        past_tree = state.tree is not None and state.node is None
        if output.reason is not None or past_tree:
            state.parts_in_flight.discard("")
            if output.reason is None:
                self._core.cancel([f"{state.name}/"])
            ids = np.asarray(state.token_ids, np.int32)
            versions = np.full(len(ids), self.version, np.int32)
            state.completions = (Completion(ids, None, output.reason or "stop", versions),)

    def _follow(self, state: _ReadoutState, token_id: int, logprobs: NDArray[np.float32]) -> None:
        """Update whether the answer has begun, and the greedy answer's node in the tree."""
        if state.tree is None:
            state.tail = (state.tail + self._token_text(token_id))[-2 * len(OPEN) :]
            if OPEN in state.tail:
                self._open(state)
        elif state.node is not None:
            state.tree.learn(state.node, self._symbol_logprobs(logprobs))
            after = state.node + (self._tokens.symbol(token_id) or "?")
            state.node = after if after in NODES else None

    def _open(self, state: _ReadoutState) -> None:
        """Begin the tree after the tag that opens the answer, or after the rationale where the text
        up to the tag has not the right form."""
        text = self._text_of(state)
        before = text[: text.index(OPEN) + len(OPEN)]
        if state.request.force and not has_form(before):
            self._force(state)
            return
        # Where one token holds the tag's end and more, the text is tokenized again.
        whole = state.tail.endswith(OPEN)
        state.prefix = tuple(state.token_ids) if whole else self._tokenized(before)
        if self._has_room(state.image, state.prefix):
            state.tree = AnswerTree()
            state.node = "" if whole else None

    def _force(self, state: _ReadoutState) -> None:
        """Begin the tree after the closed rationale. It loses clauses at its end where there is no
        room for an answer; where none is left, there is no tree."""
        rationale = kept_rationale(self._text_of(state))
        while not self._has_room(state.image, prefix := self._tokenized(forced_prefix(rationale))):
            if not rationale:
                return
            rationale = without_last_clause(rationale)
        state.closed, state.prefix, state.tree = rationale, prefix, AnswerTree()

    def _has_room(self, image: EncodedImage, prefix: Sequence[int]) -> bool:
        return len(image.prompt_ids) + len(prefix) + _ANSWER_TOKENS <= self._max_length

    def _text_of(self, state: _ReadoutState) -> str:
        return self.processor.decode(np.asarray(state.token_ids, np.int32))

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _request_nodes(self, state: _ReadoutState) -> None:
        """Send a request for each missing node of the tree, except the one that the greedy answer
        gives with its next token."""
        tree = state.tree
        assert tree is not None
        missing = set(tree.missing()) - state.requested_nodes
        if state.node is not None:
            missing.discard(state.node)
        state.requested_nodes |= missing
        for node in missing:
            self._send(state, f"={node}", copy(self._node_parameters), [*state.prefix, *self._tokens.ids(node)])

    def _send(self, state: _ReadoutState, part: str, parameters: SamplingParams, suffix: Sequence[int]) -> None:
        """Send vLLM a part whose prompt is the image's with `suffix` behind it."""
        self._core.add(f"{state.name}/{part}", [*state.image.prompt_ids, *suffix], state.features, parameters)
        state.parts_in_flight.add(part)

    def _symbol_logprobs(self, logprobs: NDArray[np.float32]) -> Floats:
        """Log-probs of the answer's symbols `(12,)`, at most 0, from a row of `StepOutput`."""
        # The first is that of the token itself.
        return np.minimum(logprobs[1 : 1 + len(self._tokens.symbols)].astype(np.float64), 0.0)

    def _token_text(self, token_id: int) -> str:
        if token_id not in self._token_texts:
            self._token_texts[token_id] = self.processor.decode(np.asarray([token_id], np.int32))
        return self._token_texts[token_id]

    def _result(self, state: _ReadoutState) -> ReadoutResult:
        now = time.perf_counter()
        started = state.started_at if state.started_at is not None else now
        return ReadoutResult(
            state.completions, state.tree, state.nodes, started - state.added_at, now - started, state.closed
        )
