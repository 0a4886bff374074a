"""Answers: the answers' tokens of a micro-batch, for the losses that treat them apart from the
rationales'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from rapo.algorithm.answer_path import path_moments, path_nodes
from rapo.algorithm.soft_label import joined_labels, soft_labels
from rapo.answers.readout import NODES, SYMBOLS
from rapo.arrays import Floats
from rapo.records import AnswerNodes, ScoredGroup

# Keeps a group without spread at 0 instead of dividing by 0.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class AnswerTargets:
    """The tokens of A answers, L each: four characters, or three tokens with both decimals in one.

    `places` int64 `(L A,)` are their places among the micro-batch's completion tokens, `labels`
    float32 `(L A, S)` the soft labels of `AnswerTokens.read` at each, `answers` the A answers, and
    `owners` int64 `(A,)` the completions that they belong to.
    """

    places: torch.Tensor
    labels: torch.Tensor
    answers: tuple[AnswerNodes, ...]
    owners: torch.Tensor


def answer_targets(chunk: Sequence[ScoredGroup], std: float, symbols: int) -> AnswerTargets:
    """The answers of the valid completions of `chunk`, whose soft labels have the width `std` and
    are over `symbols` tokens."""
    make = soft_labels if symbols == len(SYMBOLS) else joined_labels
    labels = make([scored.group.target for scored in chunk], std)
    places, rows, answers, owners = [], [], [], []
    begin = completion = 0
    for g, scored in enumerate(chunk):
        group = scored.group
        for k, ids in enumerate(group.token_ids):
            answer = group.answers[k] if group.answers is not None else None
            if answer is not None and not np.isnan(scored.scores[k]):
                nodes = path_nodes(answer.text)[: len(answer.logprobs)]
                places.append(begin + answer.start + np.arange(len(nodes)))
                rows.append(labels[g, [NODES.index(node) for node in nodes]])
                answers.append(answer)
                owners.append(completion)
            begin += len(ids)
            completion += 1
    return AnswerTargets(
        torch.from_numpy(np.concatenate(places) if places else np.zeros(0, np.int64)),
        torch.from_numpy(np.concatenate(rows) if rows else np.zeros((0, symbols))).float(),
        tuple(answers),
        torch.tensor(owners, dtype=torch.int64),
    )


def listener_advantages(chunk: Sequence[ScoredGroup], tokens: AnswerTargets, log_probs: NDArray[np.float32]) -> Floats:
    """How well the reference policy tells the human score from each rationale, `(completions,)`,
    normalised within its group.

    `log_probs` `(L A, S)` are the reference policy's at the answers' tokens. A rationale earns
    minus the distance of its expected answer behind it from the human score. A completion without
    an answer earns the least that is possible, -1. A frozen model that reads the rationale again is
    the idea of "Listener-Rewarded Thinking in VLMs for Image Preferences" (arXiv 2506.22832).
    """
    length = max(1, len(log_probs) // max(1, len(tokens.answers)))
    each = log_probs.reshape(-1, length, log_probs.shape[1])
    heard = [replace(answer, logprobs=rows) for answer, rows in zip(tokens.answers, each, strict=True)]
    expected, _ = path_moments(heard)
    targets = np.concatenate([np.full(len(scored.scores), scored.group.target) for scored in chunk])
    owners = tokens.owners.numpy()
    earned = np.full(len(targets), -1.0)
    earned[owners] = -np.abs(expected - targets[owners])
    groups = earned.reshape(len(chunk), -1)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return (centred / (groups.std(axis=1, ddof=1, keepdims=True) + _ROUNDING)).ravel()
