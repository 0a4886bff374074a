"""JudgedGrounding: the grounded term of groups by a judge model, for rationales in any words.

- A group of which one rationale gets no verdict has a term of 0 throughout: a 0 for that completion
  alone would count as a fault of its rationale, and move the mean of its group.
- An invalid completion earns nothing whatever it says, and is not asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rapo.answers.parse import parse_answer
from rapo.arrays import Floats
from rapo.explanations.grounding_judge import Explained, GroundingJudge, GroundingVerdict, JudgedBatch
from rapo.records import Group


@dataclass(frozen=True, slots=True)
class JudgedGroups:
    """The grounded term `(N, K)` in [0, 1] of N groups. `unjudged` are the groups that have none:
    by fault their number, and the problem of the first. `batch` is what the judge was asked."""

    grounded: Floats
    unjudged: Mapping[str, tuple[int, str]]
    batch: JudgedBatch

    @property
    def metrics(self) -> dict[str, float]:
        """The share of groups without a verdict, and what the verdicts cost."""
        count = sum(groups for groups, _ in self.unjudged.values())
        return {"unjudged": count / len(self.grounded), "judge_cost": self.batch.used.cost}


def judge_groups(judge: GroundingJudge, groups: Sequence[Group], images: Sequence[bytes]) -> JudgedGroups:
    """Judge the rationales of all groups at once. `images` are the encoded bytes of each group's
    image."""
    places: list[tuple[int, int]] = []
    explained: list[Explained] = []
    for i, (group, image) in enumerate(zip(groups, images, strict=True)):
        for k, (text, end) in enumerate(zip(group.texts, group.finish_reasons, strict=True)):
            answer = parse_answer(text, truncated=end == "length")
            if answer.score is not None:
                places.append((i, k))
                explained.append(Explained(image, answer.rationale))
    batch = judge.judge(explained)
    grounded = np.zeros((len(groups), len(groups[0].texts)))
    failed: dict[int, GroundingVerdict] = {}
    for (i, k), verdict in zip(places, batch.verdicts, strict=True):
        grounded[i, k] = verdict.grounding
        if verdict.fits is None:
            failed.setdefault(i, verdict)
    grounded[list(failed)] = 0.0
    problems: dict[str, list[str]] = {}
    for verdict in failed.values():
        problems.setdefault(verdict.fault or "", []).append(verdict.problem)
    return JudgedGroups(grounded, {fault: (len(each), each[0]) for fault, each in problems.items()}, batch)
