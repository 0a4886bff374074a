"""Scales: brings the scores and spreads of a source to [0, 1], and checks both against its range.

    minmax: (score - low) / (high - low)        max: score / high

A spread is divided by the width of its own range (by its top under `max`). No spread of ratings
exceeds half the width: that is the case of two camps at the ends. With the mean m on the same range
[a, b] its square is at most (m - a) (b - m) (Bhatia and Davis 2000, Amer. Math. Monthly 107).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rapo.config import SourceConfig
from rapo.datasets.rows import LabelSource, raise_bad_rows
from rapo.errors import ConfigError, DataError
from rapo.util.brief import brief

#: Spreads that are all below this share of their range are probably on another scale.
_NARROW = 0.02

#: By how much a spread may exceed its bound: the sample's instead of the population's, of two
#: raters at worst, and what rounding adds, as a share of the range.
_SAMPLE, _ROUNDING = 2**0.5, 0.01

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """`normalised = (score - offset) / width`; a spread is divided by `std_width`."""

    native: Range
    normalizer: str
    offset: float
    width: float
    std_width: float


def scale_of(config: SourceConfig, source: LabelSource) -> tuple[Scale, list[str]]:
    """The scale of a source, and what to say about it. Raises `ConfigError` for a range that does
    not fit the source, and `DataError` for labels outside of it."""
    low, high = _native_range(config, source)
    std_low, std_high = _ascending("std_range", config.std_range or source.std_range or (low, high))
    if config.normalizer == "max" and low < 0.0:
        raise ConfigError(
            f"data.normalizer 'max' divides by the top of the scale; it does not suit [{low:g}, {high:g}]"
        )
    minmax = config.normalizer == "minmax"
    notes = _check_spreads(source, std_low, std_high, same=(std_low, std_high) == (low, high))
    notes += _check_scores(source)
    scale = Scale(
        native=(low, high),
        normalizer=config.normalizer,
        offset=low if minmax else 0.0,
        width=high - low if minmax else high,
        std_width=std_high - std_low if minmax else std_high,
    )
    return scale, notes


def _native_range(config: SourceConfig, source: LabelSource) -> Range:
    declared = config.score_range
    if declared is not None:
        _ascending("score_range", declared)
    if source.native_range is not None:
        low, high = source.native_range
        if declared not in (None, source.native_range):
            raise ConfigError(f"data.score_range must be left out: the scale of {source.format} is {low:g} to {high:g}")
    elif declared is None:
        scores = source.labels.scores
        if scores.min() < 0.0 or scores.max() > 1.0:
            raise DataError(
                f"{source.path}: scores reach from {scores.min():g} to {scores.max():g}; declare their native scale, for "
                "example data.score_range = [1, 10]. If the file is of a known collection, name it by data.format"
            )
        low, high = 0.0, 1.0
    else:
        low, high = declared
    labels = source.labels
    outside = np.flatnonzero((labels.scores < low) | (labels.scores > high))
    raise_bad_rows(
        source.path,
        (
            f"{labels.place(row)}: score {labels.scores[row]:g} of {brief(labels.name(row))}"
            for row in map(int, outside)
        ),
        f"That is outside data.score_range [{low:g}, {high:g}]: correct the range or the rows.",
    )
    return low, high


def _check_scores(source: LabelSource) -> list[str]:
    scores = source.labels.scores
    if len(scores) > 1 and scores.min() == scores.max():
        return [
            f"{source.path}: all {len(scores):,} scores are {scores[0]:g}, so that there is nothing to learn; if they are in "
            "another column, name it by data.columns.score"
        ]
    return []


def _check_spreads(source: LabelSource, low: float, high: float, *, same: bool) -> list[str]:
    labels = source.labels
    known = labels.known_stds()
    if not known.size or labels.stds is None:
        return []
    most = (high - low) / 2
    too_wide = np.flatnonzero(labels.stds > most * (1 + 1e-9))
    raise_bad_rows(
        source.path,
        (f"{labels.place(row)}: std {labels.stds[row]:g} of {brief(labels.name(row))}" for row in map(int, too_wide)),
        f"No spread on [{low:g}, {high:g}] exceeds {most:g}: if it is on another scale, declare data.std_range, otherwise "
        'leave the column out by data.columns.std = ""; or correct the rows.',
    )
    if same and source.native_range is None:  # a collection's scores need not be the mean of its ratings
        bound = _SAMPLE * np.sqrt((labels.scores - low) * (high - labels.scores)) + _ROUNDING * (high - low)
        impossible = np.flatnonzero(labels.stds > bound)
        raise_bad_rows(
            source.path,
            (
                f"{labels.place(row)}: std {labels.stds[row]:g} beside the score {labels.scores[row]:g}"
                for row in map(int, impossible)
            ),
            f"No ratings on [{low:g}, {high:g}] have such a mean and such a spread: declare data.std_range, leave the column "
            'out by data.columns.std = "", or correct the rows.',
        )
    if known.max() < _NARROW * (high - low):
        return [
            f"{source.path}: no spread on [{low:g}, {high:g}] exceeds {known.max():.3g}, which raters hardly reach; if they "
            "are on another scale, declare data.std_range"
        ]
    return []


def _ascending(key: str, ends: Range) -> Range:
    if ends[0] >= ends[1]:
        raise ConfigError(f"data.{key} {list(ends)} must be [lowest, highest]")
    return ends
