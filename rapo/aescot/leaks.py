"""Leaks: pieces of a critique that reveal a score, or that a score was given.

- A number is a leak by its use, not by its presence. `f/2.8`, `35 mm`, `1/250 s`, `ISO 400`, "three
  boats" and "the rule of thirds" are the language of photography; "a solid 8" is a score.
- A scale is a leak wherever it stands: `8/10`, "seven out of ten", four stars, "a B+".
- A word of rating is a leak where it names a score that exists ("this justifies the rating"), not
  where it is another word ("first-rate", "frame rate").
- A mention of the instructions or of the human raters is a leak.

The rules are rapo's own; the paper names the error without them (Aes-R1, arXiv 2509.21871,
appendix E.2). `bench/judge` measures them.
"""

from __future__ import annotations

import re

from rapo.aescot.leak_patterns import INSTRUCTIONS, NAMED, OTHER_SENSE, SCALES, WORDS
from rapo.aescot.plain_text import plain_text


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that give a score to what they speak of.
_GIVES = _words(
    "rate rates rated rating score scores scored scoring rank ranks ranked grade graded mark marks give gives giving gave "
    "given get gets got put puts deserve deserves deserving earn earns earned merit merits award awarded awards assign "
    "assigned land lands landed sit sits hover hovers settle settles worth worthy solid strong weak perfect easy clear "
    "firm generous borderline call receive receives reach reaches reached achieve achieves aesthetic overall evaluation "
    "assessment judgement judgment verdict evaluate evaluates total estimate"
)
# What follows a number that is a score: nothing, or a word that does not name what is counted.
_AFTER_SCORE = _words(
    "from because for here is was as but and overall on in given due at best if with since though although so or to when "
    "by it i this that which rather than would maybe perhaps again though"
)
_NEARLY = _words("over under above below around about nearly almost")
_PHOTOGRAPHIC_BEFORE = re.compile(
    r"(?:\bf ?/? ?|\bf-stop (?:of )?|\baperture (?:of |at )?|\biso ?|\bat t|[$£€#]|\bno\. ?|\bmk ?|[a-z]{1,6}-?|\b1/|\d[x:]"
    r"|\bcirca |\bin (?:the )?|\bsince |\b(?:canon|nikon|sony|fuji|leica|version|chapter|figure|zone|page|day|room|route"
    r"|highway|number plate) )$"
)
_PHOTOGRAPHIC_AFTER = re.compile(
    r"^(?: ?-? ?(?:mm|cm|m|km|s|sec|secs|seconds?|ms|minutes?|min|hours?|stops?|ev|k|kelvin|px|pixels?|mp|megapixels?|mb"
    r"|degrees?|deg|fps|x|years?|year-old|am|pm|o'clock|th|st|nd|rd|inch(?:es)?|feet|foot|ft|metres?|meters?|d|ii|bit|iso)\b"
    r"|[°%\"':x/]|-[a-z\d]|st\b|nd\b|rd\b|th\b|s\b)"
)
# "one" and "zero" are left out: as words they hardly ever stand for a score of their own.
_NUMBER = re.compile(rf"(?<![\w.,])(?:\d+(?:[.,]\d+)?|{'|'.join(WORDS[2:])})(?![\w]|[.,]\d)")
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,]\d+)?|[^\w\s]")
_SENTENCE_END = re.compile(r"[.!?;](?: |$)")
_REACH = 6  # how many words before a number may make it a score
_LOOK_BACK = 200  # how many characters they take at most
_HIGHEST, _HIGHEST_ALONE = 100, 10  # scales end there


def find_leak(text: str) -> str:
    """The piece of a text that reveals a score, or that a score was given; empty if there is
    none."""
    plain = OTHER_SENSE.sub(" ~ ", plain_text(text))
    for name, pattern in (*SCALES, ("its instructions", INSTRUCTIONS), ("words of rating", NAMED)):
        if found := pattern.search(plain):
            return _shown(name, plain, found.start(), found.end())
    for number in _NUMBER.finditer(plain):
        if _is_score(plain, number):
            return _shown("a number that rates", plain, max(0, number.start() - 20), number.end())
    return ""


def _shown(name: str, plain: str, start: int, end: int) -> str:
    return f"{name}: {plain[start : min(end, start + 60)].strip()!r}"


def _is_score(plain: str, number: re.Match[str]) -> bool:
    """Whether a number that stands by itself is a score."""
    before, after = plain[max(0, number.start() - _LOOK_BACK) : number.start()], plain[number.end() :]
    value = float(number[0].replace(",", ".")) if number[0][0].isdigit() else None
    if value is not None and (
        _PHOTOGRAPHIC_BEFORE.search(before) or _PHOTOGRAPHIC_AFTER.match(after) or value > _HIGHEST
    ):
        return False
    following = _TOKEN.match(after.lstrip(" -"))
    # "three boats", "8 photos": the number counts the word behind it.
    if following and following[0][0].isalpha() and following[0] not in _AFTER_SCORE:
        return False
    if before.endswith(("/", ":", "x")):
        return False
    tokens = _TOKEN.findall(_SENTENCE_END.split(before)[-1])[-_REACH:]
    after_article = bool(tokens) and tokens[-1] in ("a", "an")
    if value is not None:
        return not _GIVES.isdisjoint(tokens) or (after_article and value <= _HIGHEST_ALONE)
    # A number word is also an ordinary word: "the two", "gives the three equal weight".
    return after_article or (bool(tokens) and tokens[-1] in _GIVES | _NEARLY)
