"""Opinions: how a text judges, by small lists of English words.

- A negation shortly before a word turns its sign.
- The last sentence counts twice in the tone, because it is where a critique sums up.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+(?:'t)?")
_SENTENCE = re.compile(r"[.!?;]+\s*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _words("not no never without lacks lack lacking hardly barely isn't doesn't fails")
_POSITIVE = _words(
    "beautiful beautifully beauty excellent superb good great stunning striking strikingly harmonious harmony balanced "
    "vivid vibrant rich elegant elegance pleasing masterful masterfully captivating compelling engaging evocative "
    "exceptional outstanding impressive strong effective effectively well lovely perfect perfectly sharp crisp dramatic "
    "serene refined skillful skillfully successful successfully accomplished memorable attractive appealing satisfying "
    "delightful powerful professional polished remarkable admirable rewarding charming convincing coherent inviting "
    "fine nice pleasant gorgeous magnificent wonderful brilliant breathtaking solid competent commendable succeeds "
    "excels elevates works shines superior high-quality"
)
_NEGATIVE = _words(
    "poor poorly bad weak weakness dull flat bland boring cluttered chaotic blurry blurred unbalanced distracting distracts "
    "unappealing unpleasant ugly harsh washed overexposed underexposed muddy murky tilted awkward amateur amateurish "
    "lifeless uninspired uninteresting mediocre unremarkable messy grainy noisy lacks lacking fails failing failure "
    "unsuccessful disappointing forgettable careless confusing unattractive unconvincing incoherent generic ordinary "
    "undermined undermines suffers spoiled marred inferior hasty tired clumsy unfocused underwhelming unsatisfying "
    "fair average middling adequate acceptable passable limited modest unexceptional plain"
)
# Words of the middle: they judge, but neither praise nor blame.
_MIDDLE = _words("fair average middling adequate acceptable passable limited modest unexceptional plain ordinary")


def opinions(text: str) -> int:
    """How many words of a text judge."""
    return sum(word in _POSITIVE or word in _NEGATIVE for word in _WORD.findall(text.lower()))


def tone(text: str) -> tuple[float, int]:
    """The tone of a text in [-1, 1] by a small list of words, and the number of words that it rests
    on. The last sentence counts twice."""
    text = text.lower().replace("’", "'")
    sentences = [sentence for sentence in _SENTENCE.split(text) if sentence.strip()]
    total = hits = 0
    for sentence in [*sentences, *sentences[-1:]]:
        words = _WORD.findall(sentence)
        for place, word in enumerate(words):
            sign = 0 if word in _MIDDLE else (word in _POSITIVE) - (word in _NEGATIVE)
            if sign:
                # "lacks" is an opinion of its own, so it negates only the words behind it.
                negated = any(before in _NEGATIONS for before in words[max(0, place - 2) : place])
                total += -sign if negated else sign
                hits += 1
    return (total / hits if hits else 0.0), hits
