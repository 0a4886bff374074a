"""Answers: the answers' tokens of a micro-batch, for the losses that treat them apart from the
rationales'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from rapo.algorithm.answer_path import LENGTH, path_moments, path_nodes
from rapo.algorithm.soft_label import soft_labels
from rapo.answers.readout import NODES, SYMBOLS
from rapo.arrays import Floats
from rapo.records import AnswerNodes, ScoredGroup

# Keeps a group without spread at 0 instead of dividing by 0.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class AnswerTargets:
    """The tokens of A answers, four each.

    `places` int64 `(4 A,)` are their places among the micro-batch's completion tokens, `labels`
    float32 `(4 A, 12)` the soft labels of the characters at each, `answers` the A answers, and
    `owners` int64 `(A,)` the completions that they belong to.
    """

    places: torch.Tensor
    labels: torch.Tensor
    answers: tuple[AnswerNodes, ...]
    owners: torch.Tensor


def answer_targets(chunk: Sequence[ScoredGroup], std: float) -> AnswerTargets:
    """The answers of the valid completions of `chunk`, whose soft labels have the width `std`."""
    labels = soft_labels([scored.group.target for scored in chunk], std)
    places, rows, answers, owners = [], [], [], []
    begin = completion = 0
    for g, scored in enumerate(chunk):
        group = scored.group
        for k, ids in enumerate(group.token_ids):
            answer = group.answers[k] if group.answers is not None else None
            if answer is not None and not np.isnan(scored.scores[k]):
                places.append(begin + answer.start + np.arange(LENGTH))
                rows.append(labels[g, [NODES.index(node) for node in path_nodes(answer.text)]])
                answers.append(answer)
                owners.append(completion)
            begin += len(ids)
            completion += 1
    return AnswerTargets(
        torch.from_numpy(np.concatenate(places) if places else np.zeros(0, np.int64)),
        torch.from_numpy(np.concatenate(rows) if rows else np.zeros((0, len(SYMBOLS)))).float(),
        tuple(answers),
        torch.tensor(owners, dtype=torch.int64),
    )


def listener_advantages(chunk: Sequence[ScoredGroup], tokens: AnswerTargets, log_probs: NDArray[np.float32]) -> Floats:
    """How well the reference policy tells the human score from each rationale, `(completions,)`,
    normalised within its group.

    `log_probs` `(4 A, 12)` are the reference policy's at the answers' tokens. A rationale earns
    minus the distance of its expected answer behind it from the human score. A completion without
    an answer earns the least that is possible, -1. A frozen model that reads the rationale again is
    the idea of "Listener-Rewarded Thinking in VLMs for Image Preferences" (arXiv 2506.22832).
    """
    heard = [
        replace(answer, logprobs=rows)
        for answer, rows in zip(tokens.answers, log_probs.reshape(-1, LENGTH, len(SYMBOLS)), strict=True)
    ]
    expected, _ = path_moments(heard)
    targets = np.concatenate([np.full(len(scored.scores), scored.group.target) for scored in chunk])
    owners = tokens.owners.numpy()
    earned = np.full(len(targets), -1.0)
    earned[owners] = -np.abs(expected - targets[owners])
    groups = earned.reshape(len(chunk), -1)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return (centred / (groups.std(axis=1, ddof=1, keepdims=True) + _ROUNDING)).ravel()
