"""Dimensions: assigns the clauses of a rationale to aesthetic dimensions, by their words."""

from __future__ import annotations

import re

from rapo.records import DIMENSIONS

_WORDS: dict[str, str] = {
    "light and shadow": r"light\w*|shad(?:ow|e|y)\w*|contrast\w*|highlights?|backlit|chiaroscuro",
    "mood and narrative": r"moods?|narrative\w*|stor(?:y|ies)|atmospher\w*|emotion\w*|feeling\w*",
    "composition": r"compos\w*|fram(?:e|ed|ing)|balanc\w*|perspective\w*|symmetr\w*|layout|rule of thirds",
    "color": r"colou?r\w*|hues?|palettes?|saturat\w*|tones?|tonal",
    "exposure": r"(?:over|under)?-?expos\w*",
}
_PATTERNS = {name: re.compile(rf"\b(?:{_WORDS[name]})\b", re.IGNORECASE) for name in DIMENSIONS}

# A full stop inside a number ends no clause.
_CLAUSE_END = re.compile(r"(?<=[;!?。；！？])\s*|(?<=\.)(?=\s|$)\s*|\n+")


def split_dimensions(rationale: str) -> list[tuple[str, str]]:
    """`(dimension, text)` for each dimension that the rationale mentions, in the order of first
    mention.

    A clause or sentence belongs to the dimension that it names, else to the one whose words it
    mentions first. A clause that mentions none is left out.
    """
    parts: dict[str, list[str]] = {}
    for clause in _CLAUSE_END.split(rationale):
        text = clause.strip().rstrip(";；").strip()
        if text and (name := _dimension(text)) is not None:
            parts.setdefault(name, []).append(text)
    return [(name, " ".join(texts)) for name, texts in parts.items()]


def _dimension(text: str) -> str | None:
    found = {name: match.start() for name, pattern in _PATTERNS.items() if (match := pattern.search(text))}
    # The names of the other two dimensions are phrases.
    named = [name for name in ("composition", "color", "exposure") if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    if len(named) == 1:
        return named[0]
    return min(found, key=lambda name: found[name]) if found else None
