"""ValidationAlerts: early warnings from the validation results of a RAPO run.

- Ranking: the validation SRCC falls below its best, alone or while the training reward rises.
- Explanations: the mean grounding falls below that of the first validation, the cold start's.
- Resolution: the scores gather in a narrow range, or on a few values.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rapo.algorithm.alert_kinds import ActiveKinds, Alert, as_number
from rapo.config import WatchConfig
from rapo.records import DIMENSIONS

#: A level counts as recovered only this far inside its bound, so that a level that stays near the
#: bound is reported once.
_DROP_RECOVERED, _BOUND_RECOVERED = 0.5, 1.25
#: The mean reward has risen if it rose by more than this many standard errors.
_REWARD_ERRORS = 2.0
#: A standard deviation of fewer rows says nothing.
_MIN_ROWS = 3
#: The standard error of a correlation exists for more images than this.
_MIN_IMAGES = 3
#: A figure of explanations or resolution must be bad in this many validations in a row.
_IN_A_ROW = 2


class ValidationAlerts:
    """Turns each validation result into the alerts that begin with it."""

    def __init__(self, config: WatchConfig, active: ActiveKinds) -> None:
        self._config = config
        self._active = active
        self._last: tuple[float, float] | None = None
        self._levels: list[_Level] = []
        self._grounding_start: tuple[float, float] | None = None
        self._ungrounded: deque[bool] = deque(maxlen=_IN_A_ROW)
        self._resolution_start: _Resolution | None = None
        self._narrow: deque[bool] = deque(maxlen=_IN_A_ROW)

    def add(self, step: float, result: Mapping[str, object], rewards: Sequence[float]) -> list[Alert]:
        """The alerts that begin with the validation after `step` steps. `rewards` are the mean
        rewards of the last training steps. Every key of `result` may be missing."""
        found = [
            self._srcc(step, as_number(result.get("srcc")), as_number(result.get("n_valid", result.get("n"))), rewards),
            self._grounding_fell(step, as_number(result.get("grounding")), as_number(result.get("n"))),
            self._resolution_collapse(step, result),
        ]
        return [alert for alert in found if alert is not None]

    def _srcc(self, step: float, srcc: float | None, images: float | None, rewards: Sequence[float]) -> Alert | None:
        if srcc is None or abs(srcc) > 1.0 or images is None or images <= _MIN_IMAGES:
            return None
        before, self._last = self._last, (srcc, images)
        # A level is the mean of two validations, because a single low one is mostly noise. The
        # first one, of the cold start, is a level of its own: in a mean with a second one that
        # broke down it would be lost.
        level = srcc if before is None else (before[0] + srcc) / 2.0
        error = srcc_standard_error(level, images if before is None else min(before[1], images))
        error /= 1.0 if before is None else math.sqrt(2.0)
        self._levels.append(_Level(step, level, error, *_mean_and_error(rewards)))
        return self._srcc_down()

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
        if self._active.begins("reward_up_srcc_down", hacked, recovered):
            assert start is not None
            assert start.reward is not None
            assert now.reward is not None
            return self._active.alert(
                now.step,
                "reward_up_srcc_down",
                f"From step {start.step:.0f} on, the training reward rose from {start.reward:.4g} to {now.reward:.4g} "
                f"while the validation SRCC fell from {start.srcc:.3f} to {now.srcc:.3f} over the last two; "
                f"noise explains {self._allowed(start, now):.3f}. The policy learns what the reward pays on the "
                "training images rather than how people judge: it learns them by heart, or exploits the reward. "
                'Take the best checkpoint (rapo.select = "best"), run fewer rapo.steps, raise rapo.loss.kl_beta, use more '
                "training images, and read some completions.",
                self._figures(start, now) | {"reward": now.reward, "reward_before": start.reward},
            )
        silent = "reward_up_srcc_down" in self._active
        if self._active.begins("srcc_below_best", self._drop(best, now) > 1.0 and not silent, recovered):
            return self._active.alert(
                now.step,
                "srcc_below_best",
                f"The validation SRCC is {now.srcc:.3f} over the last two, against {best.srcc:.3f} at step "
                f"{best.step:.0f}; noise explains {self._allowed(best, now):.3f}. The updates no longer help and do "
                "harm. Lower rapo.learning_rate or let it decay (rapo.schedule), raise rapo.images_per_step, or run fewer "
                'rapo.steps; rapo.select = "best" keeps the best model.',
                self._figures(best, now),
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

    def _grounding_fell(self, step: float, grounding: float | None, images: float | None) -> Alert | None:
        if grounding is None or abs(grounding) > 1.0 or images is None or images <= _MIN_IMAGES:
            return None
        if self._grounding_start is None:
            self._grounding_start = (grounding, images)
            return None
        start, start_images = self._grounding_start
        error = math.hypot(_grounding_error(start, start_images), _grounding_error(grounding, images))
        allowed = max(self._config.grounding_fall, self._config.srcc_errors * error)
        fall = start - grounding
        self._ungrounded.append(fall > allowed)
        if not self._active.begins("grounding_fell", _stays(self._ungrounded), fall <= _DROP_RECOVERED * allowed):
            return None
        return self._active.alert(
            step,
            "grounding_fell",
            f"The mean grounding of the explanations is {grounding:.3f}, against {start:.3f} before RAPO, and was low in "
            f"the validation before; {allowed:.3f} is allowed for. What the rationales say agrees less with the images: "
            "the reward pays for the score, and the rationale drifts. Raise rapo.loss.kl_beta, lower "
            "rapo.learning_rate, or run fewer rapo.steps, and read some rationales.",
            {"grounding": grounding, "start": start, "allowed": allowed},
        )

    def _resolution_collapse(self, step: float, result: Mapping[str, object]) -> Alert | None:
        spread, scores = as_number(result.get("spread")), as_number(result.get("distinct_scores"))
        if spread is None or scores is None or spread < 0.0 or scores < 0.0:
            return None
        if self._resolution_start is None:
            self._resolution_start = _Resolution(spread, scores)
            return None
        start = self._resolution_start
        # Predictions that correlate weakly have a small spread if they are calibrated. So the bound
        # is that share of the start's spread where that was small already.
        least = _Resolution(
            self._config.spread_floor * min(1.0, start.spread), self._config.scores_fraction * start.scores
        )
        self._narrow.append(spread < least.spread or scores < least.scores)
        recovered = spread >= _BOUND_RECOVERED * least.spread and scores >= _BOUND_RECOVERED * least.scores
        if not self._active.begins("resolution_collapse", _stays(self._narrow), recovered):
            return None
        return self._active.alert(
            step,
            "resolution_collapse",
            f"The scores lose resolution: their spread is {spread:.2f} of the human scores' (at least {least.spread:.2f} "
            f"is wanted; it was {start.spread:.2f} before RAPO), and they have {scores:.0f} different values (at least "
            f"{least.scores:.0f}; there were {start.scores:.0f}). Images that differ get one score. Raise "
            "rapo.loss.kl_beta or rapo.sampling.temperature, lower rapo.learning_rate, or run fewer rapo.steps.",
            {
                "spread": spread,
                "spread_start": start.spread,
                "scores": scores,
                "scores_start": start.scores,
            },
        )


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


def _grounding_error(mean: float, images: float) -> float:
    """Standard error of a mean of SRCCs, one for each dimension, over the same `images` > 3.

    It takes them as independent and each as high as their mean. On 256 embedded scenes (mean .56,
    single ones from .07 to .92) it is .021, where the bootstrap over images says .020.
    """
    return srcc_standard_error(mean, images) / math.sqrt(len(DIMENSIONS))


@dataclass(frozen=True, slots=True)
class _Resolution:
    """The spread ratio of scores, and the number of different ones."""

    spread: float
    scores: float


@dataclass(frozen=True, slots=True)
class _Level:
    """The mean SRCC of two successive validations with its standard error, and the mean training
    reward up to the second."""

    step: float
    srcc: float
    error: float
    reward: float | None
    reward_error: float


def _stays(values: deque[bool]) -> bool:
    """Whether the last validations were all bad."""
    return len(values) == values.maxlen and all(values)


def _mean_and_error(values: Sequence[float]) -> tuple[float | None, float]:
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
