"""Harmless: numbers and words of rating that reveal no score, which are blanked before the search.

- The rules apply in their order; what one finds becomes as many `Q`.
- They hold the numbers of photography, shares of the image, counts of things, and words of rating
  in another sense: a musical score, a point of light, a color grade.
"""

from __future__ import annotations

import re

from rapo.aescot.leaks.grammar import rule

HARMLESS: tuple[re.Pattern[str], ...] = tuple(
    rule(pattern)
    for pattern in (
        # Times, ratios, dates, apertures, shutter times, sizes, quantities with a unit.
        r"<digit> : <digit>(?: : <digit>)?",
        r"<num> (?:/|-) <num> (?:/|-) (?:<num>|Nx)",
        r"f(?: -)?(?: /| stop| :| number)?(?: of| at)? (?:<digit>)",
        r"(?:aperture|apertures|stopped|wide open|diaphragm) ~3<num>",
        r"(?:at|to) Na(?= (?:the|,|and|with|for))",
        r"Ni / (?:<num>|Nx|Q)(?! (?:STAR|POINT|SCORE|MARKS))",
        r"<num> / (?:N[xbi]|Q)",
        r"(?:<num>|Nx) (?:x|by) (?:<num>|Nx)(?: (?:x|by) (?:<num>|Nx))?",
        r"(?:<val>|Nx)(?: -)? <unit>(?: -)?(?: old)?",
        r"(?:iso|iso speed|speed|focal length|length|asa|no|page|chapter|route|gate|room|bus|house|platform"
        r"|track|size|version|mark|mk|zone|bib|number \.|\$|£|€|#|@|lane|tram|line|exhibit|plate|pier|hole"
        r"|door|jersey|shirt|locker|seat|row|aged?|turns|turned|turning|iphone|nikon|canon|sony|fuji|fujifilm"
        r"|leica|lens|circa|since|portra|ektar|tri|hp|velvia|channel|apollo|boeing|highway|cabin"
        r"|stage) (?:- )?(?:[.:] )?(?:<num>|Nx)",
        r"FIGURE <num>(?! (?:would|should|IT))",
        r"(?:clock|watch|hands|dial) ~4<num>(?: (?:to|past) <num>)?",
        r"(?:PART|minutes?) (?:past|to|before|after) <num>",
        r"(?:at|by|around|past|about|after|before|until|till|nearly|almost) <num> (?:in the|on a"
        r"|at) ~1(?:morning|afternoon|evening|night|day|summer|winter|noon)",
        # Shares of the image.
        r"<num> / <num>(?= of (?:the|its|a) ~1<area>)",
        r"<val>(?: -)? (?:PART|TENTHS)(?= (?:of (?:the|its|this|a|an|his|her|their) ~2<area>|of (?:a"
        r"|the) (?:second|stop|degree)|down|in from|across|up the|from the|sky|water|of the way (?:across|in"
        r"|up|down|from|along)(?! <the> ~1SCALE)))",
        r"<val> PCT(?= (?:of (?:the|its|this|a|an) ~2<area>|crop|gr[ae]y|opacity|larger|smaller|brighter"
        r"|darker|more|less|zoom))",
        r"<val> (?:out of|in|of) <num>(?!<free>)(?= [a-z]{3,})",
        r"(?:nine|<num>) times (?:out of|in) <num>",
        # Counts of things, and words for things that were counted before.
        r"<val> - ORD(?! of <num>)",
        r"<val>(?: -)?(?!<free>)(?= (?!STAR|POINT|MARKS|PCT|SCALE|PART|TENTHS|territory|range|area|bracket"
        r"|zone|region|ish|plus|minus|tenths|possible|available|attainable)[a-z]{2,} )",
        r"(?<!of )(?<!in )<val>(?= (?:IMAGES?|PEOPLE|FIRST|ORD|<pos>|LOSE|PLACED|FIGURE|TOLD) )",
        r"<num> of (?:the|them|these|those|its|his|her|their|which|whom|my|our|us|IT)(?! (?:MARKS|maximum|max"
        r"|full|<pos>|possible|available|SET|<num> (?:possible|available|attainable)|<num> (?:GRADE|MARKS"
        r"|STAR|POINT)))",
        r"(?:the|these|those|all|both|his|her|its|their|other|only|FIRST|every|another|each|any"
        r"|these) <word>(?! (?:MARKS?|STAR|POINT|SCALE|PCT|out|range|area|territory|bracket|zone|region|/|-"
        r"|IT|LAND|i))",
        r"(?:in|into|by|(?<!LAND )with|(?<!out )(?<!ORD )of) <word>(?= [.,;!?)])",
        r"<word> by <word>",
        # Words of rating in another sense.
        r"<music> ~8SCORES?(?! (?:of|for) (?:IT|the IMAGE))|SCORES? (?!(?:of|for) (?:IT|the IMAGE))~8<music>"
        r"|<sport> ~8SCORES?|SCORES? ~8<sport>|SCORES? ~5<craft>"
        r"|<craft> (?:is|are|was|were) SCORE",
        r"SCORES of (?!<num>)[a-z]+|a SCORE of [a-z]{3,}s",
        r"(?:tonal|tone|gr[ae]y|colou?r|sense of|human|small|<pos>|large|grand|epic|fish|bathroom"
        r"|kitchen) SCALE|SCALE of (?:the|its|a|this|<craft>)",
        r"SCORE(?!<free>) [a-z]{3,}s (?:by|for their|on their)",
        r"(?:the|a) RANK (?:grass|smell|weeds?)",
        r"(?:iso|under|over|x|r|pg|top|energy|speed)(?: -)? SCORE",
        r"(?:frame|heart|shutter|burst|bit|sample|flash|sync|interest|exchange|growth|crime|refresh|FIRST|ORD"
        r"|<pos>|any|IT|uneven|steady|slow|fast|same)(?: -)? RATE(?! (?:IT|the IMAGE|highly|well|low))",
        r"<tint> ~3GRADE|(?<!passing )(?<!failing )GRADE ~5<tint>|(?:up|high|down)(?: -)? GRADE",
        r"GRADE of (?:the|IT|a) ~1(?:road|slope|paper|hill|track|street|ramp|path)",
        r"VOTE (?:- )?(?:box|boxes|papers?|slips?|booths?|cards?)",
        r"VOTE ~3(?:queues?|lines?|waits?|waiting|queu(?:e|ing)|polling|outside|school)|(?:queue|line|row) of VOTE",
        r"(?:ladder|flight) of <num> (?:steps|rungs)(?= (?:leads|leans|up|down|in|on|against|climbs))",
        r"(?:light|highlights?|shadows?|foot|feet|boots?|hands?) (?:on|in|across|under) the (?:<pos> )?TIER",
        r"(?:the|a|<num>) (?:~1)RATER LAND (?:behind|beside|around|round|in(?= [.,;]))|RATER (?:service|duty|box)",
        r"RANK behind(?= [.,;])|RANK of|(?:serried|dense|close|of) RANK",
        r"POINTS? of (?:view|light|interest|focus|contact|departure|entry|rest|red|colou?r)|POINTS? (?:of"
        r"|where|to|at)",
        r"(?:vanishing|focal|view|strong|<pos>|key|weak|turning|selling|starting|anchor|entry|main|standpoint"
        r"|needle|pin|no|JUDGES)(?: -)? POINT(?! <num>)",
        r"<sky> ~8STAR|(?:<val>(?: -)? )?STAR ~6<sky>",
        r"a (?:(?!<num> )[a-z]+ )?plus(?= [.,;:])",
        r"(?:in the|the) FIRST place|ORD place to|the FIRST place",
    )
)
