"""Coverage: whether a critique speaks of several aspects of beauty.

- A sentence speaks of an aspect with a probability, by its words and by which aspects they name
  (`rapo.aescot.structure.rules`).
- A text whose words name several aspects evenly is not one-sided. Another one is, or is not, by how
  these probabilities and words are spread over the aspects. Both models are of the texts in
  `bench/judge` (`rapo.aescot.wording`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from scipy.special import expit

from rapo.aescot.structure.rules import ASPECT_WORDS
from rapo.aescot.wording import ASPECTS, ONE_SIDED, SPEAKS_OF, sentences_of, stems, word_tokens

# Words of so many aspects, none of which has more than this share of them, speak of several.
_SEVERAL, _EVEN = 3, 0.5
# Figures of a text, and the values which they reach or do not.
_LIKELY = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)
_REACHED: dict[str, tuple[float, ...]] = {
    "named": (1, 2, 3, 4, 5),
    "named share": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "second named": (1, 2, 3),
    "third named": (1, 2, 3),
    "likely": (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5),
    "likely share": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8),
    "second likely": _LIKELY,
    "third likely": _LIKELY,
    "fourth likely": _LIKELY,
}


def coverage_fault(text: str) -> str:
    """That a text speaks of one aspect alone or of none; empty if it speaks of several."""
    named = [len(words.findall(text)) for words in ASPECT_WORDS.values()]
    if sum(map(bool, named)) >= _SEVERAL and max(named) <= _EVEN * sum(named):
        return ""
    sentences = sentences_of(text)
    if not sentences or ONE_SIDED.score(spread(text)) <= 0:
        return ""
    spoken = [aspects_of(sentence) for sentence in sentences]
    if max(_any(spoken)) < _LIKELY[2]:
        return "it speaks of no aspect of beauty"
    often = [sum(shares) for shares in zip(*spoken, strict=True)]
    return f"it speaks of {ASPECTS[often.index(max(often))]}, and of little else"


def aspect_features(sentence: str) -> set[str]:
    """What the models of aspects know of a sentence: words, stems, and `#light` where one names the
    light."""
    words = word_tokens(sentence)
    return {*words, *stems(words), *(f"#{name}" for name, named in ASPECT_WORDS.items() if named.search(sentence))}


def aspects_of(sentence: str) -> tuple[float, ...]:
    """The probability that a sentence speaks of each of `ASPECTS`."""
    found = aspect_features(sentence)
    return tuple(float(expit(model.score(found))) for model in SPEAKS_OF.values())


def spread(text: str) -> set[str]:
    """What the model of one-sided texts knows of a text of one sentence or more: `FIGURE>=VALUE`
    for each value that a figure reaches."""
    spoken = [aspects_of(sentence) for sentence in sentences_of(text)]
    named = sorted((len(words.findall(text)) for words in ASPECT_WORDS.values()), reverse=True)
    often = [sum(shares) for shares in zip(*spoken, strict=True)]
    likely = sorted(_any(spoken), reverse=True)
    figures = {
        "named": sum(map(bool, named)),
        "named share": named[0] / max(sum(named), 1),
        "second named": named[1],
        "third named": named[2],
        "likely": sum(likely),
        "likely share": max(often) / sum(often),
        "second likely": likely[1],
        "third likely": likely[2],
        "fourth likely": likely[3],
    }
    return {f"{name}>={value:g}" for name, values in _REACHED.items() for value in values if figures[name] >= value}


def _any(spoken: Iterable[tuple[float, ...]]) -> list[float]:
    """The probability of each aspect that any sentence speaks of it."""
    return [1 - math.prod(1 - share for share in shares) for shares in zip(*spoken, strict=True)]
