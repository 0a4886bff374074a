"""Judge: rejects a critique that is no sound text, leaks the score, contradicts it, or misstates
the image.

- The paper names these three errors (Aes-R1, arXiv 2509.21871, section 3.2 and appendix E.2)
  without thresholds. The thresholds here are rapo's own.
- Critiques in the rule-based teacher's clauses are checked level by level.
- Free text of another teacher is checked for leaks, and for a tone that contradicts the score. Its
  statements about the image are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping

from rapo.aescot.leaks.find import find_leak
from rapo.aescot.opinions import tone
from rapo.aescot.structure.faults import STRUCTURE_REASONS, structure_fault
from rapo.aescot.writer import LEVELS, level_gap, level_of, parse_levels, parse_overall
from rapo.errors import DataError
from rapo.records import Critique, Verdict

#: Why a critique is rejected, in the order of the checks.
REJECT_REASONS: tuple[str, ...] = (*STRUCTURE_REASONS, "leak", "misaligned", "factual")

_OVERALL_GAP = 1  # levels between the overall judgement and the score's level
_MEAN_GAP = 0.5  # levels between the mean stated level and the score's place
_MIN_STATED = 3  # with fewer stated levels the text is judged as free text
_MIN_OPINIONS = 3  # words of opinion that a tone must rest on
_TONE = 0.5  # a tone beyond this is clearly positive or negative


def judge_critique(critique: Critique, measured: Mapping[str, float], score: float, tolerance: int) -> Verdict:
    """Judge one critique against the measures of its image and its score, both in [0, 1].

    The verdict's `reason` is the first that holds:
    - one of `STRUCTURE_REASONS`: the text is no critique in plain prose
      (`rapo.aescot.structure`);
    - `leak`: the text reveals a score, or mentions its instructions (`rapo.aescot.leaks`);
    - `misaligned`: the overall judgement is more than one level off the score's level, or the mean
      stated level more than half a level off the score's place; for free text, a clear tone
      contradicts a low or high score;
    - `factual`: a stated level differs from the measured one by more than `tolerance` levels.

    Raises `DataError` if the score is not in [0, 1].
    """
    if not 0.0 <= score <= 1.0:
        raise DataError(f"cannot judge the critique of {critique.uid}: its score {score} is not in [0, 1]")
    if fault := text_fault(critique.text):
        return Verdict(critique.uid, False, *fault)
    checks = (
        ("misaligned", _misaligned(critique.text, score)),
        ("factual", _unfactual(critique.text, measured, tolerance)),
    )
    for reason, detail in checks:
        if detail:
            return Verdict(critique.uid, False, reason, detail)
    return Verdict(critique.uid, True)


def text_fault(text: str) -> tuple[str, str] | None:
    """The first fault of a text that needs neither image nor score to be seen: the reason (one of
    `STRUCTURE_REASONS`, or `leak`) and its detail."""
    if fault := structure_fault(text):
        return fault
    leak = find_leak(text)
    return ("leak", leak) if leak else None


def _misaligned(text: str, score: float) -> str:
    """How a text contradicts the score; empty if it does not."""
    stated, overall, expected = parse_levels(text), parse_overall(text), level_of(score)
    if overall is not None and abs(overall - expected) > _OVERALL_GAP:
        return f"overall {LEVELS[overall]!r}, where the score says {LEVELS[expected]!r}"
    if len(stated) >= _MIN_STATED:
        gap = level_gap(stated, score)
        return f"mean level {gap:+.1f} levels off the score" if abs(gap) > _MEAN_GAP else ""
    if overall is not None:
        return ""
    mood, opinions = tone(text)
    if opinions >= _MIN_OPINIONS and ((expected <= 1 and mood > _TONE) or (expected >= 3 and mood < -_TONE)):
        return f"tone {mood:+.1f} over {opinions} words, where the score says {LEVELS[expected]!r}"
    return ""


def _unfactual(text: str, measured: Mapping[str, float], tolerance: int) -> str:
    """How a text contradicts the measures; empty if it does not."""
    for name, level in parse_levels(text).items():
        if name in measured:
            found = level_of(measured[name])
            if abs(level - found) > tolerance:
                return f"{name}: stated {LEVELS[level]!r}, measured {LEVELS[found]!r}"
    return ""
