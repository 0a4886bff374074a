"""Faults: the first check of its form that a critique fails.

- Plain prose in English, of a sensible length, to its end, without markup, refusal or repetition.
- It speaks of several aspects of beauty, and it closes with a judgement of the whole image.
- The checks read the text only. The thresholds are rapo's own.
- Where no rule decides, models of wording do (`rapo.aescot.wording`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import combinations

from rapo.aescot.opinions import opinions
from rapo.aescot.structure.closing import closing_fault
from rapo.aescot.structure.coverage import coverage_fault
from rapo.aescot.structure.rules import LABEL, MARKUP, REFUSAL
from rapo.aescot.wording import REFUSES, phrases, sentences_of, word_tokens

#: Why a text fails the gate, in the order of the checks.
STRUCTURE_REASONS: tuple[str, ...] = (
    "refusal", "markup", "language", "length", "repetition", "unfinished", "coverage", "closing",
)  # fmt: skip

MIN_WORDS, MAX_WORDS = 15, 500
# A longer text is looked at no further: a few of the searches take the square of its length.
_MAX_CHARACTERS = 20 * MAX_WORDS
_REPEATED = 0.35  # the share of four-word sequences that are copies, above which a text runs in circles
# Sound critiques have two thirds and more of different words in so many longer ones.
_WINDOW, _DISTINCT, _SHORT_WORD, _BEGINNING = 40, 0.55, 3, 5
# The same phrase of three words or more, again and again without anything between.
_AT_ONCE = re.compile(r"\b((?:[\w'-]++,? ){2,9}[\w'-]++)(?:[,;.]? (?:and )?\1\b)+", re.IGNORECASE)
# "Location, location, location" is a figure of speech.
_THRICE = re.compile(r"\b(\w+)(?: \1\b){2}|\b(\w+)(?:, \2\b){3}", re.IGNORECASE)
_TWICE = re.compile(r"\b(\w+) \1\b", re.IGNORECASE)
_OFTEN = 3  # so often three words may come again
_NEAR_FROM, _NEAR = 7, 0.8  # sentences of so many words are the same if the shorter shares more than this
# The share of stretches of so many words in another language that a quotation may take.
_STRETCH, _FOREIGN_STRETCHES = 8, 0.3
_MIN_ENGLISH = 0.05  # the share of words that only English has
_FOREIGN = 0.1  # the share of letters of other scripts that a name or a loan word may take

_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_ENDS = re.compile(r"[.!?★☆⭐🌟👍👎][\"'”’)\]]*$")
# Three dots, or a last word that needs another one.
_BREAKS_OFF = re.compile(
    r"(?:\.\.|…|\b(?:the|an?|and|or|but|nor|because|although|while|whose|very|my|their|our))[.!?]*$", re.IGNORECASE
)
# A first word that needs another one before it.
_IN_THE_MIDDLE = re.compile(r"(?:[,;.)]|(?:and|but|or|nor|which|of|to|than) )")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Common words that English does not share, and common English ones.
_OTHER_LANGUAGES = _words(
    "el los las una unos del que y es muy con por para pero su sus está como más también le les des du et est une un dans avec "
    "sur pour mais très plus ce cette qui au aux der die das und ist mit den dem ein eine einer nicht sehr auch auf für von zu "
    "wird durch il gli lo della delle dei di che è molto sono nel nella anche ma più o os um uma não muito são na da de het een "
    "en van dat niet zeer met zijn ook och är att det som på av för mycket inte og til jest nie się na przez bardzo oraz"
)
_ENGLISH = _words(
    "the a an of and is in it its with to that this for but as by on are which at from into not be has while more too very no "
    "some all off than through have was their there where good"
)


_ONLY_ENGLISH = _words("the of and is with it that this by are which from its be their to but you has i'm it's")


def structure_fault(text: str) -> tuple[str, str] | None:
    """`(reason, detail)` of the first check that a text fails, None if it passes all."""
    if len(text) > _MAX_CHARACTERS:
        return "length", f"{len(text)} characters, not at most {_MAX_CHARACTERS}"
    text = text.replace("’", "'")
    for reason in STRUCTURE_REASONS:
        if detail := _CHECKS[reason](text):
            return reason, detail
    return None


def _refusal(text: str) -> str:
    if found := REFUSAL.search(text):
        return f"a refusal: {found[0].strip()!r}"
    sentences = sentences_of(text)
    scores = [REFUSES.score(phrases(word_tokens(each))) for each in sentences]
    if not scores or sum(scores) <= 0:
        return ""
    return f"worded like a refusal: {sentences[scores.index(max(scores))][:60]!r}"


def _markup(text: str) -> str:
    found = MARKUP.search(text)
    if not found and len(labels := LABEL.findall(text)) > 1:
        return f"a form: {labels[0].strip()!r}"
    return f"markup: {found[0].strip()[:40]!r}" if found else ""


def _language(text: str) -> str:
    letters = _LETTER.findall(text)
    foreign = sum(1 for letter in letters if "LATIN" not in unicodedata.name(letter, ""))
    if letters and foreign > _FOREIGN * len(letters):
        return f"{foreign} of {len(letters)} letters are of another script"
    words = [word.lower() for word in _WORD.findall(text)]
    english = sum(word in _ONLY_ENGLISH for word in words)
    # Terse English has few small words, but it judges.
    if len(words) >= MIN_WORDS and max(english, opinions(text) / 2) < _MIN_ENGLISH * len(words):
        return "another language than English"
    stretches = [words[start : start + _STRETCH] for start in range(0, len(words), _STRETCH)]
    if sum(map(_is_foreign, stretches)) > _FOREIGN_STRETCHES * len(stretches):
        return "another language than English"
    return ""


def _is_foreign(words: list[str]) -> bool:
    """Whether a stretch of words is of another language: its small words are, or it has neither
    small words of English nor words that judge."""
    other, english = sum(word in _OTHER_LANGUAGES for word in words), sum(word in _ENGLISH for word in words)
    return (other >= 2 and other > english) or (
        len(words) >= _STRETCH and not english and not opinions(" ".join(words))
    )


def _length(text: str) -> str:
    count = len(_WORD.findall(text))
    return "" if MIN_WORDS <= count <= MAX_WORDS else f"{count} words, not {MIN_WORDS} to {MAX_WORDS}"


def _repetition(text: str) -> str:
    if found := _AT_ONCE.search(text):
        return f"said again at once: {found[1][:40]!r}"
    sentences = Counter(
        " ".join(words) for sentence in sentences_of(text.lower()) if len(words := _WORD.findall(sentence)) > 3
    )
    twice = next((sentence for sentence, count in sentences.items() if count > 1), None)
    if twice:
        return f"a sentence said again: {twice[:40]!r}"
    long = [each for sentence in sentences if len(each := set(sentence.split())) >= _NEAR_FROM]
    if any(len(a & b) > _NEAR * min(len(a), len(b)) for a, b in combinations(long, 2)):
        return "a sentence said again with hardly a word changed"
    words = [word.lower() for word in _WORD.findall(text)]
    if found := _THRICE.search(text):
        return f"a word said again and again: {found[0][:40]!r}"
    if len(_TWICE.findall(text)) > 1:
        return "words said twice in a row"
    threes = Counter(zip(words, words[1:], words[2:], strict=False))
    if threes and max(threes.values()) > _OFTEN:
        return f"{' '.join(threes.most_common(1)[0][0])!r} said {max(threes.values())} times"
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    copies = 1 - len(set(fours)) / len(fours) if fours else 0.0
    if copies > _REPEATED:
        return f"{copies:.0%} of it is said again"
    return "the same few words again and again" if _least_distinct(words) < _DISTINCT else ""


def _least_distinct(words: list[str]) -> float:
    """The share of different beginnings among the longer words, in the stretch where it is the
    smallest; 1 where they are few."""
    longer = [word[:_BEGINNING] for word in words if len(word) > _SHORT_WORD]
    if len(longer) < MIN_WORDS:
        return 1.0
    last = max(0, len(longer) - _WINDOW)
    stretches = (longer[start : start + _WINDOW] for start in (*range(0, last, _WINDOW // 4), last))
    return min(len(set(each)) / len(each) for each in stretches)


def _unfinished(text: str) -> str:
    text = text.strip()
    if not _ENDS.search(text) or _BREAKS_OFF.search(text) or text.count("(") > text.count(")"):
        return f"it breaks off: {text[-30:]!r}"
    if _IN_THE_MIDDLE.match(text):
        return f"it begins in the middle: {text[:30]!r}"
    return ""


_CHECKS: dict[str, Callable[[str], str]] = {
    "refusal": _refusal,
    "markup": _markup,
    "language": _language,
    "length": _length,
    "repetition": _repetition,
    "unfinished": _unfinished,
    "coverage": coverage_fault,
    "closing": closing_fault,
}
