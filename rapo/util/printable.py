r"""Printable text: names and words in a form that fits into one cell of one line, and back.

- A file name may hold bytes that are not UTF-8, and any text may hold what ends a line for one
  reader or another: CR, VT, FF, U+0085, U+2028. They become escapes such as `\xe9`, `\x0d` and
  `\u2028`; a backslash is doubled.
- White space at either end, which many programs cut off, becomes an escape as well.
- A text that a spreadsheet would run as a formula (`=`, `+`, `-`, `@`, `'`) begins with an escape.
- `from_printable(printable(text)) == text` for every text.
"""

from __future__ import annotations

import re

_BYTES = range(0xDC80, 0xDD00)  # how Python holds a byte that is not UTF-8
_FORMULA = "=+-@'"

#: Control characters, line and paragraph separators, surrogates, the byte order mark and what no
#: XML file may hold.
_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]")
_ESCAPE = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4}))")


def printable(text: str) -> str:
    """`text` in one line, with nothing in it that a table may lose."""
    safe = _UNSAFE.sub(lambda found: _escape(found[0]), text)
    if safe and (safe[0].isspace() or safe[0] in _FORMULA):
        safe = _escape(safe[0]) + safe[1:]
    if safe and safe[-1].isspace():
        safe = safe[:-1] + _escape(safe[-1])
    return safe


def from_printable(text: str) -> str:
    """The text that `printable` was given. What is no escape stays as it is."""
    return _ESCAPE.sub(_unescape, text)


def clipped(text: str, longest: int = 400) -> str:
    """`text` in one line of at most so many characters, for a message."""
    line = printable(text)
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def _escape(character: str) -> str:
    number = ord(character)
    if character == "\\":
        return "\\\\"
    if number in _BYTES:
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}"


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return "\\"
    if found[3]:
        return chr(int(found[3], 16))
    number = int(found[2], 16)
    return chr(number) if number < 0x80 else chr(0xDC00 + number)
