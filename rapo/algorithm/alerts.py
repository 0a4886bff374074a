"""TrainingAlerts: early warnings of a RAPO run that goes wrong, from the rows of metrics.jsonl.

- An alert of a kind is raised once when the trouble begins, and again only after it has recovered.
- Missing and non-finite values are left out of every judgement. A figure of the learner that is not
  finite is an alert of its own.
- Rows count in ascending steps: a row whose step is not above the last one is ignored, because a
  resumed run repeats some.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from rapo.config import WatchConfig

Kind = Literal[
    "not_finite", "entropy_collapse", "parse_loss", "mismatch", "no_signal", "reward_up_srcc_down", "srcc_below_best"
]

#: The policy itself is broken, and further steps do not repair it. `on_collapse = "stop"` makes
#: these fatal.
COLLAPSE: frozenset[Kind] = frozenset({"not_finite", "entropy_collapse", "parse_loss"})

#: The learner's figures, none of which is ever NaN or infinite in a sound run.
_LEARNER = ("loss", "grad_norm", "entropy", "kl", "mismatch_kl")
#: A disagreement of sampler and learner shows in every step. A single batch above the bound may be
#: due to a few tokens.
_MISMATCH_STEPS = 3
#: A level counts as recovered only this far inside its bound, so that a level that stays near the
#: bound is reported once.
_ENTROPY_RECOVERED, _DROP_RECOVERED = 1.25, 0.5
#: The mean reward has risen if it rose by more than this many standard errors.
_REWARD_ERRORS = 2.0
#: A median or a standard deviation of fewer rows says nothing.
_MIN_ROWS = 3
#: The standard error of a correlation exists for more images than this.
_MIN_IMAGES = 3


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem of the run from `step` on.

    `text` says what it is and what to do, `values` holds its figures by name. `fatal`: the run's
    configuration ends the training after this step.
    """

    step: int
    kind: Kind
    text: str
    values: dict[str, float]
    fatal: bool = False

    def row(self) -> dict[str, object]:
        """The alert's line in alerts.jsonl."""
        return dataclasses.asdict(self)


