"""Structure rules: what a refusal, a text around the critique and an aspect of beauty look like.

- The rules read the text of one critique with plain apostrophes.
"""

from __future__ import annotations

import re

IMAGE_WORDS = (
    r"(?:images?|photos?|photographs?|pictures?|shots?|snapshots?|works?|pieces?|portraits?|(?:land|sea|city|town|sky|night|moon|snow)scapes?"
    r"|panels?|interiors?|still[ -]li(?:fe|ves)"
    r"|stud(?:y|ies)|abstracts?|captures?|attempts?|efforts?|results?|documents?|records?|photography"
    r"|compositions?|exposures?"
    r"|nocturnes?|macros?|views?|postcards?|scenes?|prints?|reportage|frames?|tableau"
    r"|visions?|ideas?|memor(?:y|ies)|souvenirs?|keepsakes?"
    r"|paintings?|watercolou?rs?|drawings?|sheets?|canvas(?:es)?|etchings?|food shots?)"
)
_SENT = r"(?:images?|photos?|photographs?|pictures?|shots?|attachments?|files?|uploads?|links?|visuals?|urls?|pixels)"
_A = r"(?:(?:the|this|that|any|an?|your|its|such|actual|real|original|attached|uploaded|given|single|\w+ly) ){0,3}"
_UNABLE = (
    r"(?:cannot|can't|can not|unable to|not able to|not allowed to|not permitted to|won't|will not|couldn't"
    r"|could not|decline to"
    r"|must decline|refuse to|rather not|prefer not to|not comfortable|don't feel comfortable"
    r"|do not feel comfortable"
    r"|not in a position to|not authori[sz]ed to|incapable of|not equipped to|not designed to|not going to"
    r"|must refrain from|refrain from|have no way (?:of|to))"
)
_HELPS = (
    r"(?:help (?:with|you|here|in)|help[.!]|assist|comply|fulfil\w*|continue|proceed|engage|complete|answer"
    r"|produc\w+ (?:a|an|the)"
    r"|provid\w+ (?:an? |the |any |my |you |this )?(?:\w+ )?(?:critique|assessment|analysis|evaluation"
    r"|opinion|judge?ment|review|feedback)"
    r"|offer\w* (?:an? |any |my )?(?:\w+ )?(?:critique|assessment|analysis|evaluation|opinion|judge?ment"
    r"|review|feedback)"
    r"|(?:writ\w+|creat\w+|generat\w+|giv\w+) (?:an? |the |any |you |this )?(?:\w+ )?(?:critique|assessment"
    r"|analysis|evaluation|opinion"
    r"|judge?ment|review|verdict)|say more)"
)
_LOOKS = (
    r"(?:analy[sz]\w+|evaluat\w+|assess\w*|view\w*|see|seeing|access\w*|open\w*|display\w*|process\w*"
    r"|identify\w*|comment\w*(?: on)?"
    r"|critiqu\w*|judg\w*|describ\w*|discuss\w*|review\w*|look\w* at|inspect\w*|perceiv\w*|examin\w*|load\w*"
    r"|interpret\w*|rat(?:e|ing))"
)
_OBJECT = rf"{_A}(?:\w+ )?(?:{_SENT}|critiques?|requests?|person|people|individuals?|faces?|minors?|child(?:ren)?|body|bodies)"
_ARRIVES = (
    r"(?:attach\w*|provid\w*|upload\w*|load\w*|open\w*|arriv\w*|c[oa]me through|display\w*|render\w*"
    r"|transmit\w*|deliver\w*|reach\w*"
    r"|accessible|available|included?|sent|received?|process\w*|visible to me|shown to me|here for me"
    r"|com(?:e|es|ing) (?:through|with|in|across)|came with|present"
    r"|went through|found|seen|shared?|supplied)"
)
_ASKED = (
    r"(?:please|kindly|could you|can you|would you|if you|once you|when you|should you|you (?:can|may|could"
    r"|might|will need to"
    r"|would need to)|feel free to)"
)

