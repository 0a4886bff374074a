"""AnswerTrees: the trees of answers in flight, each after a token prefix of its own.

- A tree may be wanted after any tokens: those that a running request has just written, or others,
  for which a request of one token computes the prefix.
- Where the engine can (`rapo.inference.tree_pass`), the trees that are ready after a step are read
  together, whole, without a request for each node. Elsewhere every node is a request of one token
  whose prompt lies in the prefix cache, level by level, and nodes that the model hardly ever
  reaches are left out.
- Trees that are ready wait up to `_MOST_STEPS` steps for others, unless no other is in flight.
- Both ways give the same log-probs. A tree depends on its own tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rapo.answers.answer_tokens import AnswerTokens
from rapo.answers.readout import AnswerTree
from rapo.arrays import Floats
from rapo.inference.engine_core import Core, StepOutput
from rapo.inference.types import TreeQuery

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.multimodal.inputs import MultiModalFeatureSpec

#: Reads the trees of the first queries, as many as it can: log-probs `(trees, 16, tokens)` of
#: `AnswerTokens.read`.
ReadTrees = Callable[[Sequence[TreeQuery]], NDArray[np.float32]]

_MARK = "/="
# A pass costs nearly the same for one tree as for several, so that a few steps are waited for more
# of them; meanwhile their requests write tokens that no one reads. Enough trees are read at once.
_ENOUGH, _MOST_STEPS = 8, 2


@dataclass(slots=True)
class _Wanted:
    """A tree in flight: `ids` are the tokens before it, prompt included."""

    ids: list[int]
    features: list[MultiModalFeatureSpec]
    tree: AnswerTree = field(default_factory=AnswerTree)
    requested: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class FinishedTree:
    """A complete tree, and how many requests it took."""

    name: str
    tree: AnswerTree
    requests: int


class AnswerTrees:
    """The trees in flight, by the names that the caller gives them.

    Their requests in the core are named "<name>/=...". `parameters` are those of a greedy request
    with log-probs of the answer's symbols. `read` is None where the engine reads no tree in one
    pass.
    """

    def __init__(self, core: Core, tokens: AnswerTokens, parameters: SamplingParams, read: ReadTrees | None) -> None:
        self._core = core
        self._tokens = tokens
        self._parameters = parameters
        self._read = read
        self._wanted: dict[str, _Wanted] = {}
        self._ready: dict[str, TreeQuery] = {}
        # How many steps the oldest of them has waited.
        self._steps = 0

    def add(
        self, name: str, ids: list[int], features: list[MultiModalFeatureSpec], *, running: str | None = None
    ) -> bool:
        """Want a tree after the tokens `ids`. `running` names the core's request that has just
        written the last of them and goes on; whether it must do so until `finish`."""
        wanted = self._wanted[name] = _Wanted(ids, features)
        if self._read is None or running is None:
            self._request_nodes(name, wanted)
            return False
        self._ready[name] = TreeQuery(running, len(ids), ids[-1])
        return True

    def cancel(self, name: str) -> None:
        """Drop a tree and its requests. An unknown name is ignored."""
        self._ready.pop(name, None)
        if (wanted := self._wanted.pop(name, None)) is not None:
            self._core.cancel(f"{name}{_MARK}{node}" for node in wanted.parts)

    def take(self, output: StepOutput) -> bool:
        """Take an output of the core, if it is that of a tree's request; whether it is."""
        name, mark, node = output.name.partition(_MARK)
        if not mark:
            return False
        wanted = self._wanted.get(name)
        if wanted is None or node not in wanted.parts:
            return True
        if output.reason is not None:
            wanted.parts.discard(node)
        if name in self._ready:  # a further token of a request that waits for its pass
            return True
        assert output.logprobs is not None
        wanted.tree.learn(node, self._symbol_logprobs(output.logprobs[-1]))
        if self._carries(node):
            self._ready[name] = TreeQuery(output.name, len(wanted.ids), wanted.ids[-1])
        else:
            self._request_nodes(name, wanted)
        return True

    def finish(self, in_flight: int) -> list[FinishedTree]:
        """The trees that are complete. Call it after each step, once `take` had its outputs;
        `in_flight` is how many trees may come, those that are here included."""
        self._steps = self._steps + 1 if self._ready else 0
        few = len(self._ready) < min(_ENOUGH, in_flight)
        if self._ready and not (few and self._steps <= _MOST_STEPS):
            self._read_ready()
            self._steps = 0
        names = [name for name, wanted in self._wanted.items() if not wanted.parts and name not in self._ready]
        finished = [(name, self._wanted.pop(name)) for name in names]
        return [FinishedTree(name, wanted.tree, len(wanted.requested)) for name, wanted in finished]

    def _read_ready(self) -> None:
        assert self._read is not None
        ready, self._ready = self._ready, {}
        # A request may have ended, or lost its blocks, while its tree waited.
        held = [name for name, query in ready.items() if self._holds(query)]
        names = [*held, *(ready.keys() - set(held))]
        read = self._read([ready[name] for name in held]).astype(np.float64)
        for name, logprobs in zip(names, np.minimum(read, 0.0), strict=False):
            self._wanted[name].tree.learn_all(logprobs)
        for name in names:
            wanted = self._wanted[name]
            self._core.cancel(f"{name}{_MARK}{node}" for node in wanted.parts)
            wanted.parts.clear()
            self._request_nodes(name, wanted)

    def _holds(self, query: TreeQuery) -> bool:
        return self._core.computed_tokens(query.name) >= query.length - 1

    def _carries(self, node: str) -> bool:
        """Whether the request of `node` only computes the tokens before the tree for a pass. It
        must not end before the pass, because the core gives away the blocks of what has ended."""
        return self._read is not None and node == ""

    def _symbol_logprobs(self, row: NDArray[np.float32]) -> Floats:
        """Log-probs of the answer's tokens, at most 0, from a row of `StepOutput`."""
        # The first is that of the token itself.
        return np.minimum(row[1 : 1 + len(self._tokens.read)].astype(np.float64), 0.0)

    def _request_nodes(self, name: str, wanted: _Wanted) -> None:
        for node in wanted.tree.missing():
            if node not in wanted.requested:
                wanted.requested.add(node)
                self._send(name, wanted, node)

    def _send(self, name: str, wanted: _Wanted, node: str) -> None:
        ids, parameters = [*wanted.ids, *self._tokens.ids(node)], copy(self._parameters)
        parameters.max_tokens = 2 + _MOST_STEPS if self._carries(node) else 1
        self._core.add(f"{name}{_MARK}{node}", ids, wanted.features, parameters)
        wanted.parts.add(node)
