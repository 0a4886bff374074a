"""Rule-based teacher: writes a critique from image measures and the private score, without weights.

- It writes in fixed clauses, one for each dimension and one for the whole image, because a model of
  a million parameters can learn only clauses of a few tokens.
- Like a large teacher that sees the score, it shades its levels towards the score and sometimes
  makes a mistake; the judge must find both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rapo.errors import DataError
from rapo.records import DIMENSIONS, Critique

#: The judgements of a critique, from worst to best; level i covers the values from i/5 to (i+1)/5.
LEVELS: tuple[str, ...] = ("poor", "weak", "fair", "good", "superb")

_CLAUSES: dict[str, tuple[str, ...]] = {
    "light and shadow": (
        "poor light, flat",
        "weak light, faint shadow",
        "fair light, some shadow",
        "good light, clear shadow",
        "superb light, deep shadow",
    ),
    "mood and narrative": (
        "poor mood, all blur",
        "weak mood, soft",
        "fair mood, hint of story",
        "good mood, clear story",
        "superb mood, vivid story",
    ),
    "composition": (
        "poor composition, steep tilt",
        "weak composition, clear tilt",
        "fair composition, some tilt",
        "good composition, nearly level",
        "superb composition, level",
    ),
    "color": (
        "poor color, nearly grey",
        "weak color, pale",
        "fair color, muted",
        "good color, rich",
        "superb color, vivid",
    ),
    "exposure": (
        "poor exposure, far off",
        "weak exposure, clearly off",
        "fair exposure, a bit off",
        "good exposure, nearly balanced",
        "superb exposure, balanced",
    ),
}
_OVERALL: tuple[str, ...] = tuple(f"overall a {level} picture" for level in LEVELS)

# The teacher shades its levels if their mean is farther than this from the score's place, in
# levels.
_FIT = 0.4
# It shades at most so many dimensions: the judge must reject an image that looks unlike its score.
_SHADED = 2
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def level_of(value: float) -> int:
    """The level (an index into `LEVELS`) of a measure or score in [0, 1]. Values beyond are held at
    the ends."""
    return int(np.clip(np.floor(value * len(LEVELS) + 1e-9), 0, len(LEVELS) - 1))


def level_gap(levels: Mapping[str, int], score: float) -> float:
    """The mean stated level minus the score's place on the scale of levels; both lie in [0, 4].

    A level stands for the middle of its interval, so the score's place is `5 * score - 0.5`.
    """
    place = float(np.clip(score * len(LEVELS) - 0.5, 0, len(LEVELS) - 1))
    return sum(levels.values()) / len(levels) - place


def phrases() -> list[str]:
    """Every clause of a critique without mistakes."""
    return [clause for clauses in _CLAUSES.values() for clause in clauses] + list(_OVERALL)


def write_critique(
    uid: str, measured: Mapping[str, float], score: float, rng: np.random.Generator, slip_rate: float
) -> Critique:
    """Write the critique of one image from its measures and its score, both in [0, 1].

    With probability `slip_rate` it makes a mistake: it reveals the score, contradicts it, or
    misstates a dimension by two levels or more. Raises `DataError` for a missing measure or a value
    out of range.
    """
    for name, value in {
        **{d: measured.get(d, np.nan) for d in DIMENSIONS},
        "score": score,
        "slip rate": slip_rate,
    }.items():
        if not 0.0 <= value <= 1.0:
            raise DataError(f"critique of {uid}: {name} is {value}, but must lie in [0, 1]")
    levels = _fit(measured, score)
    overall, closing = level_of(score), ""
    if rng.random() < slip_rate:
        slip = rng.integers(3)
        if slip == 0:
            closing = _reveal(score, rng)
        elif slip == 1:
            overall = _far_from(overall, rng)
        else:
            name = DIMENSIONS[rng.integers(len(DIMENSIONS))]
            levels[name] = _far_from(level_of(measured[name]), rng)
    clauses = [_CLAUSES[name][levels[name]] for name in DIMENSIONS] + [_OVERALL[overall] + closing]
    return Critique(uid, "; ".join(clauses) + ".")


def parse_levels(text: str) -> dict[str, int]:
    """The levels (indices into `LEVELS`) that a text states in the teacher's clauses, by dimension.
    The first clause of a dimension counts."""
    stated: dict[str, int] = {}
    for clause in _split(text):
        if clause in _STATED and _STATED[clause][0] not in stated:
            name, level = _STATED[clause]
            stated[name] = level
    return stated


def parse_overall(text: str) -> int | None:
    """The level of the overall judgement, if a text states one in the teacher's words. The last
    one counts."""
    found = [_OVERALL.index(clause) for clause in _split(text) if clause in _OVERALL]
    return found[-1] if found else None


_STATED = {clause: (name, level) for name, clauses in _CLAUSES.items() for level, clause in enumerate(clauses)}


def _split(text: str) -> list[str]:
    return [clause.strip(" .\n\t") for clause in text.lower().split(";")]


def _fit(measured: Mapping[str, float], score: float) -> dict[str, int]:
    """The measured levels, with a few shaded by one level towards the score. The dimension nearest
    to a boundary is shaded first."""
    levels = {name: level_of(measured[name]) for name in DIMENSIONS}
    step = -int(np.sign(level_gap(levels, score)))

    def to_boundary(name: str) -> float:
        within = measured[name] * len(LEVELS) - levels[name]
        return 1 - within if step > 0 else within

    free = [name for name in DIMENSIONS if 0 <= levels[name] + step < len(LEVELS)]
    for name in sorted(free, key=to_boundary)[:_SHADED]:
        if abs(level_gap(levels, score)) <= _FIT:
            break
        levels[name] += step
    return levels


def _far_from(level: int, rng: np.random.Generator) -> int:
    return int(rng.choice([other for other in range(len(LEVELS)) if abs(other - level) >= 2]))


def _reveal(score: float, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return f", I would rate it {score:.2f}"
    return f", {_NUMBER_WORDS[round(score * 10)]} out of ten"