REFUSAL = re.compile(
    "|".join(
        (
            r"\bas an? (?:ai|artificial|language model|large language model|llm|assistant"
            r"|vision(?:-language)? model|text)\b",
            r"\bi(?:'m| am) (?:only |just |merely )?(?:an? )?(?:ai|llm|language model|virtual assistant"
            r"|chatbot|text-based|text-only)\b",
            r"\b(?:text-(?:based|only)|virtual|ai) (?:assistant|model|system|interface)\b"
            r"|\b(?:large )?language model\b",
            rf"\b(?:i|we)(?:'m| am|'re| are|'d| must| have to"
            rf"| would)? (?:\w+ ){{0,2}}?{_UNABLE} (?:to )?(?:\w+ ){{0,2}}?"
            rf"(?:{_HELPS}|{_LOOKS} (?:{_OBJECT}|it\b(?! (?:as|working))|anything|visual))",
            rf"\b(?:this|that|the) (?:work|piece|painting|drawing|\w+ )?(?:{_SENT} )?i (?:cannot|can't|will not"
            rf"|won't|must not|refuse to|decline to) {_LOOKS}",
            rf"\b(?:unable|impossible|not possible|inappropriate|not appropriate) (?:for me )?to (?:{_HELPS}"
            rf"|{_LOOKS} {_OBJECT})",
            rf"\b(?:i|we) (?:(?:do not|don't|did not|didn't|haven't|have not|never)(?: actually"
            rf"| currently)? (?:have|see|possess|receive"
            rf"|received|get|got|seen|been (?:given|sent|shown))|have no|lack|see no|received no) (?:any |an? "
            rf"|the |direct |visual |real "
            rf"|actual |to )*(?:access|ability|capabilit\w+|means|eyes|vision|way of seeing|permission|{_SENT})\b",
            rf"\b(?:no|never an?) (?:\w+ )?{_SENT} (?!of )(?:(?:\w+|to) ){{0,4}}?{_ARRIVES}",
            rf"\b{_SENT} (?:\w+ ){{0,2}}?(?:(?:was|is|has|did|could|does|do|had|can)(?:n't| not)|cannot|never"
            rf"|failed to|fails to) "
            rf"(?:\w+ ){{0,3}}?{_ARRIVES}",
            rf"\b{_SENT} (?:seems|appears|is|was) (?:to (?:be|have) )?(?:been )?(?:missing|corrupt\w*|blank"
            rf"|broken|unavailable|inaccessible"
            rf"|unreadable|failed)\b",
            r"\bwithout (?:being able to (?:see|view)|(?:actual(?:ly)? |direct )?(?:access|seeing)|sight of"
            r"|the (?:actual |real )?"
            rf"(?:visual|{_SENT})(?: itself)?)[ ,.]",
            r"\b(?:problem|error|issue|trouble|difficult\w+) (?:in |with )?(?:loading|opening|reading"
            r"|viewing|accessing|displaying)\b",
            rf"\b{_ASKED} (?:\w+ ){{0,3}}?(?:re-?)?(?:upload|share|send|attach|provide|paste|supply|describe|try"
            rf"|show|submit|add|include)"
            rf"(?: me| us| again| with me)? (?:\w+ ){{0,3}}?(?:{_SENT}|scene|again|details|description)\b",
            r"\b(?:happy|glad|pleased|delighted|willing) to (?:help|assist|critique|comment|write|provide"
            r"|offer|take|look|discuss|evaluate)\b"
            r"|\b(?:how|which i) (?:can|may) (?:i )?"
            r"(?:help|assist)\b|\blet me know (?:if|when|what)\b"
            r"|\bi (?:must |have to |will )?(?:decline|refuse) (?:this|that|your|the) (?:request|task)\b"
            r"|\bi (?:must|have to|need to) (?:\w+ly )?(?:decline|abstain|refrain)\b"
            rf"|\bi (?:\w+ ){{1,2}}not be (?:able to {_HELPS}|(?:giv|offer|provid|writ|shar)ing)",
            r"\bi can (?:only |instead |still )?(?:process|handle|read|work with|help|offer"
            r"|share) (?:\w+ )?(?:text|general|with)\b"
            r"|\bonly (?:process|handle|read|work with) text\b",
            r"\b(?:against|violat\w+|breach\w*|outside|due to|because of|in line with|conflicts? with"
            r"|contrary to|not permitted by) (?:my|our|the"
            r"|its|content|usage|safety) ?(?:\w+ ){0,2}?(?:polic\w+|guidelines|terms|rules|principles"
            r"|safety)\b|\bmy (?:safety|content) \w+"
            r"|\bmy (?:polic\w+|guidelines|rules|principles|instructions|training|programming)"
            r" (?:do(?:es)?(?: not|n't) (?:permit|allow|let)|forbids?|prohibits?|prevents?|bars?)\b"
            r"|\b(?:outside|beyond) (?:what|anything|the things) i(?:'m| am)? (?:able|allowed|permitted|can (?:help|assist))\b",
            # Nothing to judge, or nobody to judge it.
            r"\byou (?:meant|intended|wanted|tried) to (?:share|send|upload|attach|submit)\b"
            r"|\bno (?:critique|assessment|evaluation|review) (?:from me|today|can|is possible)\b"
            r"|\b(?:no|without|lack\w*|not) (?:\w+,? ){0,4}eyes of my own\b|\bi(?:'m| am) not in a position to\b",
            r"\b(?:request|critique|evaluation|assessment) (?:cannot be|can't be|is|was|must be) (?:completed"
            r"|fulfilled|processed|declined|denied"
            r"|refused|given|provided|unavailable|honou?red)\b|\bcannot be (?:judged|assessed|evaluated"
            r"|critiqued) (?:without|until|unless)",
            rf"\b(?:assuming|supposing|imagine|imagining|pretend\w*) (?:that )?{_A}{_SENT}\b"
            rf"|\bhypothetical (?:critique|{_SENT})",
            r"\b(?:not|n't) (?:be )?(?:appropriate|right|comfortable|ethical) (?:for me )?(?:to (?:comment"
            r"|judge|evaluate|critique|discuss)"
            r"|(?:commenting|judging|critiquing))",
        )
    ),
    re.IGNORECASE,
)
MARKUP = re.compile(
    "|".join(
        (
            # Tags, code, headings, emphasis, rules.
            r"<[/!?]?[a-z][^<>\n]{0,80}>|<\|[^|\n]{0,60}\|>|```|~~~|^[ \t]{0,3}#{1,6}\s|\*\*|__\w"
            r"|(?<![\w`])`[^`\n]{1,80}`(?!\w)",
            r"(?<![\w*])\*[^\s*][^*\n]{0,80}\*(?![\w*])|(?<!\w)_[^\s_][^_\n]{0,80}_(?!\w)|^[ \t]*(?:-{3,}"
            r"|={3,}|\*{3,}|_{3,})\s*$",
            # Lists and tables.
            r"^[ \t]*(?:[-*+\u2013\u2014\u2022\u25cf\u25aa\u25e6\u00b7\u2192\u2713\u2714\u2705\u25ba\u25b6\u27a4]"
            r"|\d{1,2}[.)]|\([a-d\d]\)"
            r"|[a-d]\))\s+\S|^[ \t]*\|.{0,200}\||(?:^|\s)\(?1[.)]\s[^\n]{1,400}?\s\(?2[.)]\s",
            # JSON, links, TeX, entities, broken encodings.
            r"^[ \t]*[{\[]\s*[\"'{\[]|\"\s*:\s*[\"\d\[{]|\bhttps?://|\bwww\.|\]\(|\\(?:begin|boxed|text\w*"
            r"|frac|n|t|u[\da-f]{4}|[()\[\]\"])"
            r"|\$[^$\n]{0,40}\$|&(?:#\d{1,5}|[a-z]{2,6});|\u00e2\u20ac|\u00c3[\u0080-\u00bf]|\ufffd",
            # Labels of a speaker, places that a template left open, notes of a writer.
            r"^[ \t]*(?:assistant|user|system|human|ai|model|bot|critique|response|answer|output|input"
            r"|analysis|rationale|review|reasoning"
            r"|thinking|thoughts?|prompt|question|task|q|a|expert|critic|photographer|curator)(?: \d)?\s*:",
            r"\{[^{}\n]{0,60}\}|\[[^\[\]\n]{1,60}\]|\b(?-i:TODO|TBD)\b|\b(?:lorem ipsum|word count)\b"
            r"|\b(?:im_start|im_end|endoftext)\b",
            r"^[ \t]*[A-Z][A-Za-z &/]{2,30}:\s*$",
            # Talk around the critique, a second one.
            r"\A\s*(?:sure|certainly|of course|absolutely|okay|ok|great)\b[ ,!.:\u2014-]+(?:here|below|i'll"
            r"|i will|i'd|i can|let me|happy|great|no problem|my|the following)\b",
            r"\b(?:here is|here's|here are|below is|below you|the following is) (?:\w+ ){0,4}?(?:critique"
            r"|review|assessment|analysis|evaluation"
            r"|version|response|rewrite)\b",
            r"\b(?:critique|version|option|draft|response|variant|alternative) (?:#?\d|[ab]|one|two"
            r"|number \w+)\b ?[:.\u2014-]",
            r"\bi hope (?:this|that|it) (?:helps|is what)\b|\bhope (?:this|that) helps\b|\bfeel free to\b",
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)
#: A part's name and a colon, as in "Composition: centred." Two of them make a form, not prose.
LABEL = re.compile(r"(?:^|[.!?;]\s+)[A-Z][a-z]+(?:(?: (?:and|&) | |/)[A-Za-z]+){0,2}: ")

#: Words that name each aspect of beauty.
ASPECT_WORDS: dict[str, re.Pattern[str]] = {
    name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for name, words in {
        "light": (
            r"(?:back|side|sun|moon|lamp|candle|window|sky|day|rim|spot|stage|key|flood|street|half|high)?-?light(?:s|ing|ed)?"
            r"|lit|(?:un|back|side|rim)-?lit|shadow\w*|highlights?|contrast\w*|luminous|luminosity|illuminat\w*"
            r"|chiaroscuro|glare|glow\w*|silhouette\w*|low-key|high-key|bright\w*|dark\w*|sun\w*|dusk|dawn"
            r"|flash\w*|lamps?|neon|beam\w*|rays?|shad(?:e|y|ed)|radian\w*|gleam\w*|shin\w+|dim|noon|overcast"
            r"|twilight"
        ),
        "mood": (
            r"moods?|mood\w*|narrative\w*|stor(?:y|ies|ytelling)|atmospher\w*|emoti\w*|evocative|evokes?"
            r"|seren\w*|tranquil\w*|dramatic\w*|drama|tension|intima\w*|melanchol\w*|lonel\w*|nostalgi\w*"
            r"|wistful\w*|myster\w*|solitude|feeling|tender\w*|poignan\w*|sentiment\w*|menac\w*|dream(?:y|like)"
            r"|expressive\w*|pathos|eerie|joyful|joyous|feel\w*|calm\w*|energ\w*|express\w*|impact\w*|engag\w*"
            r"|playful\w*|joy|quiet\w*|peace\w*|silen\w*|gloom\w*|humou?r\w*|wit|charm\w*|life|lively|weary"
            r"|tense|warmth|cheer\w*|sad\w*|dignity|dignified|restful|presence|character|personality|glee"
            r"|affecti\w*|moving|moment|gesture\w*|gripping|suspense\w*|funny|comic\w*|comed\w*|laugh\w*"
        ),
        "composition": (
            r"compos(?:ition\w*|ed|itional\w*|es?)|fram(?:ing|ed)|balanc\w*|perspective\w*|symmetr\w*|layout"
            r"|thirds|crop\w*|placement|leading lines?|diagonal\w*|negative space|arrang\w*|focal point"
            r"|viewpoint|vantage|cluttered|clutter|verticals|horizontals|foreground|point of view|off-cent\w+"
            r"|(?:upper|lower|left|right)(?:-\w+)? third|centr?ed|converg\w*"
            r"|leads? (?:the|our|us|one|nowhere|inward|straight)\b|vanishing point|eye ?lines?|frames?"
            r"|horizon\w*|background|cent(?:er|re)|angle\w*|depth|tilt\w*|subject\w*|lines?|curve\w*|edges?"
            r"|corner\w*|cut|wander\w*|bands?|fills?|space|rhythm\w*|overlap\w*|lined up|grouping|scale|shapes?"
            r"|pattern\w*|geometr\w*|layer\w*|placed|anchor\w*|crowded|empty|emptiness|eye|split|vertical\w*"
            r"|horizontal\w*|distracti\w*|distracts|graphic|design|plac(?:ing|ement)|mess\w*|busy|hidden"
        ),
        "color": (
            r"colou?r\w*|hues?|palette\w*|\w*saturat\w*|ton(?:e|es|ed|al|ality)|monochrom\w*"
            r"|black[ -]and[ -]white|b&w|white balance|sepia|pastel\w*|tints?|vibran\w*|duotone|gr[ae]yscale"
            r"|vivid\w*|muted|(?<!heart-)warm\w*|cool\w*|gr[ae]ys?|gr[ae]y-\w+|reds?|oranges?|yellow\w*|greens?|greenish"
            r"|blues?|bluish|turquoise|teal|violet|purple|magenta|cyan|pinks?|browns?|ochres?|gold\w*|amber"
            r"|scarlet|cast|ivory|crimson|silver\w*|olive|copper|azure|cream\w*|mustard|rust\w*|blacks?|whites?"
        ),
        "technique": (
            r"(?:over|under)?-?expos(?:ed?|ure|ures|ing)|focus(?:ed|ing)?|sharp\w*|blur\w*|nois[ey]\w*|grain\w*"
            r"|resolution|clipp\w*|bokeh|depth of field|motion blur|panning|aperture|shutter|technical\w*"
            r"|technique|artifacts?|artefacts?|lens|iso|post-?process\w*|vignett\w*|sharpening|macro|telephoto"
            r"|f ?/ ?\d[\d.]*|1/\d+|\d+ ?mm|wide-angle|megapixel\w*|pixel\w*|compression|banding|halo\w*|camera"
            r"|detail\w*|blown|crisp\w*|texture\w*|resolved|motion|clean|clarity|legible|smear\w*|frozen"
            r"|freez\w*|processing|distort\w*|fisheye|brush\w*|strokes?|wash(?:es)?|pigments?|retouch\w*"
            r"|print\w*"
        ),
    }.items()
}
