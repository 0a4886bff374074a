"""Leak patterns: the wordings that reveal a score by themselves, in plain text.

- They read the result of `plain_text`: lower case, plain digits and punctuation.
- `OTHER_SENSE` is taken out first: words of rating that mean something else ("first-rate", "frame
  rate", "nine times out of ten").
- A number that stands alone is not matched here; `rapo.aescot.leaks` reads its use.
"""

from __future__ import annotations

import re

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORD = "|".join(WORDS)
_ABOVE_ONE = "|".join(WORDS[2:])
_BY_POINT = "|".join((WORDS[0], *WORDS[2:]))
_DIGITS = r"\d+(?:[.,]\d+)?"
_TENS = r"(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?"
_N = rf"(?:{_DIGITS}(?: \d/\d)?|{_TENS}|{_WORD})(?:[ -](?:and a half|point (?:{_WORD})))?"
_PERCENT = r"(?:\d+(?:[.,]\d+)?|[a-z]+ty(?:-[a-z]+)?|ten|five|hundred) ?(?:%|per ?cent)"
_UNIT = r"(?:s|sec|seconds?|mm|cm|m|metres?|meters?|ev|stops?|x|k|inch(?:es)?|feet|ft|mp|aspect|to)\b"
_SPAN = r"(?:stops?|hours?|minutes?|seconds?|meters?|metres?|feet|inches|years?|times)\b"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


OTHER_SENSE = _any(
    r"\biso ratings?\b",
    r"\ba (?:big |huge |real |definite )?plus\b",
    r"\b(?:first|second|third|top|high|frame|refresh|heart|shutter|burst|bit|sample|sampling|flash|sync|interest|exchange"
    r"|growth|crime|birth)[ -]rat(?:e|es|ed|ing)\b",
    r"\bat any rate\b|\brate of\b|\b(?:under|over|x|r)-?rated\b",
    r"\b(?:musical|film|movie|orchestral|music|original|piano|cinematic) scores?\b",
    r"\bscore(?:d|s)? (?:lines?|into|the (?:wood|surface|leather|ice))\b",
    r"\b(?:nine|9) times out of (?:ten|10)\b",
)

_COUNTED = r"(?! (?!points|stars|marks|this|its|is|as|thus|across|always|perhaps)[a-z]{3,}s\b| people\b| are\b)"
_SKY = (
    r"(?! of (?!five|ten|\d)| (?:in|over|above|on|across|behind|shine|shining|glow|appear|are|hang|sit|form|visible)\b)"
)

