"""Structure: what a critique must have before its content is judged.

- Plain prose in English, of a sensible length, to its end, without markup, refusal or repetition.
- It names several dimensions of beauty, and it closes with a judgement of the whole image.
- The checks read the text only. The thresholds are rapo's own.
- An end that no rule knows judges the whole where it is worded like those of `bench/judge`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import combinations

from rapo.aescot.opinions import opinions
from rapo.aescot.structure_rules import DIMENSIONS, IMAGE_WORDS, LABEL, MARKUP, REFUSAL
from rapo.aescot.wording import CLOSING, word_tokens

#: Why a text fails the gate, in the order of the checks.
STRUCTURE_REASONS: tuple[str, ...] = (
    "refusal", "markup", "language", "length", "repetition", "unfinished", "coverage", "closing",
)  # fmt: skip

MIN_WORDS, MAX_WORDS = 15, 500
# A longer text is looked at no further: a few of the searches take the square of its length.
_MAX_CHARACTERS = 20 * MAX_WORDS
MIN_DIMENSIONS = 3
# A text of so many words of dimensions is one-sided if one dimension has more than this share.
_MANY, _ONE_SIDED = 10, 0.62
_REPEATED = 0.35  # the share of four-word sequences that are copies, above which a text runs in circles
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

_OVERALL = (
    r"\b(?:overall|altogether|all in all|in all|as a whole|on the whole|in sum\w*|to sum up|in conclusion|to conclude"
    r"|ultimately|in the end"
    r"|taken together|on balance|all told|in short|in total|all things considered|in general|generally|at heart"
    r"|in essence|in (?:its )?(?:totality|entirety)|in the round|put together|as (?:\w+ ){1,2}(?:pictures"
    r"|photographs|images) go|taken (?:all |as )?(?:together|whole)|as a total \w+"
    r"|seen whole|from corner to corner|adds? up to|the whole(?: thing)? \w+s|as an? (?:\w+ ){0,3}(?:image"
    r"|picture|photo|photograph|painting|drawing|shot|print))\b"
)
# What speaks of the whole image, and what may do so in the last sentence.
_IT = re.compile(r"\b(?:it|this|that)\b", re.IGNORECASE)
_WHOLE = re.compile(
    r"\b(?:images?|photo\w*|pictures?|shots?|snapshots?|works?|pieces?|portraits?|landscapes?|stud(?:y|ies)"
    r"|scene|paintings?|watercolou?rs?|drawing|sheet|canvas"
    r"|attempt|result|effect|outcome|whole)\b",
    re.IGNORECASE,
)
# A kind of picture, behind an article and words that may judge it: "an outstanding seascape".
_GENRE = re.compile(
    rf"(?:^|[:,;-] |\band |\bbut |\byet |\bis |\bas |\bof )(?:an?|one|such an?|my|this|that) (?:[\w'-]+,? ){{0,6}}?"
    rf"(?:{IMAGE_WORDS}|\w+scapes?|minimalism|storytelling|art|photojournalism|rendering|rendition|depiction"
    r"|interpretation|treatment|example|achievement|success|failure|triumph|disappointment)\b",
    re.IGNORECASE,
)
# A summary by its form, whatever its words of opinion.
_SUMS_UP = re.compile(
    rf"{_OVERALL}"
    # It is ... a photograph.
    rf"|\b(?:it|this|that|the {IMAGE_WORDS})(?:'s| (?:\w+ly )?(?:is|remains|makes|stays|works as|succeeds as"
    rf"|becomes|reads as|comes across as"
    rf"|amounts to|stands as|proves|feels like))\b[^.!?]*\b{IMAGE_WORDS}\b"
    # A ... photograph ...
    rf"|^(?:[\w' -]{{2,30}}, )?(?:an?|truly|simply|quite|still),? (?:(?!(?:is|are|was|were|has|have|to|the|that"
    rf"|which|with|in|on|at|from) )[\w'-]+,? ){{1,9}}{IMAGE_WORDS}\b"
    # I find it technically assured.
    rf"|^I (?:find|found|consider) (?:it|this|(?:the|this) {IMAGE_WORDS}) "
    # The photograph convinces.
    rf"|^(?:the|this) (?:whole|image|photograph|photo|picture|shot|snapshot|portrait)(?: as a whole)? "
    r"(?!shows|contains|depicts|features|includes|was taken|has a|also|is of|was made|captures a)\w+",
    re.IGNORECASE,
)
# A whole by another name, or a stance of the writer.
_STANCE = re.compile(
    r"^(?:still,? |yet,? |but |in truth,? )?(?:everything|nothing"
    r"|(?:the )?(?:sum|parts|strengths|weaknesses|flaws|virtues|execution|idea|effect|result|outcome)\b(?! of the)"
    r"|the photographer (?:has|knows|trusts|shows|succeeds|fails|did|does)|what (?:remains|stays|is left|saves)"
    r"|one (?:looks|leaves|comes|moves|remembers|forgets|wishes)|as \w+ go\b"
    r"|its (?:beauty|appeal|charm|impact|merits?|virtues?|strengths?|weakness\w*) (?:is|are|lies?|outweighs?))"
    r"|\b(?:general|overall|lasting|final) impression\b|\bof its (?:kind|genre|type)\b"
    r"|\bthe viewer (?:leaves|is left|comes away)\b"
    r"|\bI(?:'d| would)? (?:gladly |happily |truly |really )?(?:hang|buy|keep|frame|like|love|admire|enjoy|find"
    r"|come away|came away|recommend|remember|believe|return)\b"
    r"|\bit(?:'s| is) (?:hard|easy|difficult|impossible) (?:not )?to\b"
    r"|^it (?:\w+ly )?(?:works|succeeds|fails|lingers|holds|leaves|convinces|moves|charms|impresses|disappoints"
    r"|rewards|deserves)\b",
    re.IGNORECASE,
)
# A verdict of a few words without a verb: "A quiet triumph."
_SHORT = 7
_VERDICT = re.compile(
    r"(?!(?:the|his|her|its|their|on|in|at|behind|there|it)\b)(?!.*\b(?:is|are|was|were|has|have)\b)", re.IGNORECASE
)
# A question, or advice for the next time.
_NO_JUDGEMENT = re.compile(
    r"\?[\"')]*$|^(?:next time|try|consider|crop|move|use|shoot|wait|step|avoid|experiment|think|perhaps try"
    r"|maybe try|one could"
    r"|you (?:could|should|might))\b",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE = re.compile(r"(?<=[.!?;])[\"'”’)]*\s+|\n+")
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
    found = REFUSAL.search(text)
    return f"a refusal: {found[0].strip()!r}" if found else ""


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
        " ".join(words) for sentence in _SENTENCE.split(text.lower()) if len(words := _WORD.findall(sentence)) > 3
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
    return f"{copies:.0%} of it is said again" if copies > _REPEATED else ""


def _unfinished(text: str) -> str:
    text = text.strip()
    if not _ENDS.search(text) or _BREAKS_OFF.search(text) or text.count("(") > text.count(")"):
        return f"it breaks off: {text[-30:]!r}"
    if _IN_THE_MIDDLE.match(text):
        return f"it begins in the middle: {text[:30]!r}"
    return ""


def _coverage(text: str) -> str:
    counts = [len(pattern.findall(text)) for pattern in DIMENSIONS.values()]
    named = sum(map(bool, counts))
    if sum(counts) >= _MANY and max(counts) > _ONE_SIDED * sum(counts):
        return f"{max(counts)} of {sum(counts)} words of dimensions are of a single one"
    if named >= MIN_DIMENSIONS:
        return ""
    return f"it names {named} of {len(DIMENSIONS)} dimensions of beauty, not {MIN_DIMENSIONS} or more"


def rule_closing(text: str) -> bool:
    """Whether a rule says that the last sentence, or the one before it, judges the whole image."""
    for place, sentence in enumerate(reversed(sentences_of(text)[-2:])):
        whole = _WHOLE.search(sentence) or (place == 0 and (_IT.search(sentence) or _GENRE.search(sentence)))
        if _NO_JUDGEMENT.search(sentence):
            continue
        judges = opinions(sentence) > 0
        if _SUMS_UP.search(sentence) or (whole and judges):
            return True
        brief = judges and len(sentence.split()) <= _SHORT and _VERDICT.match(sentence)
        if place == 0 and (brief or _STANCE.search(sentence)):
            return True
    return False


def sentences_of(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.split(text) if sentence.strip()]


def closing_sentence(text: str) -> str:
    """The last sentence, empty if it is a question or advice."""
    last = (sentences_of(text) or [""])[-1]
    return "" if _NO_JUDGEMENT.search(last) else last


def _closing(text: str) -> str:
    """The end must judge the whole image, by a rule or by the wording of the last sentence."""
    if rule_closing(text) or CLOSING.is_like(word_tokens(closing_sentence(text))):
        return ""
    return f"no judgement of the whole at its end: {text.strip()[-40:]!r}"


_CHECKS: dict[str, Callable[[str], str]] = {
    "refusal": _refusal,
    "markup": _markup,
    "language": _language,
    "length": _length,
    "repetition": _repetition,
    "unfinished": _unfinished,
    "coverage": _coverage,
    "closing": _closing,
}
