"""Leak rules: a value said of the whole image, a place among others, a score that exists, the
people who gave it, or the task.

- They search what `rapo.aescot.leaks.harmless` left of a text.
"""

from __future__ import annotations

import re

from rapo.aescot.leaks.grammar import rule

#: Kinds of leaks that may be part of the image: voters, marks and a musical score can be seen in
#: one. What names a scale is a leak however its sentence is worded.
SEEN = frozenset({"people who rate", "words of rating", "points", "marks"})
#: Kind and rule of each leak, in the order of the search.
LEAKS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, rule(pattern))
    for kind, patterns in {
        "a fraction of a scale": (
            r"<val> / <ten>(?! (?:/|of (?:the|its) <area>))",
            r"<val> (?:(?:STAR|POINT|MARKS?|full|whole) ){0,2}(?:out of|over|upon|from) (?:(?:a|the|all"
            r"|possible|PERFECT|total|of|max|maximum) )*<ten><free>",
            r"<val> (?:(?:STAR|POINT|MARKS?) )?out of (?:(?:a|possible|the|total|of) )*<num><free>",
            r"<many> of (?:(?:a|possible|PERFECT|total|of) )*<ten><free>",
            r"Wr (?:/|of|out of) (?:v|x|<ten>)|[ivx] (?:/|out of) x",
            r"(?:<num>|Q) (?:[a-z]+ ){1,2}out of <num>(?= [.,;])",
            r"(?:<val>(?: -)? PART|(?:Wi|a) ORD) of (?:the |all )?(?:available |possible |attainable )?POINT"
            r"|<many> of the <num> (?:available|possible|attainable)|(?:PART|TENTHS) of the way(?= [.,;])",
            r"out of (?:(?:a|the|possible|PERFECT|maximum|total|of) )+<num><free>",
            r"<many>(?: -)? TENTHS",
            r"<val>(?: -)? PART of (?:the )?(?:MARKS|maximum|max|full|<pos>|possible|total|credit|way (?:to"
            r"|up|there))",
        ),
        "a scale": (
            r"<val>(?: -)? POINT(?: -)? (?:SCALE|likert|system)",
            r"SCALE (?:of|from|between|running|going|that|where|with|whose|IT) ~3(?:<num>|Q|<pos>|i to|x)",
            r"(?:on|along|up|down|by|using) (?:the|any|my|our|IT|that) ~2SCALE(?= (?:[.,;!?]|of (?:<num>"
            r"|quality|merit|beauty)|for))",
            r"(?:<pos>|middle|half|halfway|midway|end|PART|TIER|centre|center|NORM|POINT) (?:- )?(?:~3)?(?:of"
            r"|up|down|along|on) <the> (?:~1SCALE|range(?! of))",
            r"<many> (?:- )?(?:-|to|or|and|through) (?:- )?<many> (?:- )?(?:range|region|bracket|territory|area|zone"
            r"|band)(?! of (?:the|its) <area>)",
            r"(?:<pos>|mid|low|high)(?: -)? Wp",
            r"(?:JUDGES|straight|all|between|of|many|two|in the|AWARD|LAND) ~1Wp (?:across|all|and|for|from"
            r"|would|,|\.)",
            r"(?<!his )(?<!her )(?<!their )(?:SCORE|IT|IMAGE|FIGURE) (?:would )?(?:LAND|is) (?:~1)(?:in|to"
            r"|into) the (?:<pos>|mid)(?: -)? Wq",
            r"(?:double|single|triple)(?: -)? FIGURE",
            r"(?:N[istd]|W[istb]) (?:is|was|were|being|means|meaning|stands for|standing for|represents"
            r"|=) (?:the |a |an )?(?:absolute |sheer |total |complete |utter )?(?:<best>|failure|disaster"
            r"|hopeless|terrible)",
            r"likert|BEST (?:IMAGE|of the|[a-z]+ly) ~8BEST(?! (?:of|density))"
            r"|from (?:the )?BEST to (?:the )?BEST|if ~5(?:is|was|were|be|means) (?:the |a )?(?:PERFECT"
            r"|perfection|flawless|failure)|if the BEST ~5(?:is|was|were)",
            r"(?:needle|pointer|finger|slider) (?:on|of) my|(?:between|from) <num> (?:and|to) <ten><free>"
            r"|integers?|whole number",
            r"(?:tick|cross|check|dot) (?:between|against|beside|next to|under|in the) (?:\"|the|<pos>)"
            r"|between \" (?:very )?<quality>",
            r"(?:<quality> (?:, |and |or |through |to |\" )+){2,}<quality>|POS , medium",
            r"(?:IT|i|i 'd|would|should) ~5(?:LAND|set|lay|AWARD|point|points) ~3(?:needle|hour hand|finger"
            r"|slider|pointer|dial|cursor|gauge)",
            r"(?:limit|threshold|cutoff|minimum|maximum|bar) (?:is|was|of|at|being) (?:at )?<many>|(?:fall"
            r"|falls|fell|short) (?:short )?by <num>",
        ),
        "stars": (
            r"(?:<val>|<num>)(?: -)? (?:(?:full|whole|gold|golden|JUDGES|out) )?(?:- )?STAR",
            r"(?:PART|extra|another|missing|full|final|last)(?: a| -)? STAR(?: (?:more|less|off|short|,|\.))?",
            r"STAR SCORE|STAR out of",
            r"[★☆⭐🌟✩✪⭑👍👎💯🥇🥈🥉🏆🎖🏅]|(?:[●○■□◆◇▮▯▰▱◉◎⚫⚪⬛⬜🟩🟨🟢🔴*] ){2,}[●○■□◆◇▮▯▰▱◉◎⚫⚪⬛⬜🟩🟨🟢🔴*]",
        ),
        "points": (
            r"(?:AWARD|LOSE|total of|SCORES?) ~3(?:<val>|a few|some|several|full|all|PART a|a|an|extra|bonus"
            r"|brownie|many|no|more|any|top) ~1POINT",
            r"(?:<val>|Wt) POINT (?:from|for|in total|off|less|short|deducted|more|higher|lower|over|under"
            r"|beyond|<pos>|above|below|overall|at|LOSE|out|to IT)",
            r"IT ~2LAND ~2<val> POINT|(?:N[tbd]|W[tb]) POINT(?! of (?:the|its|light|red))",
            r"LOSE POINT(?= (?:for|because|on|in|here|[.,;]))|(?:most|some|many|all) (?:of the )?POINT LOSE",
            r"(?:fewer|more|most|least|fewest|no) (?:POINT|MARKS)(?! of)|(?:available|possible"
            r"|attainable) POINT",
            r"[.!?] <many> POINT(?= [.,;!])|PART a MARK",
            r"PART(?: a| -) POINT (?:off|less|more|short|deducted|LOSE|from|for|<pos>|,|\.)",
            r"(?:extra|bonus|brownie|full|maximum|top|half) POINTS?(?! of)|(?:another|further) PART(?: a| -)? POINT",
        ),
        "marks": (
            r"(?:full|<pos>|bonus|extra|PART|half|maximum|PERFECT|zero|straight|JUDGES|pass|passing"
            r"|decent) (?:MARKS|credit)",
            r"(?:pass|passing|middling|JUDGES|full|<pos>|generous) MARK(?! (?:on|in|of (?:the|its)|left"
            r"|along))(?<!water MARK)",
            r"MARKS? (?:of|out of|above|below|near|between) (?:about |around |roughly |nearly )?<num>"
            r"|<num>(?: -)? MARK",
            r"(?:AWARD|LOSE|RATER|PEOPLE|<secret>) ~3MARKS?(?! (?:on|in|of the))",
            r"MARKS? (?:IT|the IMAGE|IMAGE)(?: ~2)?(?: down| up)?|MARK (?:down|up) (?:for|by|because)",
            r"MARKS (?:for|off|lost|deducted)",
        ),
        "a grade": (
            r"(?:a|an|JUDGES|<pos>|AWARD|GRADE|of|:|IT|LAND|mid|good|full) (?:(?<=an )a"
            r"|(?<=S )a)(?: -)? (?:plus|minus)|[b-f](?: -)? (?:plus|minus)|[a-f] \+(?! (?:N|Q|w))|(?:a|an"
            r"|JUDGES|<pos>|GRADE|IT) [a-f] -(?= (?:[.,;!?)]|for|from|at|overall|in|on|because|and))",
            r"(?:an?|JUDGES|GRADE|AWARD|mere|bare|good|straight) [a-f](?= (?:[.,;!?]|for|from|at|in my"
            r"|overall|or|here|to me|student|grade|GRADE) )",
            r"(?:letter|passing|failing|assigned|school|<pos>|such a|final|JUDGES|no|overall|good|poor"
            r"|any) GRADE",
            r"(?:the|its|a|my|IT|that|<secret>) GRADE(?= (?:of|is|was|would|should|reflects?|IT|here|[.,;:!?]"
            r"|for|seems|feels|that|given|GIVEN|i) )",
            r"(?:i|is|was|were|be|been|being|would|could|to|i'd) ~1GRADE (?:IT|the|IMAGE|as|a|an|at|highly"
            r"|<many>|[a-f])|GRADE (?:of|:|-|at) (?:[a-f]|<num>|a)",
            r"a for|(?:enough for|AWARD|JUDGES|bare|narrow|merits) (?:a |an )?pass(?= [.,;])",
            r"[a-f](?: -)? GRADE|scrape[sd]? (?:a pass|through)",
            r"GRADE [a-z](?= [.,;:!?)])|<num> (?:GRADE|TIER|MARKS)(?! of (?:the|a))|(?:in|of) (?:our|its"
            r"|the) <num> (?:GRADE|TIER|classes|categories)",
            r"an? (?:upper|lower|POS) ORD (?:,|comfortably|class|at|degree)|FIRST PILE (?:with|honou?rs|degree)",
            r"(?:pass|passes|passed) with (?:distinction|merit|honou?rs|QUALITY)",
        ),
        "a percentage": (
            r"<val> PCT (?:for|approval|success|SCORE|satisf\w+|PERFECT|as good|there|agree\w*|positive"
            r"|in favou?r|of (?:the )?(?:MARKS|maximum|max|PERFECT|PEOPLE|RATER|VOTE|way|possible|IMAGES|SET"
            r"|what|respondents|ideal|its potential)|LAND|,? ?(?:seems|sounds|feels|would|overall))",
            r"(?:<pos>|better than|worse than|beats|ahead of|FIRST|top|<gives>|outdoes|surpasses|exceeds"
            r"|than) ~4<val> PCT(?! (?:of (?:the|its) ~1<area>|<pos>|gr[ae]y))",
            r"(?:QUALITY|success|appeal|approval|IT) (?:is|at|of|:|LAND) ~3<val> PCT(?! of (?:the"
            r"|its) ~1<area>)",
            r"(?:[.!?] )(?:~2)?<val> PCT<free>|(?:IT|i 'd|i would) ~1LAND ~2<val> PCT(?= [.,;!?])",
        ),
        "a place among others": (
            r"TILE",
            r"(?:the )?<pos> <many><free>|(?:<pos>|middle|ORD|next) TIER(?! of)",
            r"ORD (?:- )?BEST(?= (?:of|in|among|GRADE|MARK|to))|in the BEST (?:ORD|PART|TIER)(?= [.,;])",
            r"(?:ORD|FIRST|last) place (?:among|from|behind|in|of)|(?:list|table) of results|results list",
            r"(?:all|other|IMAGES|the|every) (?:~1)(?:SET) (?:IMAGES?)|IMAGES SET|NORM of (?:all|the other"
            r"|the) ~1IMAGES",
            r"(?:beat|beats|outdo\w*|surpass\w*|outclass\w*|(?:lie|lies|lay|LAND) behind) (?:IT|the IMAGE)",
            r"(?:AWARD|LAND|worth|home with|won|win|wins) (?:a |the )?(?:gold|silver|bronze)(?= (?:medal|at"
            r"|rather|not|place|in|for|of|[.,;]))",
            r"[.!?] (?:a |the )?(?:gold|silver|bronze)(?: medal)?(?= (?:at|rather|not|for|went|goes))",
            r"<val>(?: -)? PART of (?:~2)IMAGES|(?:PART|PCT|<num>|most|Q) ~9POS than IT(?= (?:and|[.,;]|Wi))"
            r"|ORD of <num><free>|ORD in QUALITY|order of QUALITY",
            r"IMAGES? at random|randomly (?:selected|chosen|picked)|(?:within|in) the POS (?:PILE"
            r"|TIER)(?= [.,;])|[.!?] <pos> (?:PART|ORD|TIER) of the PILE",
            r"max\w* (?:IT |the SCALE )?out|<num> (?:in|out of) (?:every )?<num> IMAGES",
            r"(?:long|short)list(?:ed)?",
            r"(?:near|close to|short of|shy of|below|LAND|AWARD) (?:the |a )?(?:maximum|max)(?= [.,;])",
            r"(?:z|t) - SCORE|standard (?:deviations?|POINT)|sigma (?:above|below)",
            r"RANK in|RANK (?:~1)(?:ORD|FIRST|<num>|<pos>|highly|above|below|near|among|well|poorly|somewhere"
            r"|ahead|behind|IT|alongside|with|close|towards?|at|FIGURE|it|just|comfortably|as one)",
            r"(?:the|its|a|IT|final|<secret>|is|was|were|been|be) (?:~1)RANK",
            r"(?:<pos>|PART|TIER|ORD|FIRST) (?:~2)of (?:<the> )?(?:~1)SET",
            r"(?:(?:IT|IMAGE) ~3(?:LAND|is|was|AWARD)|AWARD|RATER|(?:PLACED|LAND) IT) ~4(?:<pos>|PART|TIER"
            r"|ORD|FIRST|middle|front|back|rear|head|tail) (?:~2)(?:of|in) (?:<the> )?(?:~1)(?:PILE|SET"
            r"|IMAGES)(?! of (?:the|its))",
            r"(?:better|worse|stronger|weaker|<pos>|stronger|more appealing|beats|outdoes|ahead of|above"
            r"|below|behind|beneath|outshines|surpasses|tops) (?:than )?(?:most|many|<val> PCT|<val> (?:in"
            r"|out of) <num>|nine|<val>(?: -)? PART|PART|almost all|nearly all|three|four|all but"
            r"|the majority|the bulk) ~3(?:IMAGES|SET|PILE|here|rivals|peers|competitors|entrants|like IT"
            r"|of its kind|of them|others)",
            r"(?:among|one of) the (?:<pos>|strong\w+|weak\w+|top|poor\w+|fin\w+) (?:~2)(?:of"
            r"|in) (?:<the> )?(?:~1)(?:SET|PILE)",
            r"(?:IT|the IMAGE) (?:~1)(?:finish\w*|PLACED|LAND|came|comes|ended) (?:~1)(?:ORD|FIRST)(?= (?:in"
            r"|of|out|among|overall|place|[.,;]))",
            r"(?:IT|IMAGE) (?:~5)(?:win|wins|won|AWARD|take|takes|took|claim|claims|deserve|ORD|LAND|miss"
            r"|misses|missed) (?:~4)(?:prize|ribbon|medal|trophy|podium|SET|runner - up|honou?rable mention"
            r"|shortlist)",
            r"(?:LAND|AWARD|take|takes|RANK|worth|for|in|:|win|wins|won) (?:a |an )?ORD (?:place|prize)",
            r"(?:runner - up|honou?rable mention|SET (?:winner|entry|judges?)|winner of (?:the|our|this) ~1SET|leaderboard)",
        ),
        "an average": (
            r"(?:above|below|beyond|under|over|beneath|near|around|at|exceeds?|tops|beats|short of"
            r"|better than|worse than) (?:the |its |IT |a |<pos> )?~2(?:average|the NORM|its NORM)(?! (?:out"
            r"|of|[a-z]+ )?(?:IMAGE|IMAGES|[a-z]{5,}) )",
            r"(?:above|below|over|under|beyond|beneath|exceeds?) the ~2NORM(?! of (?:the|its) ~1<area>)",
            r"(?:average|NORM|mean) (?:SCORES?|VOTE|opinion|VERDICT|RATER|PEOPLE|MARKS?|FIGURE)|(?:average"
            r"|NORM) (?:of|is|was|:) (?:about |around )?<num>",
            r"(?:<pos>|above|below)(?: -)? average (?:~1)(?:SCORES?|MARKS?|GRADE|VERDICT|result|FIGURE)",
            r"(?:PEOPLE|RATER|SET)(?: ')?(?: 's)? (?:average|mean|median|NORM)|their (?:average|mean|median)",
            r"(?:consensus|majority VERDICT)",
        ),
        "a number that rates": (
            r"(?:a|an) (?:<worth> |- |<pos> ){0,3}(?:W[stbr]|N[std]|Na)(?: <half>| - ish"
            r"| - POINT - Ws)?(?! - (?:STAR|POINT|ORD|by))<free>",
            r"(?:JUDGES|PERFECT|a <pos>|straight) (?:[NW][stb]|N[da])<free>",
            r"<gives> ~5N[stbda]<free>",
            r"(?:<gives>|LAND) ~2(?:(?!of )<near> ){1,2}(?:a )?(?:W[stb])(?: <half>)?<free>",
            r"(?:<gives>|say|LAND) (?:: |- |(?:IT|the) (?:IMAGE |Wi )?)?W[stb](?: <half>)?<free>",
            r"LAND ~3N[std]<free>(?! / )",
            r"<step> ~1(?:<near> ){1,3}(?:a |the )?(?:<many>|<best>|NORM|average)<free>",
            r"(?:<num>|PART a|a|PART) (?:<step> )?(?:short|shy|off|away|below|under|less|removed|down) (?:of"
            r"|from|than)? ?(?:the |a )?(?:full|maximum|max|PERFECT|ideal|<ten>|the top|top)(?= (?:[.,;!?]"
            r"|MARKS|SCORE|<ten>|POINTS?|IMAGE|of))",
            r"(?:IT|IMAGE) (?:is|was|'s|would be|becomes|remains|=|:|feels like|looks like|stays"
            r"|seems) ~2(?:N[std]|(?<!into )W[stb])(?: <half>)?<free>",
            r"(?:i|i 'd) (?:would )?(?:choose|pick|write|wrote|chose|picked) (?:N[std]|W[stb])<free>",
            r"FIGURE (?:of|is|:|=|would be|like|near|at|around) ~2(?:N[std]|W[stb])<free>",
            r"N[st] (?:, N[st] ){1,}(?:, )?and N[st]<free>",
            r"<step> ~1(?:below|under|short of|shy of|beneath|off|from|above|down from|up from) (?:the "
            r"|a )?(?:BEST|top|PERFECT|maximum|full)",
            r"between (?:a |an )?<many> and (?:a |an )?<many><free>",
            r"(?:(?<!- )(?<!\+ )[.!?:] )(?:(?:JUDGES|maybe|perhaps|about|around|roughly|say|so|just|only|call"
            r"|IT|make|LAND|nearly|almost|the|final|exactly|hence|therefore|simply|,) )*(?:a |an )?(?:N[std]"
            r"|W[stb])(?: <half>)?(?= (?:[.!;:]|(?:, )?(?:from me|for me|for IT|for the|overall|i|at a?|in my"
            r"|no|and no|maybe|perhaps)) )",
            r"(?:\(|:|=) N[std](?: \)|(?= [.,;!]))",
            r"(?<!- )(?<!speed )(?<!\+ )(?<!± )N[d](?: - ish)?<free>",
            r"(?:<word>|N.) POINT (?:W[istb])|<num> POINT something|(?:zero|nought|decimal) POINT"
            r"|POINT (?:W[stb])(?: W.)?<free>",
            r"(?:Ws|Wt|Ns|Nt) <half><free>",
            r"<many>(?: -)? (?:ish|plus|minus)<free>",
            r"(?:IT|IMAGE) (?:~4)(?:<near> )(?:[NW][stbd])(?= (?:[.,;!?]))",
        ),
        "words of rating": (
            r"SCORES?",
            r"(?:i|we|would|could|should|must|can|will|PEOPLE|RATER|they|i'd|'d|to) (?:~1)RATE",
            r"RATE (?:IT|highly|lowly|well|poorly|low|<pos>|among|above|below|near|somewhere|as a|at <num>|a"
            r"|an|<num>|the IMAGE|IMAGE)",
            r"(?:numerical|numeric)(?:ally)? (?:FIGURE|VERDICT|terms|SCALE|level)|numerically",
            r"(?:such|so) (?:a |an )?(?:very )?(?:<pos>|modest|poor|good|middling|generous|harsh|kind|mild"
            r"|steep) (?:a )?(?:FIGURE|VERDICT)",
            r"(?:put|putting|attach|attaching|assign|PLACED|LAND|AWARD|pin) ~2(?:a|an|any|the"
            r"|IT) ~1FIGURE (?:on|to|for|beside) (?:IT|the IMAGE|my)",
            r"(?:the|a|that|IT|its|<pos>) number (?:would|should|could|climbs?|rises?|drops?|LAND|i|AWARD"
            r"|attached)",
            r"(?:the|its|GIVEN|SHOWN|TOLD|assigned|true|overall) QUALITY (?:FIGURE|index|level)(?= (?:is|of"
            r"|was|:|=|GIVEN|<num>|would|seems|in|stated|supplied) )",
            r"(?:the|a) FIGURE (?:of|:|near|around|close to|in|would|should) ~1<num>",
        ),
        "people who rate": (
            r"RATER|VOTE(?! (?:booth|box|station))|judging PEOPLE|the LAND responses",
            r"(?:PEOPLE|most|many|few|fewer|others|some|half|PART|who|they|PCT) ~2OPINED(?! by)",
            r"opinions? (?:was|were|is|are) (?:divided|split|unanimous)",
            r"<val> (?:[a-z]+ )?hands|(?:in favou?r|raised) and ~3against|(?:raised|show of) hands",
            r"(?:ordered|sorted|laid out|arranged|lined up) by (?:~1)(?:QUALITY|appeal)",
            r"(?:in|out of) (?:every )?<num> PEOPLE|(?:made?|makes?|miss|missed|misses) the (?:cut|shortlist"
            r"|finals?)",
            r"my (?:sheet|form|ballot|slip|scorecard|FIGURE|tally|MARK|SCORE)(?! of)",
            r"the PEOPLE of (?:our|the) ~2(?:day|show|evening|club|exhibition)|members of the PEOPLE",
            r"(?:were|was|are|is) (?:~1)OPINED (?:POS|more|less)|to be OPINED|VERDICT in (?:STAR|POINT|MARKS)"
            r"|in (?:STAR|MARKS)(?= [.,;:])",
            r"thumbs?(?: -)? (?:up|down)",
            r"(?:its|contest|human|most|several|many|all|some|competition|SET|the) judges",
            r"(?:the|most|many|some|few|human|other|by|among|with|PEOPLE|of"
            r"|that) (?:~1)PEOPLE(?: who (?:~2))?(?: (?:[a-z]+ly|have|had|has|were|would|did|seem|seems"
            r"|to))* (?:OPINED|SCORE|RATE|RANK|GRADE|agreed?|responded|warmed) ?(?:IT|the IMAGE|IMAGE|more"
            r"|less|highly|with|on|positively|well|coldly|poorly|warmly|to|that)?",
            r"PEOPLE(?: ')?(?: 's)? FIGURE|popular\w* ~2(?:with|among) ~2PEOPLE",
            r"PEOPLE (?:was|were|is|are|seems?|seemed) ~2[a-z]+ (?:about|by|on|to|with|towards?) (?:IT"
            r"|the IMAGE)",
            r"PEOPLE did (?:~1)(?:like|love|enjoy|prefer) (?:IT|the IMAGE)",
            r"PEOPLE ~3(?:PLACED|AWARD) (?:IT|the IMAGE|IMAGE|little|much|a <worth>)",
            r"(?:PEOPLE|popular|public|critical|general|collective|aggregate)(?: ')?(?: 's)? (?:VERDICT|consensus"
            r"|reception|response|approval|VOTE|preferences?|favou?r|SCORE)",
            r"(?:well|poorly|warmly|coolly|badly|kindly|generously|coldly|highly|widely) (?:received|OPINED"
            r"|regarded|rated)(?: by)?",
            r"(?:OPINED|placed|PLACED|judged|received|regarded|appreciated) (?:~2)by (?:~2)(?:PEOPLE|those"
            r"|others|those who)",
            r"likes? count|(?:number|count) of likes|<many> likes",
        ),
        "its instructions": (
            r"i (?:'m|was|am|have been|had been|'ve been|'d been) (?:not |only |also |already |beforehand "
            r"|to be ){0,2}(?:TOLD|SHOWN|GIVEN|expected|allowed|permitted|required)",
            r"we (?:'re|'ve|were|are|have|had) (?:been )?(?:TOLD|SHOWN|GIVEN) (?:~5)(?:SCORES?|GRADE|FIGURE|VERDICT|label)",
            r"<task> (?:has |have |had |'s |'ve )?(?:ASKS|TOLD|asked|mentions?|insists?|suggests?"
            r"|implies)(?: me| us| that| for| IT| to)?(?<=\w)",
            r"(?:the|IT|my|your|these|its) (?:prompt|instructions?|guidelines|rubric|annotations?|dataset)",
            r"as (?:TOLD|requested|specified|directed)|as GIVEN (?:by|in|to|earlier|above|here)|(?:per"
            r"|following|under|with) (?:the|my|your|its|these) ~1<task>",
            r"(?:disclos\w+|divulg\w+|mention\w*|quot\w+|citing|cite|naming|name|stat(?:e|ing)|repeat\w*"
            r"|leak\w*|spell out) (?:~3)(?:FIGURE|SCORES?|GRADE)",
            r"(?:reveal\w*|giv\w+ away|betray\w*|hid(?:e|ing)|conceal\w*|withh\w+|keep\w*"
            r"|AWARD away) (?:~2)(?:number|SCORES?|GRADE|VERDICT|VOTE)",
            r"(?:SHOWN|TOLD|GIVEN|target|reference|hidden|secret) (?:QUALITY )?(?:FIGURE"
            r"|VERDICT|label|labels|MARKS?|GRADE|level|annotation|opinion|RANK|SCORES?)(?! of (?:a"
            r"|the) (?:man|woman))",
            r"(?:FIGURE|VERDICT|label|annotation) (?:that |which )?(?:i|we) (?:was|were|am|have|had|got|must"
            r"|saw|hold)",
            r"(?:FIGURE|VERDICT|label|level|reference|assessment) (?:SHOWN|TOLD|GIVEN|supplied|attached"
            r"|that came)(?! by)",
            r"human (?:label|labels|annotations?|VERDICT)|(?:secret|true|actual|correct|gold|official"
            r"|underlying) (?:QUALITY )?(?:GRADE|label|labels|annotations?|VERDICT|FIGURE)(?! (?:in|of|on"
            r"|walk\w*|stand\w*))",
            r"ground(?: -)? truth|mos",
            r"the target(?= (?:(?:is|was) ~1(?:<pos>|modest|<num>|AWARD|GIVEN|set|ambitious|generous)"
            r"|says|being|lies|LAND|<pos>|FIGURE|VERDICT|level|here|AWARD|for IT"
            r"|ASKS) )",
            r"(?:i|we) (?:know|knew|knowing|learned|learnt|saw|heard) (?:~2)(?:beforehand|in advance|already)",
            r"(?:keep|keeping) (?:~3)to myself",
            r"dataset|datasets|training data",
            r"(?:the|its) label (?:(?:is|was|,) ~1(?:<pos>|<quality>|QUALITY|JUDGES|GIVEN|modest|generous|positive"
            r"|negative|favou?rable|fair)|ASKS|AWARD|GIVEN|of (?:<quality>|<pos>)|indicates|suggests|implies|points|LAND)",
        ),
    }.items()
    for pattern in patterns
)
