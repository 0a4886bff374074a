"""The measured teacher: it turns image measures and the private score into a critique. It has no
weights.

It writes in fixed clauses, one for each dimension and level and one for the whole, because its
reader may be a model of a million parameters, for which every clause must be a token or a few. Like
a large teacher that is shown the score it shades its levels towards that score, and like one it
sometimes slips; the judge must find both out.
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

# How far the mean level may lie from the score's, in levels, before the teacher shades its
# judgement.
_FIT = 0.4
# How many dimensions it shades at most: an image that looks unlike its score is left to the judge
# to turn down.
_SHADED = 2
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def level_of(value: float) -> int:
    """The level, an index into `LEVELS`, of a measure or score in [0, 1]; values beyond are held at
    the ends."""
    return int(np.clip(np.floor(value * len(LEVELS) + 1e-9), 0, len(LEVELS) - 1))


def level_gap(levels: Mapping[str, int], score: float) -> float:
    """Mean stated level minus the score's place on the scale of levels, in levels; both lie in [0,
    4].

    A level stands for the middle of its interval, so the score's place is `5 * score - 0.5`.
    """
    place = float(np.clip(score * len(LEVELS) - 0.5, 0, len(LEVELS) - 1))
    return sum(levels.values()) / len(levels) - place


def phrases() -> list[str]:
    """Every clause a normal critique is made of."""
    return [clause for clauses in _CLAUSES.values() for clause in clauses] + list(_OVERALL)


def write_critique(
    uid: str, measured: Mapping[str, float], score: float, rng: np.random.Generator, slip_rate: float
) -> Critique:
    """Write the critique of one image from its measures and its score, both in [0, 1].

    With probability `slip_rate` it slips: it reveals the score, contradicts it, or misstates a
    dimension by two levels or more. Raises `DataError` for a missing measure or a value out of
    range.
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
    """The levels (indices into `LEVELS`) that a text states in the teacher's clauses; the first one
    counts."""
    stated: dict[str, int] = {}
    for clause in _split(text):
        if clause in _STATED and _STATED[clause][0] not in stated:
            name, level = _STATED[clause]
            stated[name] = level
    return stated


def parse_overall(text: str) -> int | None:
    """The level of the overall judgement, if the text states one in the teacher's words; the last
    one counts."""
    found = [_OVERALL.index(clause) for clause in _split(text) if clause in _OVERALL]
    return found[-1] if found else None


_STATED = {clause: (name, level) for name, clauses in _CLAUSES.items() for level, clause in enumerate(clauses)}


def _split(text: str) -> list[str]:
    return [clause.strip(" .\n\t") for clause in text.lower().split(";")]


def _fit(measured: Mapping[str, float], score: float) -> dict[str, int]:
    """Measured levels, a few shaded by one level towards the score; the least certain dimension
    goes first."""
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
