"""Leak words: the word classes that the grammar of leaks is written in.

- Each token of a plain text gets one tag: its class in capitals, or else the token itself.
- A number's tag is N (digits) or W (word) and a letter for its size: i is one or zero, s up to ten,
  t the top of a usual scale (5, 10, 100), b up to a hundred, d a decimal, a a decimal that is a
  usual f-number as well, x more than a hundred; Wp is a plural ("sevens"), Wq a decade ("sixties").
"""

from __future__ import annotations

import re

#: Classes and their words. A word is in one class only.
_CLASSES: dict[str, str] = {
    # What a score is called, by how surely a word means one.
    "SCORE": "score scored scoring rating ratings rated outscores outscored outranks outranked",
    "SCORES": "scores",
    "RATE": "rate rates",
    "GRADE": "grade grades graded grading",
    "MARK": "mark marked marking",
    "MARKS": "marks",
    "POINT": "point points pts",
    "STAR": "star stars starred",
    "RANK": "rank ranks ranked ranking rankings",
    "TILE": "percentile percentiles quartile quartiles quintile quintiles decile deciles tercile terciles",
    "FIGURE": "number figure value numeral digit digits",
    "VERDICT": "verdict judgement judgment assessment evaluation appraisal tally opinion estimate estimation",
    "QUALITY": "quality aesthetic aesthetics aesthetically beauty appeal merit",
    "PCT": "% percent percentage",
    # Who gives it.
    "VOTE": (
        "vote votes voted voting voter voters ballot ballots upvote upvotes upvoted downvote downvotes downvoted polled"
    ),
    "RATER": (
        "judges jury jurors juror rater raters annotator annotators annotated evaluators assessors "
        "respondents labelers labellers graders"
    ),
    "PEOPLE": (
        "panel panelists panellists crowd public audience viewers community reviewers critics people users "
        "members participants observers everybody everyone majority testers folk folks visitors friends "
        "colleagues strangers"
    ),
    "OPINED": (
        "liked loved disliked hated preferred favoured favored praised approved appreciated enjoyed admired dismissed"
    ),
    "PLACED": (
        "placed put found considered judged thought deemed called awarded agreed ruled decided rejected chose felt"
    ),
    "TOLD": "told asked instructed informed requested directed forbidden briefed",
    "SHOWN": "supposed required supplied provided shown",
    "GIVEN": "given assigned",
    "ASKS": "asks says states requires expects wants demands tells instructs calls said wanted specifies",
    # What gives it: verbs that name a value, and verbs that put something on a scale.
    "AWARD": (
        "give gives gave giving award awards awarding earn earns earned earning deserve deserves deserved "
        "deserving merits merited get gets got getting receive receives received assign assigns "
        "worth worthy grant grants granted noted recorded garner garners garnered fetch fetches"
    ),
    "LOSE": (
        "lose loses losing lost drop drops dropped dock docked docks deduct deducts deducted subtract "
        "subtracts subtracted cost costs costing knock knocks knocked shave shaves shaved gain gains gained"
    ),
    "LAND": (
        "land lands landed landing sit sits sat sitting hover hovers hovering settle settles settled fall "
        "falls fell falling come comes came coming reach reaches reached reaching hit hits make makes made "
        "making call peg pegged pegs puts putting rise rises rose climb climbs climbed climbing slip slips "
        "slipped lift lifts lifted lifting stand stands hovered averages averaged averaging manage manages "
        "managed achieve achieves achieved approach approaches approached approaching tops topped bump bumps "
        "bumped push pushes pushed say going end ends ended finish finishes finished belongs belong pull "
        "pulls drag drags raise raises raised bring brings brought go goes takes took take arrive arrives "
        "arrived clocks clocked registers registered "
        "tallies nets netted stood lay lies lie finds occupies occupied parks parked squeaks squeaked lean leans leaning "
        "stays stay"
    ),
    "PERFECT": "perfect perfection",
    "JUDGES": (
        "solid strong weak easy clear firm generous borderline comfortable respectable mere decent overall "
        "total straight convincing healthy honest bare meagre lowly flat cautious reluctant confident "
        "flawless"
    ),
    # Places on a scale and among others.
    "ORD": "second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth",
    "FIRST": "first last penultimate",
    "BEST": "best worst highest lowest finest poorest",
    "POS": "top bottom upper lower higher middle mid better worse high low weaker weakest stronger strongest",
    "PART": "half thirds quarter quarters fifths sixths eighths group segment handful portion",
    "TENTHS": "tenths hundredths",
    "TIER": "tier tiers bracket brackets rung rungs band echelon echelons league drawer",
    "NORM": "mean median midpoint norm",
    "SCALE": "scale scales ladder spectrum leaderboard",
    "SET": "submission submissions submitted entries contest competition contenders rivals peers corpus cohort",
    "PILE": (
        "set collection batch pile heap pool field pack lot category list table others rest class challenge "
        "sample selection archive series crop bunch"
    ),
    # What is judged.
    "IMAGES": "images photos photographs pictures shots works snapshots pieces",
    "IMAGE": "image photo photograph picture shot snapshot work piece portrait landscape",
    "IT": "it this",
}

TAGS: dict[str, str] = {word: tag for tag, words in _CLASSES.items() for word in words.split()}

_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS: dict[str, str] = {
    **dict.fromkeys(("nought", "naught", *_UNITS[:2]), "Wi"),
    **dict.fromkeys(_UNITS[2:11], "Ws"),
    **dict.fromkeys((*_UNITS[11:], *_TEENS, *_TENS), "Wb"),
    **dict.fromkeys(("five", "ten", "hundred"), "Wt"),
    **dict.fromkeys(("twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines", "tens"), "Wp"),
    **dict.fromkeys([ten[:-1] + "ies" for ten in _TENS], "Wq"),
    **dict.fromkeys(("ii", "iii", "iv", "vi", "vii", "viii", "ix"), "Wr"),
}
TAGS.update(_NUMBERS)
TAGS.update({f"{word}ish": "Ws" for word in _UNITS[2:11]})

#: f-numbers that are decimals.
_APERTURES = frozenset(["1.2", "1.4", "1.7", "1.8", "2.2", "2.5", "2.8", "3.2", "3.5", "4.5", "5.6", "6.3", "7.1"])
_TOP = frozenset((5, 10, 20, 100))
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)*)(ish|s)?")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_TOKEN = re.compile(r"(?<![\w.])\.\d+(?!\.?\d)|\d+(?:[.,]\d+)*[a-z]*|[a-z]+\d+(?:[.,]\d+)*\w*|'?[a-z]+|[^\w\s]")


def tokens(plain: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The tags of the tokens of a plain text, and the place of each in it."""
    found = list(_TOKEN.finditer(plain))
    return [_tag(token[0]) for token in found], [token.span() for token in found]


def _tag(token: str) -> str:
    if len(token) > 1 and token[0] == ".":
        token = f"0{token}"
    if token in TAGS or not token[0].isdigit():
        return TAGS.get(token, token)
    found = _NUMBER.fullmatch(token)
    digits = found[1].replace(",", ".") if found else ""
    if _ORDINAL.fullmatch(token):
        return "ORD"
    if not found or digits.count(".") > 1:
        return "Q"  # with a unit, a date
    value = float(digits)
    if found[2] == "s":
        return "Wp" if value <= 10 else "Wq" if value < max(_TOP) else "Q"
    if value > max(_TOP):
        return "Nx"
    if "." in digits:
        return "Na" if digits in _APERTURES else "Nd"
    return "Ni" if value < 2 else "Nt" if value in _TOP else "Ns" if value < 10 else "Nb"