#: Kind and pattern of each wording, in the order of the search.
SCALES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "a fraction of a scale",
        # 1/10 is a shutter time; a longer chain is a date.
        re.compile(
            rf"(?<![\d/.:f])(?!1/){_DIGITS} ?/ ?(?:5|10|100|five|ten)(?![\d/:.]\d|\d| ?(?:s|sec|secs|seconds?|th)\b)"
        ),
    ),
    (
        "so many of so many",
        _any(
            rf"\b{_N} (?:points? |stars? |marks? )?(?:out of|over) "
            rf"(?:a (?:possible|perfect|total|maximum) (?:of )?)?(?:{_N}|a? ?hundred)\b{_COUNTED}",
            rf"\b(?:{_WORD})[ -](?:tenths|fifths|hundredths)\b(?! (?:of a (?:second|stop|degree)"
            rf"|of the (?:frame|image|sky|picture)))",
            rf"\b(?:{_DIGITS}|{_ABOVE_ONE}) of (?:10|100|ten|a hundred)\b{_COUNTED}",
        ),
    ),
    (
        "a scale",
        _any(
            rf"\b(?:{_N}|hundred)-point scale\b",
            r"\b(?:on|in|along|using|by|of) (?:a|the|any|my|our|an) (?:usual |common |given |same |rating |numeric |aesthetic "
            rf"|quality )?scale(?= (?:of|from|between|that|up|with) (?:{_N}|runs|goes|spans|ranges|hundred))",
            rf"(?<!gray )(?<!grey )(?<!tonal )\b(?:scale|range) (?:of|from) {_N} ?(?:to|-|through|and) ?{_N}\b"
            r"(?! (?:mm|millimet|met|feet|stops?|iso|ev))",
            r"\b(?:middle|mid-?point|top|bottom|end|upper|lower|high|low|half) (?:end |half "
            r"|part )?of the (?:scale|range|spectrum)\b",
            rf"\b(?:{_DIGITS}|{_ABOVE_ONE}) ?(?:-|to|or) ?(?:{_DIGITS}|{_ABOVE_ONE}) (?:range|region|bracket"
            rf"|territory|area|zone)\b"
            r"(?! (?:of (?:the )?(?:frame|image|sky)|mm))",
            r"\b(?:low|mid|middle|high|upper)[ -](?:ones|twos|threes|fours|fives|sixes|sevens|eights|nines)\b",
            rf"\b(?:{_DIGITS}|{_ABOVE_ONE}) of (?:5|five)(?=[.,;!?]|$)",
            r"\bscale (?:of|from) [ivx]+ (?:to|-) [ivx]+\b",
            r"\b(?:viii|vii|iii|iv|vi|ix) ?(?:/|out of|of) ?(?:x|v)\b",
        ),
    ),
    (
        "stars",
        _any(
            rf"\b{_N}(?: ?-| (?:full |whole |solid |gold )?)stars?\b{_SKY}",
            r"\bhalf a star\b|[★☆⭐]|\*{3,5}(?= |$|\.)|\bstar rating\b|\bstars? out of\b",
        ),
    ),
    (
        "points",
        _any(
            r"\b(?:give[sn]?|giving|gave|earn(?:s|ed)?|deserves?|merits?|scores?|gets?|worth|award(?:s|ed|ing)?|lose|loses|lost"
            r"|costs?|total of|dock(?:s|ed)?|deduct(?:s|ed)?) "
            rf"(?:[a-z']+ ){{0,3}}(?:{_N}|hundred|a few|some|several|full|all) points?\b",
            rf"\b(?:{_N}|hundred) points? (?:from me|for (?:the|its|this)|in total)\b",
            rf"\b{_N} points? (?:off|less|lost|deducted|short)\b",
            r"\b(?:half )?a point (?:off|deducted|less|lost)\b",
        ),
    ),
    (
        "a grade",
        _any(
            r"(?<![\w-])(?:an? |of |earns? |deserves? |merits? |grade:? |graded )(?:solid |strong |low |high |mid )?"
            r"[a-df][+-](?![\w-])",
            r"\b[a-df][ -](?:plus|minus)\b|\bgraded? (?:of )?(?:an? )?[a-df]\b|\b(?:an? )?[a-df][ -]grade\b|\bletter grade\b",
            r"\b(?:solid|straight|strong) [a-df]\b(?! ?&)",
        ),
    ),
    (
        "a percentage",
        _any(
            rf"\b{_PERCENT}(?=,? (?:seems?|sounds?|feels?|would|overall)\b)",
            rf"\b{_PERCENT}(?= (?:for |in |on |of |as a )?(?:the |its |a |overall )?"
            r"(?:quality|aesthetic|appeal|success|perfect|score|rating|of the way|as good|satisf|approval|mark|merit))",
            r"\b(?:top|bottom|upper|lower|best|worst|better than|beats|ahead of|merits?|earns?|deserves?|scores?|rates?|worth"
            rf"|give (?:it|this)) (?:the )?(?:about |around |roughly |only |a )?{_PERCENT}"
            r"(?! of (?:the (?:frame|image|picture|sky|background|area|pixels|scene)))",
        ),
    ),
    (
        "a percentile",
        re.compile(
            r"\bpercentiles?\b|\bz-score\b|\bstandard deviations?\b|\b(?:top|bottom|upper|lower|first|second|third|fourth"
            r"|highest|lowest) (?:decile|quartile|quintile|tier)\b"
        ),
    ),
    (
        "a decimal score",
        _any(
            r"(?<![\w/.:,-])(?<!aperture )(?<!aperture of )(?<!\Wf )(?<!speed )(?<!\d or )(?<!\d to )(?<!\d and )"
            rf"(?:0[.,]\d{{1,3}}|1[.,]00?)(?![\d:]|[.,]\d|x| ?{_UNIT}| ?:)",
            rf"\b(?:{_WORD}) point (?:{_WORD})\b|\b(?:zero|nought|decimal) point\b|\bpoint (?:{_BY_POINT})\b",
            rf"\b(?:{_ABOVE_ONE}) and a (?:half|quarter)(?! {_SPAN})",
        ),
    ),
)

_RATED = r"(?:score|rating|value|number|mark|label|grade|judge?ment|assessment)"
_GIVEN = r"(?:told|gave|given|provided|asked|instructed|supplied|assigned)"

