"""Plain text: a critique as the checks read it, whatever signs it was written with.

- Compatibility forms (full-width and circled digits, vulgar fractions), HTML entities, invisible
  signs, letters of other scripts that look Latin, and words spelled letter by letter become plain
  lower-case letters and digits.
- Sentences are kept apart by their punctuation; runs of white space become one space.
"""

from __future__ import annotations

import html
import re
import unicodedata

# Signs that look Latin and that compatibility normalisation leaves as they are.
_LOOK_ALIKE = str.maketrans(
    {
        **dict(zip("аеорсухіјѕԁӏ", "aeopcyxijsdl", strict=True)),
        **dict(zip("αορνικτυ", "aopviktu", strict=True)),
        **dict.fromkeys("‘’ʼ`´", "'"),
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        "⁄": "/",
        "∕": "/",
    }
)
_SPELLED = re.compile(r"(?<![^\W\d_])(?:[a-z][ .\-_*]){3,}[a-z](?![^\W\d_])")
_BETWEEN = re.compile(r"[ .\-_*]")
_LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s"})
# From the first letter of a run on, so that a long run is gone through once.
_MIXED = re.compile(r"(?<![a-z@$])[a-z@$]+(?:[0134579][0134579@$]*|(?<=[a-z@$][@$]))[a-z]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
# Formats, accents and frames: a digit in a frame is a digit.
_UNSEEN = ("Cf", "Mn", "Me")
_SPACE = re.compile(r"\s+")


def plain_text(text: str) -> str:
    """`text` in plain lower-case letters, digits and punctuation, for a search only."""
    text = unicodedata.normalize("NFKD", _apart(html.unescape(text)))
    text = "".join(_digit(sign) for sign in text if unicodedata.category(sign) not in _UNSEEN)
    text = text.translate(_LOOK_ALIKE).lower()
    text = _SPELLED.sub(lambda found: _BETWEEN.sub("", found[0]).replace("iscore", "i score"), text)
    text = _SPACE.sub(" ", text).strip()
    text = _THOUSANDS.sub("", text)
    return _MIXED.sub(lambda found: found[0].translate(_LEET), text)


def _apart(text: str) -> str:
    """A vulgar fraction behind a digit belongs to it: `8½` must not become `81/2`."""
    return re.sub(r"(\d)([\u00bc-\u00be\u2150-\u215e])", r"\1 \2", text)


def _digit(sign: str) -> str:
    """A decimal digit of any script as 0 to 9."""
    return str(unicodedata.decimal(sign)) if unicodedata.category(sign) == "Nd" else sign
