"""ReadoutEngine: an engine whose requests are readouts, each an image in and a result out.

- `expected`: the rationale is written greedily. With the tag that opens the answer, the tree of
  answers is read (`rapo.inference.answer_trees`), and no further token is written.
- A rationale that ran off its form, or its token limit, is closed where the request allows it
  (`rapo.answers.forced`): the tree is then read after the closed text.
- `fast` reads the tree after an empty rationale.
- All of this happens between the engine's steps, in the thread that owns the engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rapo.answers.answer_tokens import OPEN, AnswerTokens
from rapo.answers.forced import forced_prefix, has_form, kept_rationale, without_last_clause
from rapo.answers.readout import AnswerTree
from rapo.config import EngineConfig
from rapo.families.inputs import EncodedImage
from rapo.inference.answer_trees import AnswerTrees
from rapo.inference.completion_builder import CompletionBuilder
from rapo.inference.engine import Engine, seeded_copies
from rapo.inference.engine_core import StepOutput
from rapo.inference.image_inputs import features_of
from rapo.inference.tree_pass import TreePass
from rapo.inference.types import Completion, ReadoutRequest, ReadoutResult, SamplingSpec

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.multimodal.inputs import MultiModalFeatureSpec

#: The tokens of the longest answer: four characters.
_ANSWER_TOKENS = 4


@dataclass(slots=True)
class _ReadoutState:
    """A readout in flight.

    To vLLM it is several requests, named "<name>/<part>": part "" writes the rationale and the
    answer, parts "0", "1", ... are the completions where several are sampled, and those of the tree
    begin with "=".
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
    # The tree is being read: what the model writes meanwhile is of no use.
    reading: bool = False
    tree: AnswerTree | None = None
    # The rationale that was closed to force an answer.
    closed: str | None = None
    parts_in_flight: set[str] = field(default_factory=set)
    nodes: int = 0
    # Set where several completions are sampled.
    builder: CompletionBuilder | None = None
    # Why the part that writes the answer ended, if it did.
    reason: str | None = None


