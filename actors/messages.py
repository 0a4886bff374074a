"""Messages: what the roles' calls answer.

Frozen records of plain values, small enough to be fetched into the driver. Images, groups and
weights travel as objects of their own (`rapo.records`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rapo.chat.types import Usage


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """The process of an actor: its node's host name, its process id, and Ray's id of its node."""

    node: str
    pid: int
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class RankInfo:
    """A learner rank that has started.

    `chunks` is the number of chunks of every weight version that it publishes. `packing_fallback`
    is the reason why completions are trained as rows; None where they are packed. `state_bytes` is
    the size of its training state. `weight_store` is the address and port at which workers meet it
    to receive weights; None where it broadcasts none. `node_id` is Ray's id of its node, `devices`
    what `CUDA_VISIBLE_DEVICES` says there.
    """

    rank: int
    node: str
    pid: int
    chunks: int
    packing_fallback: str | None = None
    state_bytes: int = 0
    weight_store: tuple[str, int] | None = None
    node_id: str = ""
    devices: str = ""


@dataclass(frozen=True, slots=True)
class GroupReceipt:
    """A group that a rollout worker has sampled, without its content.

    `version` is the weight version of its oldest token, `tokens` their number over all completions.
    `seconds` is the time from the call to the group. `busy_seconds` is how long the worker's engine
    has worked since it was made. `worker` is the worker's name.
    """

    version: int
    tokens: int
    seconds: float
    busy_seconds: float
    worker: str


@dataclass(frozen=True, slots=True)
class JudgeReceipt:
    """What a judge model answered about the rationales of a step: its new verdicts by key, and what
    they used. `unjudged` are the groups without one: by fault their number, and the first problem.
    `stopped` is why it answers nothing more."""

    verdicts: Mapping[str, tuple[float, ...]]
    used: Usage
    unjudged: Mapping[str, tuple[int, str]]
    stopped: str | None


@dataclass(frozen=True, slots=True)
class RewardReceipt:
    """The metrics of a step's rewards, and for each learner rank the uids of the images of its
    share, in the order of its groups. `judged` is there where a judge model was asked."""

    metrics: Mapping[str, float]
    uids: tuple[tuple[str, ...], ...]
    judged: JudgeReceipt | None = None


@dataclass(frozen=True, slots=True)
class RankFigures:
    """One rank's figures of an optimiser step.

    `loss` is this rank's part of the loss. `token_sums` are sums over this rank's completion
    tokens, of which there are `tokens`. `mismatch_kl` is a sum over the `fresh_tokens` alone: those
    sampled from the learner's own version. `grad_norm` and `learning_rate` are the same on all
    ranks; `grad_norm` is None where DeepSpeed does not compute it (ZeRO-0). `skipped` is the number
    of updates that were left out because the gradient was not finite. `busy_seconds` is how long
    the step took.
    """

    loss: float
    learning_rate: float
    grad_norm: float | None
    tokens: float
    fresh_tokens: float
    mismatch_kl: float
    token_sums: Mapping[str, float]
    busy_seconds: float
    skipped: float = 0.0

    @classmethod
    def of(cls, totals: Mapping[str, float], busy_seconds: float) -> RankFigures:
        """From what `PolicyTrainer.step` returns."""
        own = {"loss", "learning_rate", "grad_norm", "tokens", "fresh_tokens", "mismatch_kl", "skipped"}
        return cls(
            loss=totals.get("loss", 0.0),
            learning_rate=totals["learning_rate"],
            grad_norm=totals.get("grad_norm"),
            tokens=totals.get("tokens", 0.0),
            fresh_tokens=totals.get("fresh_tokens", 0.0),
            mismatch_kl=totals.get("mismatch_kl", 0.0),
            token_sums={name: value for name, value in totals.items() if name not in own},
            busy_seconds=busy_seconds,
            skipped=totals.get("skipped", 0.0),
        )
