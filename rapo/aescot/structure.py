"""Structure: what a critique must have before its content is judged.

- Plain prose in English, of a sensible length, to its end, without markup, refusal or repetition.
- It names several dimensions of beauty, and it closes with a judgement of the whole image.
- The checks read the text only. The thresholds are rapo's own.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import combinations, pairwise

from rapo.aescot.opinions import opinions

#: Why a text fails the gate, in the order of the checks.
STRUCTURE_REASONS: tuple[str, ...] = (
    "refusal", "markup", "language", "length", "repetition", "unfinished", "coverage", "closing",
)  # fmt: skip

MIN_WORDS, MAX_WORDS = 12, 500
# A longer text is looked at no further: a few of the searches take the square of its length.
_MAX_CHARACTERS = 20 * MAX_WORDS
MIN_DIMENSIONS = 3
_REPEATED = 0.35  # the share of four-word sequences that are copies, above which a text runs in circles
# The same phrase of three words or more, again and again without anything between.
_AT_ONCE = re.compile(r"\b((?:[\w'-]++ ){2,9}[\w'-]++)(?:[,;.]? (?:and )?\1\b)+", re.IGNORECASE)
_OFTEN = 3  # so often three words may come again
_NEAR_FROM, _NEAR = 7, 0.8  # sentences of so many words are the same if they share more than this
_FOREIGN_SENTENCES = 0.3  # the share of sentences in another language that a quotation may take
_FOREIGN = 0.1  # the share of letters of other scripts that a name or a loan word may take

_NOT_ABLE = (
    r"\b(?:i|we)(?: am|'m| are|'re)? (?:\w+ ){0,2}?(?:cannot|can't|can not|unable to|not able to|not allowed to"
    r"|not permitted to"
    r"|won't|will not|couldn't|could not|must decline to|have to decline to|decline to|do not feel comfortable"
    r"|don't feel comfortable)"
)
_IMAGE = (
    r"(?:(?:the|this|that|any|an|your) )?(?:\w+ )?(?:images?|photos?|photographs?|pictures?|attachments?|files?"
    r"|pixels|requests?"
    r"|critiques?|person|people)"
)
_JUDGED = r"(?:critique|assessment|analysis|evaluation|opinion|judge?ment)"
_DOES = (
    r"(?:analy[sz]\w+|evaluat\w+|assess\w*|view\w*|see|access\w*|open\w*|display\w*|process\w*|identify\w*|comment\w*(?: on)?"
    r"|critiqu\w*|judg\w*|describ\w*|discuss\w*|fulfil\w*|complet\w*)"
)
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|language model|large language model|assistant|vision(?:-language)? model)\b"
    r"|\bi(?:'m| am) (?:only |just )?an? (?:ai|language model|virtual assistant|text-based)\b"
    rf"|{_NOT_ABLE} (?:to )?(?:\w+ ){{0,2}}(?:help|assist|comply|provide (?:an? |the |this "
    rf"|my )?(?:\w+ )?{_JUDGED}|{_DOES} {_IMAGE})\b"
    rf"|\b(?:sorry|apologi[sz]e|apologies)\b[^.!?]{{0,30}}(?:{_NOT_ABLE}|\bno image\b|\bunable to\b)"
    r"|\b(?:i|we) (?:(?:do not|don't) have (?:any )?|have no |lack )(?:access|ability|the ability|an image"
    r"|image|eyes|way of seeing)\b"
    r"|\btext-(?:based|only) (?:assistant|model|system)\b|\bproblem (?:loading|opening|reading)\b"
    r"|\bif you could (?:describe|share|send|upload)\b"
    rf"|\bno {_IMAGE} (?:came|arrived|was|is|has been|seems to|appears to)\b"
    rf"|\b(?:could|can|would) you (?:please )?(?:share|upload|attach|resend|send|provide|show) (?:me )?{_IMAGE}"
    r"|\bcan only (?:process|read|handle|work with) text\b"
    r"|\bno image (?:was|is|has been|seems to|appears to)\b"
    r"|\b(?:image|photo|picture|attachment|file) (?:(?:was|is|has|did|could|does)(?:n't| not)|(?:seems"
    r"|appears) to (?:be|have)) "
    r"(?:been |be )?(?:attached|provided|uploaded|shown|given|sent|included|loaded?|visible to me|accessible"
    r"|available|missing|corrupted|failed)\b"
    rf"|\bplease (?:provide|upload|share|attach|resend|send) {_IMAGE}|\b(?:happy|glad) to (?:help|assist) (?:you )?with\b"
    r"|\blet me know if you\b|\b(?:against|violates?) (?:my|our|the content|the usage|content"
    r"|usage) (?:\w+ )?(?:polic\w+|guidelines)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    # Tags, code, headings, emphasis.
    r"</?[a-z][\w-]*(?: [^<>]{0,80})?/?>|<\|[^|]*\|>|```|~~~|^\s{0,3}#{1,6}\s|\*\*|__\w"
    # Lists and tables.
    r"|^\s*(?:[-*+\u2022\u25cf\u25aa]|\d{1,2}[.)])\s+\S|^\s*\|.*\|"
    # JSON, links, TeX, entities.
    r"|^\s*[{\[]\s*[\"'{\[]|\"\s*:\s*[\"\d\[{]|\bhttps?://|\bwww\.|\]\(|\\(?:begin|boxed|text|frac|n|t)\b|\\[()\[\]]|\$\$"
    r"|&(?:nbsp|amp|lt|gt|quot);"
    # Labels of a part or of a speaker, and places that a template left open.
    r"|^\s*(?:assistant|user|system|human|critique|response|answer|output|analysis|rationale|review|reasoning|thinking)\s*:"
    r"|\{\{?\s*\w+\s*\}?\}|\[\s*(?:insert|your|image|end|eos|inst|/inst|placeholder|score|name|start)\b[^\]]*\]"
    r"|^\s*[A-Z][A-Za-z &/]{2,30}:\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_DIMENSIONS: dict[str, re.Pattern[str]] = {
    name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for name, words in {
        "light": r"(?!delight|slight)\w*light\w*|lit|shad(?:ow|e|y|ing)\w*|contrast\w*|bright\w*|dark\w*"
        "|silhouette\w*|glow\w*|chiaroscuro|sun\w*"
        r"|dusk|dawn|flash\w*|lamps?|candle\w*|neon|spot-?lit|beam\w*|rays?",
        "mood": r"mood\w*|narrative\w*|stor(?:y|ies|ytelling)|atmospher\w*|emoti\w*|feel\w*|evocative|evokes?"
        "|seren\w*|tranquil\w*"
        r"|drama\w*|tension|intima\w*|calm\w*|lonel\w*|nostalgi\w*|energ\w*|express\w*|impact\w*|engag\w*"
        r"|myster\w*|playful\w*|joy\w*",
        "composition": r"compos\w*|fram(?:e|ed|es|ing)|balanc\w*|perspective\w*|symmetr\w*|layout|thirds?|crop\w*|horizon\w*"
        r"|foreground|background|placement|centr?e\w*|leading lines?|diagonal\w*|negative space|arrang\w*"
        r"|angle\w*|depth|tilt\w*"
        r"|subject\w*|focal point|lines?|curve\w*|edges?|corner\w*|cut|cluttered|wander\w*|bands?|fills?"
        r"|rhythm\w*|overlap\w*|lined up|grouping|space"
        r"|vertical\w*|horizontal\w*",
        "color": r"colou?r\w*|hue\w*|palette\w*|saturat\w*|tone\w*|tonal\w*|vivid|muted|monochrom\w*"
        "|black[ -]and[ -]white|warm\w*"
        r"|pastel\w*|grey|gray|red\w*|orange|yellow\w*|green\w*|blue\w*|turquoise|teal|violet|purple|pink\w*"
        r"|brown\w*|ochre|golden|amber|scarlet"
        r"|white balance|cast|b&w|sepia|ivory|crimson|magenta|cyan",
        "technique": r"(?:over|under)?-?expos\w*|focus\w*|sharp\w*|blur\w*|nois[ey]\w*|grain\w*|resolution"
        "|detail\w*|clipp\w*|blown"
        r"|bokeh|depth of field|motion|resolved|panning|aperture|shutter|texture\w*|soft\w*|crisp\w*"
        r"|technical\w*|artifacts?|lens",
    }.items()
}
_WHOLE = re.compile(
    r"\b(?:overall|altogether|all in all|in all|as a whole|on the whole|in sum\w*|to sum up|in conclusion|ultimately|in the end"
    r"|taken together|on balance|in short|in total|in general|generally|image|photo\w*|picture|shot|work|piece|frame|scene"
    r"|composition|it|this|result|effect|snapshot|portrait|landscape|attempt|whole)\b",
    re.IGNORECASE,
)
_NAMES_IT = (
    r"(?:image|photo|photograph|picture|shot|work|piece|snapshot|portrait|landscape|still life|study|abstract|capture|attempt"
    r"|result|effort|document|record|photography|composition)"
)
# A summary by its form, whatever its words of opinion.
_SUMS_UP = re.compile(
    r"\b(?:overall|altogether|all in all|as a whole|on the whole|in sum\w*|to sum up|in conclusion|ultimately|in the end"
    r"|taken together|on balance|all told|all things considered)\b"
    rf"|\b(?:it|this|the {_NAMES_IT}) (?:is|remains|makes|stays|works as|succeeds as|becomes|reads as"
    rf"|comes across as|amounts to)\b"
    rf"[^.!?]*\b{_NAMES_IT}s?\b|^an? [^.!?]*\b{_NAMES_IT}\b"
    r"|^(?:the|this) (?:whole|image|photograph|photo|picture|shot|snapshot|portrait)(?: as a whole)? "
    r"(?!shows|contains|depicts|features|includes|was taken|has a|also)\w+",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE = re.compile(r"(?<=[.!?;])[\"'”’)]*\s+|\n+")
_ENDS = re.compile(r"[.!?][\"'”’)\]]*$")


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
    found = _REFUSAL.search(text)
    return f"a refusal: {found[0].strip()!r}" if found else ""


def _markup(text: str) -> str:
    found = _MARKUP.search(text)
    return f"markup: {found[0].strip()[:40]!r}" if found else ""


def _language(text: str) -> str:
    letters = _LETTER.findall(text)
    foreign = sum(1 for letter in letters if "LATIN" not in unicodedata.name(letter, ""))
    if letters and foreign > _FOREIGN * len(letters):
        return f"{foreign} of {len(letters)} letters are of another script"
    sentences = [[word.lower() for word in _WORD.findall(sentence)] for sentence in _SENTENCE.split(text)]
    if sum(map(_is_foreign, sentences)) > _FOREIGN_SENTENCES * len(sentences):
        return "another language than English"
    return ""


def _is_foreign(words: list[str]) -> bool:
    other, english = sum(word in _OTHER_LANGUAGES for word in words), sum(word in _ENGLISH for word in words)
    return other >= 2 and other > english


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
    long = [set(sentence.split()) for sentence in sentences if len(sentence.split()) >= _NEAR_FROM]
    if any(len(a & b) > _NEAR * len(a | b) for a, b in combinations(long, 2)):
        return "a sentence said again with hardly a word changed"
    words = [word.lower() for word in _WORD.findall(text)]
    if any(a == b == c for (a, b), (_, c) in pairwise(pairwise(words))):
        return "a word said three times in a row"
    if sum(a == b for a, b in pairwise(words)) > 1:
        return "words said twice in a row"
    threes = Counter(zip(words, words[1:], words[2:], strict=False))
    if threes and max(threes.values()) > _OFTEN:
        return f"{' '.join(threes.most_common(1)[0][0])!r} said {max(threes.values())} times"
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    copies = 1 - len(set(fours)) / len(fours) if fours else 0.0
    return f"{copies:.0%} of it is said again" if copies > _REPEATED else ""


def _unfinished(text: str) -> str:
    return "" if _ENDS.search(text.strip()) else f"it breaks off: {text.strip()[-30:]!r}"


def _coverage(text: str) -> str:
    named = [name for name, pattern in _DIMENSIONS.items() if pattern.search(text)]
    if len(named) >= MIN_DIMENSIONS:
        return ""
    return f"it names {len(named)} of {len(_DIMENSIONS)} dimensions of beauty, not {MIN_DIMENSIONS} or more"


def _closing(text: str) -> str:
    """The last sentence, or the one before it, must judge the whole image."""
    sentences = [sentence for sentence in _SENTENCE.split(text.strip()) if sentence.strip()]
    for sentence in sentences[-2:]:
        if _SUMS_UP.search(sentence) or (_WHOLE.search(sentence) and opinions(sentence)):
            return ""
    return f"no judgement of the whole at its end: {(sentences or [''])[-1][-40:]!r}"


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
