"""TrainingAlerts: early warnings of a RAPO run that goes wrong, from the rows of metrics.jsonl.

- An alert of a kind is raised once when the trouble begins, and again only after it has recovered.
- Missing and non-finite values are left out of every judgement. A figure of the learner that is not
  finite is an alert of its own.
- Rows count in ascending steps: a row whose step is not above the last one is ignored, because a
  resumed run repeats some.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from rapo.algorithm.alert_kinds import ActiveKinds, Alert, as_number
from rapo.algorithm.validation_alerts import ValidationAlerts
from rapo.config import WatchConfig

#: The learner's figures, none of which is ever NaN or infinite in a sound run.
_LEARNER = ("loss", "grad_norm", "entropy", "kl", "mismatch_kl")
#: A disagreement of sampler and learner shows in every step. A single batch above the bound may be
#: due to a few tokens.
_MISMATCH_STEPS = 3
#: A level counts as recovered only this far inside its bound, so that a level that stays near the
#: bound is reported once.
_ENTROPY_RECOVERED, _DROP_RECOVERED = 1.25, 0.5
#: A median of fewer rows says nothing.
_MIN_ROWS = 3


class TrainingAlerts:
    """Turns each training row and each validation result into the alerts that begin with it."""

    def __init__(self, config: WatchConfig = WatchConfig()) -> None:
        self._config = config
        self._active = ActiveKinds(config)
        self._validation = ValidationAlerts(config, self._active)
        self._step = self._validated = -math.inf
        self._finite_steps = 0
        self._entropy: deque[float] = deque(maxlen=config.window)
        self._parsed: deque[float] = deque(maxlen=config.window)
        self._rewards: deque[float] = deque(maxlen=config.window)
        self._mismatch: deque[float] = deque(maxlen=_MISMATCH_STEPS)
        self._flat: deque[float] = deque(maxlen=config.zero_spread_steps)
        self._entropy_start: float | None = None
        self._parse_best = -math.inf

    def step(self, row: Mapping[str, object]) -> list[Alert]:
        """The alerts that begin with a training row. `row` needs `step`; every other key may be
        missing."""
        step = as_number(row.get("step"))
        if not self._config.enabled or step is None or step <= self._step:
            return []
        self._step = step
        if (reward := as_number(row.get("reward_mean"))) is not None:
            self._rewards.append(reward)
        found = [
            self._not_finite(row),
            self._entropy_collapse(as_number(row.get("entropy"))),
            self._parse_loss(as_number(row.get("parse_rate"))),
            self._mismatched(as_number(row.get("mismatch_kl")), as_number(row.get("staleness_mean"))),
            self._no_signal(as_number(row.get("zero_spread"))),
        ]
        return [alert for alert in found if alert is not None]

    def validation(self, step: float, result: Mapping[str, object]) -> list[Alert]:
        """The alerts that begin with a validation after `step` steps. Pass the training row of that
        step first.

        It reads `srcc`, `grounding`, `spread`, `distinct_scores`, and the numbers of images `n` and
        `n_valid`. What is missing is not judged.
        """
        at = as_number(step)
        if not self._config.enabled or at is None or at <= self._validated:
            return []
        self._validated = at
        return self._validation.add(at, result, self._rewards)

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> list[Alert]:
        """Take in the lines of a metrics.jsonl, of training and validation alike, in their order.

        A run that is resumed gives what it has written up to its checkpoint, and drops the
        findings, as they were reported.
        """
        found: list[Alert] = []
        for row in rows:
            result = row.get("validation")
            if not isinstance(result, Mapping):
                found += self.step(row)
                continue
            if len(row.keys() - {"step", "validation", "seconds"}) > 0:
                found += self.step(row)
            found += self.validation(row.get("step", math.nan), result)
        return found

    def _not_finite(self, row: Mapping[str, object]) -> Alert | None:
        # A key without a number counts, because NaN becomes null in a file. An absent key does not.
        bad = [key for key in _LEARNER if key in row and as_number(row[key]) is None]
        self._finite_steps = 0 if bad else self._finite_steps + 1
        if not self._active.begins("not_finite", bool(bad), self._finite_steps >= self._config.window):
            return None
        return self._active.alert(
            self._step,
            "not_finite",
            f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not a finite number. The weights are usually lost "
            "from here on. Start again from the last good checkpoint with a lower rapo.learning_rate or a longer "
            "rapo.warmup_steps; where policy.dtype is bfloat16, try float32.",
            dict.fromkeys(bad, math.nan),
        )

    def _entropy_collapse(self, value: float | None) -> Alert | None:
        level = _level(self._entropy, value)
        if level is None:
            return None
        if self._entropy_start is None and len(self._entropy) == self._config.window:
            self._entropy_start = level
        start = self._entropy_start or 0.0
        bound = max(self._config.entropy_fraction * start, self._config.entropy_floor)
        if not self._active.begins("entropy_collapse", level < bound, level > _ENTROPY_RECOVERED * bound):
            return None
        before = f"; it was {start:.3g} at the start, and" if start else ", and"
        return self._active.alert(
            self._step,
            "entropy_collapse",
            f"The policy's entropy is {level:.3g} nats per token (median of {len(self._entropy)} steps)"
            f"{before} the bound is {bound:.3g}. Completions of a group become "
            "alike, and nothing is left to choose between. Lower rapo.learning_rate, or raise rapo.loss.kl_beta.",
            {"entropy": level, "start": start, "bound": bound},
        )

    def _parse_loss(self, value: float | None) -> Alert | None:
        level = _level(self._parsed, value)
        if level is None:
            return None
        if len(self._parsed) == self._config.window:
            self._parse_best = max(self._parse_best, level)
        drop, allowed, floor = self._parse_best - level, self._config.parse_drop, self._config.parse_floor
        recovered = drop <= _DROP_RECOVERED * allowed and level >= floor
        if not self._active.begins("parse_loss", drop > allowed or level < floor, recovered):
            return None
        than = f"against {self._parse_best:.1%} at best" if drop > allowed else f"fewer than {floor:.0%}"
        return self._active.alert(
            self._step,
            "parse_loss",
            f"{level:.1%} of the completions parse (median of {len(self._parsed)} steps), {than}. The policy forgets the "
            "form of an answer, or its answers grow too long. See which invalid/<reason> rose in metrics.jsonl: for "
            "'truncated' raise policy.max_completion_tokens; else lower rapo.learning_rate, or raise rapo.loss.kl_beta.",
            {"parse_rate": level, "best": max(self._parse_best, level), "floor": floor},
        )

    def _mismatched(self, value: float | None, staleness: float | None) -> Alert | None:
        if value is None:
            return None
        self._mismatch.append(value)
        bound = self._config.mismatch_kl
        if not self._active.begins("mismatch", *_all_above(self._mismatch, bound)):
            return None
        stale = (
            f" Part of it is age: the groups were {staleness:.3g} steps old on average; a lower rapo.max_staleness "
            "makes them fresher."
            if staleness
            else ""
        )
        return self._active.alert(
            self._step,
            "mismatch",
            f"KL(sampler || learner) is {value:.2e} nats per token, above {bound:.0e} in {_MISMATCH_STEPS} steps in a "
            "row. The gradient is then of another policy than the one that was sampled, and the correction for it is "
            f"capped.{stale} Otherwise the two compute differently: compare their dtypes, temperature and image sizes, "
            "and use policy.dtype float32 where it can be paid; several rapo.updates_per_batch raise it, too.",
            {"mismatch_kl": value, "bound": bound, "staleness_mean": staleness or 0.0},
        )

    def _no_signal(self, value: float | None) -> Alert | None:
        if value is None:
            return None
        self._flat.append(value)
        # The comparison is "not below", so that a bound of 1.0 works.
        bound = math.nextafter(self._config.zero_spread, -math.inf)
        if not self._active.begins("no_signal", *_all_above(self._flat, bound)):
            return None
        return self._active.alert(
            self._step,
            "no_signal",
            f"In {value:.1%} of the groups all completions earn the same, and it was {self._config.zero_spread:.0%} or "
            f"more in {len(self._flat)} steps in a row. Such groups have no advantage and teach nothing. See whether "
            "parse_rate is 0 or entropy is gone; raise rapo.completions or rapo.sampling.temperature, or end the run "
            "if the reward is as high as it can be.",
            {"zero_spread": value, "steps": float(len(self._flat))},
        )


def _level(values: deque[float], value: float | None) -> float | None:
    """The median of the last values after adding `value`, None while there are too few. It follows
    a jump within half the window."""
    if value is None:
        return None
    values.append(value)
    return median(values) if len(values) >= min(_MIN_ROWS, values.maxlen or 1) else None


def _all_above(values: deque[float], bound: float) -> tuple[bool, bool]:
    """Whether all of the last values are above the bound, and whether none is; both False while
    there are too few."""
    full = len(values) == values.maxlen
    return full and min(values) > bound, full and max(values) <= bound
