"""Allusion rules: what speaks of a score, a level or a result as of something known, without a
number and without a word of rating.

- A noun that may stand for a score counts by what is said of it: that the image was given it, that
  it is deserved, that the critique agrees with it.
- They search what `rapo.aescot.leaks.harmless` left of a text, as `rapo.aescot.leaks.rules` do.
"""

from __future__ import annotations

import re

from rapo.aescot.leaks.grammar import rule

#: Kind and rule of each allusion, in the order of the search.
ALLUSIONS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, rule(pattern))
    for kind, patterns in {
        "a result that is known": (
            # What the image was given.
            r"(?:<result>|label|placing|placement) (?:(?:that|which) )?(?:IT|the IMAGE) (?:~1)(?:(?:was|has been"
            r"|had been|is|has|had|got) )?(?:<near> )?(?:GIVEN|SHOWN|AWARD|garnered|drew|attracted|carries|bears)",
            r"<result> (?:that|which) (?:was|has been|had been|were) (?:GIVEN|SHOWN|AWARD|TOLD|set|attached)",
            r"(?:<result>|standing) (?:specified|stipulated|designated|prescribed|reported|supplied|attached"
            r"|accompanying|associated|recorded)(?= (?:for|to|with|in|here|along|by|IT|the))",
            r"the (?:GIVEN|allotted|allocated) (?:one|QUALITY|<result>)(?! (?:of|on|in) the)",
            # Whether it is deserved.
            r"(?:<low> (?:- )?)+(?:<result>|reception|standing|placement|placing) (?<!result )(?!of )~3<just>",
            r"(?:the|its|IT|that|such a) (?:~1)MARKS? (?:is|was|seems|feels|looks|appears|would be) ~2<just>",
            r"(?:the|its|IT|that) (?:final |overall |average |mean )?(?:VERDICT|placement|placing|MARKS?"
            r"|result) (?:is|was|seems|feels|looks|appears) ~2(?:deserved|warranted|justified|merited|earned"
            r"|understandable|no surprise|hardly surprising)",
            r"<just> (?:is|was|are|were) (?:the|its|such a|IT) ~1(?:<low> )+(?:<result>|reception|standing|placement)",
            # What the critique agrees with, or makes of it.
            r"<cites> (?:the|its|IT|such a|a|so|that|how) (?:(?:<low>|very|rather|GIVEN|SHOWN|overall|final|IMAGE"
            r"|'s|-|,) ){1,4}(?:<result>|reception|standing|placement|placing|outcome|label)(?! (?:of (?!the"
            r" IMAGE|IT)|on|in the))",
            r"<cites> (?:the|its|their|that|IT) (?:<secret>|reference|mean|NORM|average) ~1(?:<result>|standing"
            r"|placement|label)(?! of)",
            r"(?:expected|guessed|guess|expect|predicted|predict|imagined|hoped for|suspect) ~2(?:<low> )+<result>(?! of)",
            r"(?:i|i 'd|we|one|would) ~2(?:settle|settled|opt|opted|LAND|arrived|aim) (?:on|for|at|with|upon) ~2"
            r"(?:<low> )*(?:FIGURE|MARKS?|GRADE|level)(?= (?:because|[.,;:]|here|for|since|as|GIVEN|overall|that))",
            r"(?:expected|desired|correct|target|required|intended) (?:answer|response|output|conclusion"
            r"|outcome) (?:is|was|says|being|must|has)",
            r"as (?:numbers|FIGURE|MARKS|GRADE|results) LAND|numbers (?:behind (?:IT|the IMAGE)|say|suggest|tell"
            r"|agree|bear|support|indicate|confirm|do not|speak|back)",
            r"(?:values?|FIGURE|MARKS?|numbers|results?|level) (?:as|so|quite so|quite as|IT|that) (?:high|low|<low>)"
            r"(?= (?:as|[.,;]|for|is|are|was|were))",
            r"(?:reasonable|sensible|honest|right|apt|fitting|suitable|proper) MARKS?(?= (?:for|here|[.,;]))",
            r"(?:IT|IMAGE) ~1(?:finish|finished|ended|LAND|PLACED) ~1(?:so|that) (?:far|high|low|POS) ?(?:up|down)?"
            r"(?= (?:is|was|[.,;]))",
            r"VERDICT of (?:<near> )*(?:<num>|PART)(?! of (?:the|its) ~1<area>)|VERDICT (?:from|by) (?:the )?PEOPLE",
            r"<result> in the <pos> (?:PART|ORD|TIER)(?= [.,;])|the label (?:of|for) (?:IT|the IMAGE)",
            r"typical IMAGE (?:in|of|from) <the> PILE|average that ~2IMAGES"
            r"|(?:place|position|placing) ~2(?:above|below|beyond) the (?:halfway|middle|half|midway)",
            r"what an? (?:N[std]|W[stb])(?: <half>)? (?:looks|feels|sounds|means)",
            r"<low>(?: -)? (?:to - |to )?(?:(?:range|<pos>|middling|average|table|par|pack) )(?:FIGURE|MARKS?|GRADE"
            r"|VERDICT|result|placement|outcome|standing)(?! (?:of|in|on))",
        ),
        "a place on a scale": (
            r"(?:<pos>|middle|centre|center|NORM|PART|tail|end|peak|edge|hump|bulk) of (?:the|a|its) (?:bell )?(?:distribution"
            r"|curve|bell curve|histogram of)(?! of)(?= (?:[.,;]|for|among|here|in|because))",
            r"(?:QUALITY|satisfaction|appeal|liking|preference) (?:SCALE|index|metric|meter|gauge|continuum)",
            r"(?:ceiling|floor|end|summit|foot|POINT|MARK|top) of (?:the|a|any|my|its) ~1(?:SCALE|range(?! of))",
            r"<num>(?: -)? (?:to |and |through )?(?:- )?<num>(?: -)? (?:SCALE|system)|SCALE (?:used|employed|applied|in use)",
            r"(?:IT|IMAGE|QUALITY|VERDICT|FIGURE|MARK|i) ~3(?:LAND|PLACED|place|put) ~4the (?:<pos>|middle|far|better"
            r"|generous|positive|favou?rable|negative) (?:end|side|reaches|PART|region)(?= (?:[.,;]|of (?:what|the"
            r" (?:range|SCALE|SET|PILE))))",
            r"somewhere (?:<near> ){1,3}(?:a )?<num><free>|(?:i|'d|'ll|'m|to|we) ~1LAND (?:with|for) (?:a )?[NW][stb]<free>",
            r"VERDICT (?:is|was|would be|:) ~1(?:[NW][stb]|Nd)<free>|the target (?:of|:) ~1<num>",
            r"(?:category|bin|bucket|class|level|TIER|group) <num> (?:of|out of) <num>|LAND ~2in (?:category|bin|bucket) <num>",
            r"PART of what (?:is|was|would be|could be) (?:possible|achievable|available|attainable)|QUALITY ~1at ~2<val> PART",
            r"(?:result|finish|outcome|place|showing) in (?:any|the|a|this|its) ~1SET|MARKS (?:was|were|are) ~1LOSE",
            r"<result> ,? ?(?:that |which )?i (?:know|knew|was GIVEN|am GIVEN|was SHOWN|was TOLD)",
            r"normali[sz]ed (?:~1)(?:between|to|from|FIGURE|VERDICT|QUALITY|value)",
            r"<quality> - to - <quality>|(?:<quality>|<low>) (?:- )?(?:territory|TIER|bracket)(?! of)",
            r"(?:MARKS?|FIGURE|VERDICT|GRADE|result|total) ,? ?(?:~1)(?:in|of|around|near|at|to|into|from) the (?:(?:very"
            r"|<pos>|middle|JUDGES) ){0,2}(?:- )?W[pq]",
            r"(?:in|on|as) (?:a )?PCT (?:terms|points|basis)|RATE ~3<val> PCT|(?:say|call IT|LAND) ~2<val> PCT<free>|<num> - odd"
            r"(?= [.,;])"
            r"|<num> - something(?= (?:PCT|[.,;]|out))",
            r"W[stb] (?:would|might|could|seems?|is|feels|sounds|looks) (?:be |have been )?(?:(?:too|a"
            r"|bit|little|rather|overly|about|just|slightly|not|far) ){0,3}(?:JUDGES|harsh|kind|stingy|lenient"
            r"|fair|right|excessive|flattering|too much|apt)",
            r"(?:AWARD|LOSE) ~5<many> (?:POINT|MARKS)|FIGURE (?:of|near|around|at|about) ~2Nd",
            r"IMAGES ~6(?:AWARD|LAND|fared|fare|did|do|achieved) ~1<pos> ?(?:result|FIGURE|MARKS?|VERDICT|outcome)",
            r"(?:standing|place|position|placement|placing|level|result) ~1(?:among|amongst|within|relative to"
            r"|against|alongside) ~2(?:SET|other IMAGES|similar IMAGES|the others)",
            r"(?:compared|relative|next|measured|comparison) (?:to|with|against) (?:the |its |an |other )~1(?:average|NORM"
            r"|typical|SET)(?= (?:IMAGES?|of|[.,;]|in))",
        ),
        "people who judged": (
            r"(?:people|those|PEOPLE|viewers|everyone) (?:surveyed|polled|questioned|consulted|sampled|TOLD(?= [.,;w]))"
            r"|(?:PART|PCT|many|most|half|some|few|<num>|majority) of the PEOPLE TOLD",
            r"(?:those|PEOPLE|people|most|many|some|few|half|others) (?:who|that) (?:have |had |were |was |got |TOLD |to"
            r" ){0,3}(?:judged?|assessed|assess|evaluated|looked at (?:IT|the IMAGE)|reviewed|weighed in|responded"
            r"|PLACED|VOTE|SCORE|SCORES|RATE|RANK|GRADE|viewed (?:IT|the IMAGE)|saw (?:IT|the IMAGE))",
            r"(?:PEOPLE|opinions?|VERDICT|views|reactions) (?:was|were|is|are|seems?|seemed|appear|stood) ~1(?:divided|split"
            r"|unanimous|lukewarm|tepid|unmoved|won over|unimpressed)(?! (?:by|into|in|from|between|down))",
            r"(?:distribution|spread|range|split|variance|diversity|dispersion|division) of (?:VERDICT|opinions|views|VOTE"
            r"|responses|reactions|judge?ments|MARKS|preferences|SCORES?)",
            r"what (?:most )?(?:PEOPLE|PILE|viewers|many|most) (?:~1)(?:PLACED|OPINED|SCORE)",
            r"(?:aggregate|aggregated|combined|averaged|mean|pooled|prevailing|shared|human) (?:opinion|VERDICT|view|FIGURE"
            r"|response|preference|liking|reaction|sentiment)(?! of (?:loss|calm))",
            r"(?:lukewarm|mixed|tepid|favou?rable|unfavou?rable|positive|negative|mediocre|poor|modest|cool|warm|muted"
            r"|generous|kind|enthusiastic|low|high|JUDGES) (?:reception|approval|acclaim|turnout)"
            r"(?! (?:hall|room|desk|area|counter))",
            r"(?:viewers|PEOPLE) ~3(?:was|were) (?:not ~1)?(?:enthusiastic|impressed|convinced|persuaded|charmed|taken|kind"
            r"|JUDGES|harsh|lukewarm|indifferent|unimpressed|won over|critical|receptive)(?! (?:from|in|to|of))",
            r"(?:the|its|IMAGE 's|such|IT) popularity|(?:its|IMAGE 's) ~1(?:RANK|GRADE|VERDICT|SCORES?)",
            r"(?:warmly|coolly|kindly|poorly|badly|coldly|generously|favou?rably|unfavou?rably) AWARD"
            r"|(?:was|were|been|not|so) ~1well AWARD(?= (?:by|among|with|here|overall|[.,;]))",
            r"(?:information|data|metadata|input|hint|context) (?:i was |that was |i am )?(?:SHOWN|GIVEN|TOLD|attached)",
            r"(?:its|their|IMAGE 's) (?:average|mean|median|NORM) (?:~1)(?:LAND|is|was|came|of)",
            r"(?:human|people 's|PEOPLE ') (?:preferences?|opinions?|evaluations?|ratings?|taste|reactions?|VERDICT|VERDICTs)",
        ),
    }.items()
    for pattern in patterns
)
