"""Judge: rejects a critique that leaks the score, contradicts it, or misstates the image.

- The paper names these three errors (Aes-R1, arXiv 2509.21871, section 3.2 and appendix E.2)
  without thresholds. The thresholds here are rapo's own.
- Critiques in the rule-based teacher's clauses are checked level by level.
- Free text of another teacher is checked for leaks, and for a tone that contradicts the score. Its
  statements about the image are not checked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from rapo.aescot.writer import LEVELS, level_gap, level_of, parse_levels, parse_overall
from rapo.errors import DataError
from rapo.records import Critique, Verdict

#: Why a critique is rejected, in the order of the checks.
REJECT_REASONS: tuple[str, ...] = ("leak", "misaligned", "factual")

_OVERALL_GAP = 1  # levels between the overall judgement and the score's level
_MEAN_GAP = 0.5  # levels between the mean stated level and the score's place
_MIN_STATED = 3  # with fewer stated levels the text is judged as free text
_MIN_OPINIONS = 3  # words of opinion that a tone must rest on
_TONE = 0.5  # a tone beyond this is clearly positive or negative

_NUMBER = r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|hundred|half)"
_LEAKS = re.compile(
    "|".join(
        (
            r"%|\bper\s?cent\b|\bpercentage\b|\bpercentile\b",
            r"(?<!-)\b(?:score|scores|scored|scoring|rating|ratings|rate|rates|rated)\b",
            rf"\bout of (?:a )?{_NUMBER}\b|\b{_NUMBER} (?:of|over) (?:ten|five|a hundred)\b",
            rf"\b{_NUMBER}[ -](?:points?|stars?)\b|\bpoint {_NUMBER}\b",
            r"\b(?:i|we) (?:was|were|am|are|have been|had been) (?:told|given|informed|instructed)\b",
            r"\b(?:you|they) (?:told|gave|provided)\b",
            r"\bas (?:told|given|provided|instructed|requested)\b",
            r"\b(?:provided|given|private|hidden|true|known|actual) (?:value|number|mark|label|grade)\b",
            r"\bground truth\b",
            r"\b(?:the|this|my|your) (?:prompt|instructions?)\b",
        )
    ),
    re.IGNORECASE,
)

_WORD = re.compile(r"[a-z]+(?:'t)?")
_SENTENCE = re.compile(r"[.!?;]+\s*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _words("not no never without lacks lack lacking hardly barely isn't doesn't fails")
_POSITIVE = _words(
    "beautiful beautifully excellent superb good great stunning striking harmonious balanced vivid vibrant rich "
    "elegant pleasing masterful masterfully captivating compelling engaging evocative exceptional outstanding "
    "impressive strong effective effectively well lovely perfect perfectly sharp crisp dramatic serene refined "
    "skillful skillfully"
)
_NEGATIVE = _words(
    "poor poorly bad weak dull flat bland boring cluttered chaotic blurry blurred unbalanced distracting distracts "
    "unappealing unpleasant ugly harsh washed overexposed underexposed muddy murky tilted awkward amateur amateurish "
    "lifeless uninspired uninteresting mediocre unremarkable messy grainy noisy lacks lacking fails failing"
)


def judge_critique(critique: Critique, measured: Mapping[str, float], score: float, tolerance: int) -> Verdict:
    """Judge one critique against the measures of its image and its score, both in [0, 1].

    The verdict's `reason` is the first that holds:
    - `leak`: the text has a digit, a percentage, a number word or a word of rating, or mentions its
      instructions;
    - `misaligned`: the overall judgement is more than one level off the score's level, or the mean
      stated level more than half a level off the score's place; for free text, a clear tone
      contradicts a low or high score;
    - `factual`: a stated level differs from the measured one by more than `tolerance` levels.

    Raises `DataError` if the score is not in [0, 1].
    """
    if not 0.0 <= score <= 1.0:
        raise DataError(f"cannot judge the critique of {critique.uid}: its score {score} is not in [0, 1]")
    checks = (
        ("leak", find_leak(critique.text)),
        ("misaligned", _misaligned(critique.text, score)),
        ("factual", _unfactual(critique.text, measured, tolerance)),
    )
    for reason, detail in checks:
        if detail:
            return Verdict(critique.uid, False, reason, detail)
    return Verdict(critique.uid, True)


def find_leak(text: str) -> str:
    """The piece of a text that reveals a score, or that a score was given; empty if there is
    none."""
    # Digits of every script and signs such as a vulgar half count. Letters that mean a number do
    # not.
    numeral = next((sign for sign in text if unicodedata.category(sign) in ("Nd", "No", "Nl")), "")
    if numeral:
        start = text.index(numeral)
        return f"a number: {text[max(0, start - 20) : start + 10]!r}"
    match = _LEAKS.search(text)
    return f"words of rating: {match[0]!r}" if match else ""


def tone(text: str) -> tuple[float, int]:
    """The tone of a text in [-1, 1] by a small list of words, and the number of words that it rests
    on. The last sentence counts twice."""
    sentences = [sentence for sentence in _SENTENCE.split(text.lower()) if sentence.strip()]
    total = hits = 0
    for sentence in [*sentences, *sentences[-1:]]:
        words = _WORD.findall(sentence)
        for place, word in enumerate(words):
            sign = (word in _POSITIVE) - (word in _NEGATIVE)
            if sign:
                # "lacks" is an opinion of its own, so it negates only the words behind it.
                negated = any(before in _NEGATIONS for before in words[max(0, place - 2) : place])
                total += -sign if negated else sign
                hits += 1
    return (total / hits if hits else 0.0), hits


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
