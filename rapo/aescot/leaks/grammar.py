"""Grammar of leaks: the parts that its rules are made of.

- A rule is a regular expression over the tags of `rapo.aescot.leaks.words`, one blank apart.
- `<name>` stands for a part of the grammar, `~4` for up to four tokens of the same clause.
- A rule takes time in proportion to the text: its gaps are bounded.
"""

from __future__ import annotations

import re

#: Parts that are one token out of a list.
_ONE_OF: dict[str, str] = {
    "area": (
        "frame frames IMAGE sky area scene surface background foreground canvas space pixels paper page sheet "
        "wall height width crop crowd"
    ),
    "unit": (
        "mm cm m km s sec secs seconds? ms minutes? min hours? stops? ev k kelvin px pixels? mp megapixels? "
        "mb gb degrees? deg fps x years? days? weeks? months? am pm o 'clock inch inches feet foot ft metres? "
        "meters? yards? miles? bit iso d grams? kg watts? times ° fold"
    ),
    "near": (
        "above below under over beneath beyond past near nearly almost around about roughly approximately "
        "exactly close just barely hardly short shy exceeds exceeding north south somewhere only maybe "
        "perhaps at to of on as than : = - me it IT IMAGE say easily comfortably clearly between from further "
        "towards? nearer closer out straight"
    ),
    "gives": "place places PLACED AWARD GIVEN SCORES? RATE GRADE MARKS? RANK VERDICT QUALITY NORM average",
    "worth": "JUDGES POS full good strong very respectable PERFECT clean round bare even near small gentle modest",
    "step": (
        "step steps notch notches rung rungs tick ticks shade shades POINT MARKS? STAR level levels TIER "
        "GRADE bands whisker fraction hair"
    ),
    "the": "the its IT that these those all any our such a an every most other",
    "task": "prompts? instructions? guidelines task brief assignment rubric system user metadata request operator",
    "secret": (
        "hidden private secret true actual real correct human reference gold target known official underlying "
        "intended expected final undisclosed confidential SHOWN TOLD GIVEN assigned AWARD stated desired"
    ),
    "music": (
        "music musical orchestral film movie piano violin violinist pianist cellist cello flute orchestra "
        "conductor choir opera sheet notes? pages? handwritten printed soundtrack composer manuscript singer "
        "keys bars"
    ),
    "sport": "goals? scoreboard striker penalty touchdown players? stadium winger goalkeeper footballer teammates",
    "craft": (
        "wood wooden leather ice clay bread crust rock stone metal paper skin knife grooves? blade loaf dough plaster"
    ),
    "sky": (
        "sky skies night flag milky constellations? sewn stitched shine shining glow glows painted hotel "
        "restaurant resort general badge collar cross overhead heavens dipper trails? hang hangs twinkle "
        "twinkling visible roof roofs hill mountain moon clouds horizon embroidered banner tree dome ceiling"
    ),
    "result": "FIGURE VERDICT MARKS? GRADE level result index metric numbers RANK SCORES?",
    "low": (
        "POS modest middling low high mid average mediocre lukewarm favou?rable unfavou?rable generous positive "
        "negative poor weak strong good respectable decent upper middle tepid kind harsh warm cool elevated "
        "flattering unflattering moderate so very fairly rather below above sub par range - to quite JUDGES BEST "
        "disappointing excellent impressive rough overall final"
    ),
    "just": (
        "AWARD warranted justified justifies justify justifiable understandable reflects? reflecting reflected fair "
        "accurate apt fitting appropriate surprise surprising harsh generous lenient sensible sense "
        "explains? explained explicable plausible reasonable suits fits surprised confirms? mirrors? deservedly rightly "
        "stems owes follows undeserved unfair unjust defensible agree agrees befits"
    ),
    "quality": "bad poor fair good excellent average outstanding terrible mediocre",
    "tint": (
        "colou?rs? film cinematic teal tonal tones? orange palette split subtle digital warm warmer cool "
        "cooler blues? green shadows highlights contrast hues? saturation sepia professional museum "
        "commercial archival toning toward towards"
    ),
}
#: Parts of several tokens, or of tags by their letters.
_PARTS: dict[str, str] = {
    **{name: f"(?:{words.replace(' ', '|')})" for name, words in _ONE_OF.items()},
    "area": f"(?:{_ONE_OF['area'].replace(' ', '|')})(?= )",
    "digit": r"N[istbda]",
    "word": r"W[istbr]",
    "num": r"(?:N[istbda]|W[istbr])",
    "many": r"(?:N[stbda]|W[stbr])",
    "ten": r"[NW]t",
    "half": r"and (?:a|Wi) PART",
    # A value with its fraction, or from one to another.
    "val": r"<num>(?: (?:-|to|or|/|POINT|and) <num>){0,2}(?: (?:- )?and (?:- )?(?:a|Wi) (?:- )?PART| Q Q Q)?",
    # What may follow a number that counts nothing.
    "free": (
        r"(?= (?:[.,;:!?()\"'-]|from|because|for|here|is|was|as|but|and|on|in|GIVEN|due|at|if|with|since"
        r"|though|although|so|or|to|when|by|i|IT|that|which|rather|than|would|could|should|might|may|must"
        r"|will|maybe|perhaps|again|JUDGES|IT|its|my|me|seems|feels|sounds|fits|needs|requires|easily"
        r"|comfortably|barely|probably|possibly|certainly|all|not|no|only|just|even|still|then|instead"
        r"|too|despite|thanks|owing|mainly|chiefly|largely|mostly|purely|really|territory|material|out|of"
        r"|LAND|AWARD|SCORE|GRADE|MARK|ish|among|upon|the|because|while|where|until|unless|were|had|has"
        r"|do|does|can|reflects|explains|confirms|suits|summari[sz]es|strikes|appears|considering|plus"
        r"|\+|/|behind|alone|alongside) )"
    ),
    # What makes a critique answer to a result.
    "cites": (
        r"(?:GIVEN|considering|despite|justif(?:y|ies|ied|ying)|explains?|explaining|warrants?|confirms?|supports?"
        r"|matches|match|matching|reflects?|mirrors?|befits|befitting|reconcile|understand|echoes|echo"
        r"|(?:consistent|line|keeping|agreement|accordance|harmony|step|accord|tune|compatible|agrees?|aligns?"
        r"|aligned|squares?|fits|sits well|chimes|tallies|coheres|disagree|quarrel|argue|concur) (?:well |in"
        r" |perfectly |fully |closely )?with"
        r"|(?:in view|because|on account|worthy|in support|in spite|typical|expected|deserving) of|(?:in|in the) light"
        r" of|(?:based|depending) on|judging (?:by|from)|accounts? for|corresponds? to|due to|owing to|bears out|bear out"
        r"|as (?:suggested|indicated|reflected|implied|shown|SHOWN|expected) (?:by|in|from))"
    ),
    "pos": r"(?:POS|BEST)",
    "best": (
        r"(?:full|maximum|max|PERFECT|perfection|flawless|top|BEST|ideal|ceiling|excellent|excellence"
        r"|masterpiece|<ten>)"
    ),
}
_NAME = re.compile(r"<(\w+)>")
_GAP = re.compile(r"~(\d)")


def rule(pattern: str) -> re.Pattern[str]:
    """A compiled rule, which starts and ends between tokens."""
    while _NAME.search(pattern):
        pattern = _NAME.sub(lambda found: _PARTS[found[1]], pattern)
    pattern = _GAP.sub(r"(?:[^ .!?;]+ ){0,\1}?", pattern)
    return re.compile(rf"(?<= )(?:{pattern})(?= )")