class ReadoutEngine(Engine[_ReadoutState]):
    """An `Engine` that turns a `ReadoutRequest` into a `ReadoutResult`.

    A request that needs the tokens of answers raises `ModelError` where the model's tokenizer
    writes them in another way than `rapo.answers.answer_tokens` knows.
    """

    def __init__(
        self,
        model_dir: str,
        settings: EngineConfig,
        *,
        dtype: str,
        seed: int = 0,
        version: int = 0,
        sleeps: bool = False,
    ) -> None:
        super().__init__(model_dir, settings, dtype=dtype, seed=seed, version=version, sleeps=sleeps)
        self._trees: AnswerTrees | None = None
        self._token_texts: dict[int, str] = {}

    @cached_property
    def _tokens(self) -> AnswerTokens:
        return self.processor.answer_tokens

    def _new_trees(self) -> AnswerTrees:
        one_token = SamplingSpec(1, 0.0, 1, logprobs=False, ignore_stop=True)
        parameters = self._parameters(one_token, 0, logprob_token_ids=self._tokens.read)
        banned = self.processor.banned_token_ids
        read = TreePass(self._llm, self._tokens, banned) if TreePass.possible(self._llm) else None
        return AnswerTrees(self._core, self._tokens, parameters, read)

    def text(self, token_ids: NDArray[np.int32]) -> str:
        """The text of a completion. Call it from any thread."""
        return self.processor.decode(token_ids)

    def add(self, name: str, image: EncodedImage, request: ReadoutRequest, seed: int) -> None:
        """Put a readout into the continuous batch; `step` returns its result under `name`, which
        must hold no slash.

        Raises `ValueError` for a prompt that leaves no room for an answer; nothing is added then.
        """
        sampling = request.sampling
        features = features_of(image, self.processor)
        state = _ReadoutState(name, request, image, features, added_at=time.perf_counter())
        if request.tree and self._trees is None:
            self._trees = self._new_trees()
        overrides = {"logprob_token_ids": self._tokens.read} if sampling.symbols else {}
        prefix = () if request.rationale else self._tokens.no_rationale
        self._check_length(len(image.prompt_ids) + len(prefix), _ANSWER_TOKENS)
        if not request.rationale:
            self._read_after(state, prefix)
        elif sampling.completions == 1:
            self._send(state, "", self._parameters(sampling, seed, **overrides))
        else:
            state.builder = CompletionBuilder(sampling.completions, logprobs=sampling.logprobs)
            for index, own in enumerate(
                seeded_copies(self._parameters(sampling, seed, **overrides), sampling.completions)
            ):
                self._send(state, str(index), own)
        self._requests[name] = state

    def cancel(self, name: str) -> None:
        """Stop a readout and free what it holds; `step` returns nothing of it. An unknown name is
        ignored."""
        if (state := self._requests.pop(name, None)) is not None:
            self._stop(state)
            if self._trees is not None:
                self._trees.cancel(name)

    def step(self) -> list[tuple[str, ReadoutResult]]:
        """Advance every running readout by a token; `(name, result)` of those that ended."""
        started = time.perf_counter()
        finished = []
        for output in self._core.step():
            name, _, part = output.name.partition("/")
            state = self._requests.get(name)
            if state is not None and state.started_at is None:
                state.started_at = started
            if self._trees is not None and self._trees.take(output):
                continue
            if state is None or part not in state.parts_in_flight:
                continue
            if state.builder is not None:
                self._add_sampled(state, state.builder, part, output)
            else:
                self._advance(state, output)
            if not state.parts_in_flight and not state.reading:
                finished.append(state)
        wanted = sum(state.request.tree for state in self._requests.values())
        for read in self._trees.finish(wanted) if self._trees is not None else ():
            state = self._requests[read.name]
            state.tree, state.nodes = read.tree, read.requests
            self._stop(state)
            finished.append(state)
        for state in finished:
            del self._requests[state.name]
        return [(state.name, self._result(state)) for state in finished]

    def _add_sampled(self, state: _ReadoutState, builder: CompletionBuilder, part: str, output: StepOutput) -> None:
        """Add a step's tokens of one of several sampled completions."""
        builder.add(int(part), output, self.version)
        if output.reason is not None:
            state.parts_in_flight.discard(part)

    def _advance(self, state: _ReadoutState, output: StepOutput) -> None:
        """Add a step's tokens of the part that writes rationale and answer."""
        if output.reason is not None:
            state.parts_in_flight.discard("")
            state.reason = output.reason
        if state.reading:
            return
        for token_id in output.token_ids:
            state.token_ids.append(token_id)
            if state.request.tree:
                state.tail = (state.tail + self._token_text(token_id))[-2 * len(OPEN) :]
        if state.request.on_tokens is not None:
            state.request.on_tokens(list(output.token_ids))
        if OPEN in state.tail:
            self._open(state)
        elif output.reason is not None and state.request.tree and state.request.force:
            self._force(state)

    def _open(self, state: _ReadoutState) -> None:
        """Read the tree after the tag that opens the answer, or after the rationale where the text
        up to the tag has not the right form."""
        text = self._text_of(state)
        before = text[: text.index(OPEN) + len(OPEN)]
        if has_form(before) or not state.request.force:
            if state.tail.endswith(OPEN):
                running = f"{state.name}/" if state.parts_in_flight else None
                self._read_after(state, state.token_ids, running)
            else:  # one token holds the tag's end and more
                self._read_after(state, self._tokenized(before))
        if state.request.force and not state.reading:
            self._force(state)

    def _force(self, state: _ReadoutState) -> None:
        """Read the tree after the closed rationale. It loses clauses at its end where there is no
        room for an answer; where none is left, there is no tree."""
        rationale = kept_rationale(self._text_of(state))
        while not self._has_room(state.image, prefix := self._tokenized(forced_prefix(rationale))):
            if not rationale:
                return
            rationale = without_last_clause(rationale)
        state.closed = rationale
        self._read_after(state, prefix)

    def _read_after(self, state: _ReadoutState, prefix: Sequence[int], running: str | None = None) -> None:
        """Read the tree after the tokens `prefix` behind the prompt, if there is room for it.
        `running` names the request that has just written them and goes on."""
        if self._has_room(state.image, prefix):
            state.reading = True
            ids = [*state.image.prompt_ids, *prefix]
            assert self._trees is not None
            if not self._trees.add(state.name, ids, state.features, running=running):
                self._stop(state)

    def _stop(self, state: _ReadoutState) -> None:
        """Stop the parts in flight."""
        self._core.cancel(f"{state.name}/{part}" for part in state.parts_in_flight)
        state.parts_in_flight.clear()

    def _has_room(self, image: EncodedImage, prefix: Sequence[int]) -> bool:
        return len(image.prompt_ids) + len(prefix) + _ANSWER_TOKENS <= self._max_length

    def _text_of(self, state: _ReadoutState) -> str:
        return self.processor.decode(np.asarray(state.token_ids, np.int32))

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _send(self, state: _ReadoutState, part: str, parameters: SamplingParams) -> None:
        self._core.add(f"{state.name}/{part}", state.image.prompt_ids, state.features, parameters)
        state.parts_in_flight.add(part)

    def _token_text(self, token_id: int) -> str:
        if token_id not in self._token_texts:
            self._token_texts[token_id] = self.processor.decode(np.asarray([token_id], np.int32))
        return self._token_texts[token_id]

    def _result(self, state: _ReadoutState) -> ReadoutResult:
        now = time.perf_counter()
        started = state.started_at if state.started_at is not None else now
        completions = () if state.builder is None else tuple(state.builder.completions())
        if state.builder is None and state.request.rationale:
            ids = np.asarray(state.token_ids, np.int32)
            completions = (Completion(ids, None, state.reason or "stop", np.full(len(ids), self.version, np.int32)),)
        return ReadoutResult(
            completions, state.tree, state.nodes, started - state.added_at, now - started, state.closed
        )
