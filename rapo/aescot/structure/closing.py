"""Closing: whether a critique ends with a judgement of the whole image.

- A rule knows it by its form, or the last sentence is worded like those that close critiques in
  `bench/judge` (`rapo.aescot.wording`).
"""

from __future__ import annotations

import re

from rapo.aescot.opinions import opinions
from rapo.aescot.structure.rules import IMAGE_WORDS
from rapo.aescot.wording import CLOSING, phrases, sentences_of, word_tokens

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


def closing_sentence(text: str) -> str:
    """The last sentence, empty if it is a question or advice."""
    last = (sentences_of(text) or [""])[-1]
    return "" if _NO_JUDGEMENT.search(last) else last


def closing_fault(text: str) -> str:
    """What a text lacks at its end; empty if it closes with a judgement."""
    last = closing_sentence(text)
    if rule_closing(text) or (last and CLOSING.score(phrases(word_tokens(last))) > 0):
        return ""
    return f"no judgement of the whole at its end: {text.strip()[-40:]!r}"