#: The task, the hidden score or the raters.
INSTRUCTIONS = _any(
    r"\b(?:i|we) (?:was|have been|had been|'ve been) (?:told|informed|instructed)\b",
    r"\b(?:i|we) (?:was|were|am|are|have been|had been|'ve been|'m) (?:given|asked|provided|supplied|required|shown)"
    rf"(?: [a-z]+){{0,5}} {_RATED}\b",
    rf"\b(?:you|they|the user|the task|the system)(?:'ve| have| has|'d| had)? {_GIVEN} (?:me |us )?"
    r"(?:(?:a|an|the|this|that|to|high|low) )*"
    rf"{_RATED}\b",
    r"\bthe (?:user|task|system|assignment) (?:says|states|requires|expects|wants)\b",
    rf"\bas {_GIVEN} (?:by|in the (?:prompt|task|instructions?)|to me|earlier|here)\b|\bas (?:instructed|requested|told)\b",
    r"\bas (?:i|we) (?:was|were|have been) (?:told|asked|instructed)\b",
    rf"\bthe target (?:{_RATED}|is|was|says|being|lies|sits)\b",
    r"\bsuch an? (?:very )?(?:low|high|modest|poor|good|middling|generous|harsh) (?:number|figure|value|mark|verdict)\b",
    r"\bthumbs[ -](?:up|down)\b|\b(?:crowd|public|audience|voters|viewers) (?:gave|voted|rated|liked|preferred|put|placed)\b",
    r"\bthe (?:provided|given|private|hidden|secret|known|supplied|assigned|target|reference) "
    r"(?:aesthetic |quality |beauty )?(?:value|number|mark|label|grade|figure|level|judge?ment|assessment|evaluation|verdict"
    r"|annotation|opinion)\b",
    r"\b(?:private|hidden|secret|true|actual|real|correct|human|reference|gold) (?:aesthetic )?"
    r"(?:score|rating|label|grade|annotation)s?\b",
    r"\bground[ -]truth\b|\b(?:mean|average) (?:opinion|vote|human)\b|\bmos\b",
    r"\b(?:the|this|my|your) (?:prompt|instructions?|annotations?|annotators?|(?:human )?raters?)\b",
    r"\b(?:the|this) label (?:says|is|given|of|indicates|suggests)\b",
    r"\b(?:raters?|annotators?|voters?|evaluators?|votes)\b|\b(?:its|the|contest|human|most) judges\b",
    r"\b(?:crowd|panel|jury|public|audience|community)(?:'s|s')? (?:verdict|consensus|judge?ment|opinion|average|mean|view)\b"
    r"|\bconsensus of\b|\bthe (?:average|mean) (?:of|is|was|rating|vote|viewer)\b|\baverage of \d",
    r"\b(?:was|were|is|are|been|be|being|got|gets) (?:[a-z]+ ){0,2}(?:scored|ranked|rated|graded)\b",
    r"\b(?:my|the) (?:guidelines?|instructions?|task|prompt) (?:requires?|says?|demands?|asks?|tells?|wants?)\b|\bmetadata\b",
    r"\b(?:quality|aesthetic|beauty) (?:value|number|figure|index)\b|\b(?:figure|number|value) (?:that )?(?:i"
    r"|we) (?:was|were) \w+\b",
)

_WEIGHS = (
    r"\b(?:justif|explain|warrant|support|account|reflect|match|align|consistent|correspond|deserv|lower|rais"
    r"|drag|pull|cost|lift)"
    r"[a-z]*"
)

#: A score that exists: named, weighed, justified or guessed.
NAMED = _any(
    r"\b(?:a|an|the|its|this|that|my|our|your|their|his|her|overall|final|total|average|mean|aesthetic|quality"
    r"|beauty|high|higher"
    r"|low|lower|middling|moderate|modest|top|perfect|full|maximum|decent|good|poor|strong|weak|fair|respectable|generous|such"
    r"|assigned|numerical|numeric|image's|photo's|picture's) (?:[a-z-]+ )?(?:scores?|ratings?)\b",
    r"\b(?:score|rating|scores|ratings|scored|rated) ?(?:[:=]|(?:of|at|is|was|as|reflects?|deserved|justified"
    r"|between|around|above"
    r"|below|near|would|should|could|falls?|fits?|high|low|so)\b)",
    rf"{_WEIGHS} (?:[a-z]+ ){{0,4}}(?:score|rating|grade|marks?)\b(?! (?:on|in|of) the (?:wood|surface|wall|paper))",
    r"\b(?:i|we|i'd|i'll|we'd|would|could|should|must|can|will)(?: [a-z]+)? (?:rate|score)\b",
    r"\b(?:rate|rates|rated|graded) (?:it|this|highly|lowly|poorly|well|among|above|below|near|somewhere"
    r"|(?:the )?(?:image|photo|photograph|picture|shot))\b",
    rf"\b(?:scores|scored|scoring) (?:it|this|highly|lowly|poorly|well|above|below|near|somewhere|in the|around|{_N})\b",
    rf"\bmarks? of {_N}\b",
    r"\b(?:full|top|high|low|bonus|extra) marks\b|\b(?:is|are|was) (?:highly|poorly|well|lowly) (?:rated|scored|ranked)\b",
    r"\b(?:numerical|numeric) (?:value|assessment|evaluation|judge?ment|terms)\b",
)
