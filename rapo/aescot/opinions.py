"""Opinions: how a text judges, by small lists of English words.

- A negation shortly before a word turns its sign.
- The last sentence counts twice in the tone, because it is where a critique sums up.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+(?:'t)?")
_WITH_HYPHENS = re.compile(r"[a-z]+(?:-[a-z]+)*")
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


# Words that judge, but whose sign depends on what they are said of, or is of no use to the tone.
_ALSO = _words(
    "absorbing accessible affecting airless amateurishly ambitious amiable amusing annoying appetizing apt "
    "arresting artful atmospheric authentic average awkwardly banal barely believable best better bold boldly "
    "brave careful clever cliched clinical coherence confidence confident considered controlled conventional "
    "convinces convincingly craft deft deftly delight delights deserves detached dignified dignity disappoints "
    "distinction distraction dreary drowns eloquent enchanting energetic engages enjoyable entertaining enviable "
    "evenly excellence excessive exciting expressive exquisite eye-catching failure faithful falters familiar "
    "fault faults feeble finely finest first-rate flair flattering flatters flaw flawed flawless flaws flimsy "
    "forceful frustrating fun fussy garish gentle genuine good graceful gracefully grand gratifying grating "
    "gripping handsome handsomely haunting haunts heartfelt heavy-handed honest humane imaginative immersive "
    "impact imperfect impresses improve improved improvement indifferent inept insight inspired inspiring "
    "interesting intimate intriguing inventive invites joyful labored lackluster lacklustre lingers lively "
    "lopsided luscious keeper majestic manages mastery triumph gem joy magical stunning meaningful merit "
    "merits mess misjudged miss mistake monotonous "
    "moody moving muddled mundane neat neatly noble nuisance overcooked overdone oversaturated painterly peaceful "
    "phenomenal pity playful pleasantly pleases pleasure poetic poetry poignant precise precisely precision "
    "predictable pretty promise promising purposeful quality refreshing regrettable remote resolved resonant "
    "resonates respectable restrained restraint revealing rewarded rewards rich rigorous robust romantic satisfies "
    "savour seductive sensitive sensitively sentimental shoddy shortcoming sickly simplicity sincere skilful "
    "skilled sloppy smart sophisticated special spectacular spirited splendid spontaneous stale static stilted "
    "straightforward strength strengths strikes struggles stylish subtle subtly success suffering suits sumptuous "
    "sure surprising suspenseful tasteful tasteless technically tedious tender tenderness terrible theatrical "
    "thoughtful thoughtfully thrilling timeless timely timid tiresome touching trite triumph trivial unaffected "
    "unifies unique unlovely uplifting vital vitality vulgar wanting wasted weaken weakens weaknesses well-made "
    "whimsical wise witty worthwhile worthy"
)
_JUDGING = re.compile(
    r"(?:un|over|under|mis|ill|well)-?\w{4,}(?:ed|ing|able|en|n)|\w{3,}(?:ful|fully|lessly)|\w{4,}less|\w{5,}[ai]bl[ey]"
)
_NOT_JUDGING = _words(
    "handful armful unless nevertheless nonetheless regardless understanding vegetable available visible underneath "
    "mislead overhead overlapping undergrowth underlying indoors untitled unlike until colorful timetable"
)


def opinions(text: str) -> int:
    """How many words of a text judge."""
    return sum(map(_judges, _WITH_HYPHENS.findall(text.lower())))


def _judges(word: str) -> bool:
    if word in _POSITIVE or word in _NEGATIVE or word in _ALSO:
        return True
    return _JUDGING.fullmatch(word) is not None and word not in _NOT_JUDGING


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