class TrainingAlerts:
    """Turns each training row and each validation result into the alerts that begin with it."""

    def __init__(self, config: WatchConfig = WatchConfig()) -> None:
        self._config = config
        self._active: set[Kind] = set()
        self._step = self._validated = -math.inf
        self._finite_steps = 0
        self._entropy: deque[float] = deque(maxlen=config.window)
        self._parsed: deque[float] = deque(maxlen=config.window)
        self._rewards: deque[float] = deque(maxlen=config.window)
        self._mismatch: deque[float] = deque(maxlen=_MISMATCH_STEPS)
        self._flat: deque[float] = deque(maxlen=config.zero_spread_steps)
        self._entropy_start: float | None = None
        self._parse_best = -math.inf
        self._last: tuple[float, float] | None = None
        self._levels: list[_Level] = []

    def step(self, row: Mapping[str, object]) -> list[Alert]:
        """The alerts that begin with a training row. `row` needs `step`; every other key may be
        missing."""
        step = _number(row.get("step"))
        if not self._config.enabled or step is None or step <= self._step:
            return []
        self._step = step
        if (reward := _number(row.get("reward_mean"))) is not None:
            self._rewards.append(reward)
        found = [
            self._not_finite(row),
            self._entropy_collapse(_number(row.get("entropy"))),
            self._parse_loss(_number(row.get("parse_rate"))),
            self._mismatched(_number(row.get("mismatch_kl")), _number(row.get("staleness_mean"))),
            self._no_signal(_number(row.get("zero_spread"))),
        ]
        return [alert for alert in found if alert is not None]

    def validation(self, step: float, result: Mapping[str, object]) -> list[Alert]:
        """The alerts that begin with a validation after `step` steps. Pass the training row of that
        step first.

        It reads `srcc` and the number of images, `n_valid` or else `n`. A result without both is
        ignored.
        """
        at, srcc, images = _number(step), _number(result.get("srcc")), _number(result.get("n_valid", result.get("n")))
        if not self._config.enabled or at is None or at <= self._validated:
            return []
        self._validated = at
        if srcc is None or abs(srcc) > 1.0 or images is None or images <= _MIN_IMAGES:
            return []
        before, self._last = self._last, (srcc, images)
        # A level is the mean of two validations, because a single low one is mostly noise. The
        # first one, of the cold start, is a level of its own: in a mean with a second one that
        # broke down it would be lost.
        level = srcc if before is None else (before[0] + srcc) / 2.0
        error = srcc_standard_error(level, images if before is None else min(before[1], images))
        error /= 1.0 if before is None else math.sqrt(2.0)
        self._levels.append(_Level(at, level, error, *_mean_and_error(self._rewards)))
        alert = self._srcc_down()
        return [] if alert is None else [alert]

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
        bad = [key for key in _LEARNER if key in row and _number(row[key]) is None]
        self._finite_steps = 0 if bad else self._finite_steps + 1
        if not self._begins("not_finite", bool(bad), self._finite_steps >= self._config.window):
            return None
        return self._alert(
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
        if not self._begins("entropy_collapse", level < bound, level > _ENTROPY_RECOVERED * bound):
            return None
        before = f"; it was {start:.3g} at the start, and" if start else ", and"
        return self._alert(
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
        if not self._begins("parse_loss", drop > allowed or level < floor, recovered):
            return None
        than = f"against {self._parse_best:.1%} at best" if drop > allowed else f"fewer than {floor:.0%}"
        return self._alert(
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
        if not self._begins("mismatch", *_all_above(self._mismatch, bound)):
            return None
        stale = (
            f" Part of it is age: the groups were {staleness:.3g} steps old on average; a lower rapo.max_staleness "
            "makes them fresher."
            if staleness
            else ""
        )
        return self._alert(
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
        if not self._begins("no_signal", *_all_above(self._flat, bound)):
            return None
        return self._alert(
            "no_signal",
            f"In {value:.1%} of the groups all completions earn the same, and it was {self._config.zero_spread:.0%} or "
            f"more in {len(self._flat)} steps in a row. Such groups have no advantage and teach nothing. See whether "
            "parse_rate is 0 or entropy is gone; raise rapo.completions or rapo.sampling.temperature, or end the run "
            "if the reward is as high as it can be.",
            {"zero_spread": value, "steps": float(len(self._flat))},
        )

    def _srcc_down(self) -> Alert | None:
        """One alert at most: a reward that rose meanwhile says more than a low SRCC alone."""
        now, earlier = self._levels[-1], self._levels[:-2]  # the level before shares a validation with this one
        if not earlier:
            return None
        # The comparison is with the level from which the fall is clearest: of two equal levels,
        # with the one of the smaller error.
        best = max(earlier, key=lambda level: self._drop(level, now))
        apart = [level for level in earlier if level.step <= now.step - self._config.srcc_apart]
        start = max(apart, key=lambda level: self._drop(level, now), default=None)
        recovered = self._drop(best, now) <= _DROP_RECOVERED
        hacked = start is not None and self._drop(start, now) > 1.0 and _rose(start, now)
        if self._begins("reward_up_srcc_down", hacked, recovered):
            assert start is not None
            assert start.reward is not None
            assert now.reward is not None
            return self._alert(
                "reward_up_srcc_down",
                f"From step {start.step:.0f} on, the training reward rose from {start.reward:.4g} to {now.reward:.4g} "
                f"while the validation SRCC fell from {start.srcc:.3f} to {now.srcc:.3f} over the last two; "
                f"noise explains {self._allowed(start, now):.3f}. The policy learns what the reward pays on the "
                "training images rather than how people judge: it learns them by heart, or exploits the reward. "
                'Take the best checkpoint (rapo.select = "best"), run fewer rapo.steps, raise rapo.loss.kl_beta, use more '
                "training images, and read some completions.",
                self._figures(start, now) | {"reward": now.reward, "reward_before": start.reward},
                step=now.step,
            )
        silent = "reward_up_srcc_down" in self._active
        if self._begins("srcc_below_best", self._drop(best, now) > 1.0 and not silent, recovered):
            return self._alert(
                "srcc_below_best",
                f"The validation SRCC is {now.srcc:.3f} over the last two, against {best.srcc:.3f} at step "
                f"{best.step:.0f}; noise explains {self._allowed(best, now):.3f}. The updates no longer help and do "
                "harm. Lower rapo.learning_rate or let it decay (rapo.schedule), raise rapo.images_per_step, or run fewer "
                'rapo.steps; rapo.select = "best" keeps the best model.',
                self._figures(best, now),
                step=now.step,
            )
        return None

    def _allowed(self, a: _Level, b: _Level) -> float:
        """The difference of two levels that noise explains."""
        return self._config.srcc_errors * math.hypot(a.error, b.error)

    def _drop(self, a: _Level, b: _Level) -> float:
        """The fall from `a` to `b` as a multiple of the allowed one."""
        fall, allowed = a.srcc - b.srcc, self._allowed(a, b)
        return fall / allowed if allowed > 0.0 else math.copysign(math.inf, fall) if fall else 0.0

    def _figures(self, a: _Level, b: _Level) -> dict[str, float]:
        return {"srcc": b.srcc, "srcc_before": a.srcc, "step_before": a.step, "allowed": self._allowed(a, b)}

    def _begins(self, kind: Kind, bad: bool, recovered: bool) -> bool:
        """Whether `kind` begins now. It then is active until it has `recovered`."""
        if kind in self._active:
            if recovered:
                self._active.discard(kind)
            return False
        if bad:
            self._active.add(kind)
        return bad

    def _alert(self, kind: Kind, text: str, values: dict[str, float], *, step: float | None = None) -> Alert:
        fatal = self._config.on_collapse == "stop" and kind in COLLAPSE
        return Alert(int(self._step if step is None else step), kind, text, values, fatal)


def srcc_standard_error(srcc: float, images: float) -> float:
    """Standard error of a Spearman correlation over `images` > 3 pairs.

    Bonett and Wright, Psychometrika 65 (2000) 23-28, doi:10.1007/BF02294183: atanh(r) has a
    variance of (1 + r^2 / 2) / (n - 3), which the slope 1 - r^2 of tanh maps back to r. The shorter
    (1 - r^2) / sqrt(n - 1) is a tenth too small at .8. The formula is for independent samples of
    images. Validations here use the same images, so that differences vary less and a bound made of
    it is on the safe side.
    """
    square = srcc * srcc
    return (1.0 - square) * math.sqrt((1.0 + square / 2.0) / (images - _MIN_IMAGES))


@dataclass(frozen=True, slots=True)
class _Level:
    """The mean SRCC of two successive validations with its standard error, and the mean training
    reward up to the second."""

    step: float
    srcc: float
    error: float
    reward: float | None
    reward_error: float


def _number(value: object) -> float | None:
    """`value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int beyond the range of floats
        return None
    return number if math.isfinite(number) else None


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


def _mean_and_error(values: deque[float]) -> tuple[float | None, float]:
    """Mean and standard error of the mean; `(None, 0)` of too few values."""
    count = len(values)
    if count < _MIN_ROWS:
        return None, 0.0
    mean = sum(values) / count
    variance = sum((value - mean) * (value - mean) for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def _rose(a: _Level, b: _Level) -> bool:
    """Whether the training reward rose by more than its own noise."""
    if a.reward is None or b.reward is None:
        return False
    error = math.hypot(a.reward_error, b.reward_error)
    return b.reward - a.reward > _REWARD_ERRORS * error + 1e-9
