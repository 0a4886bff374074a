"""The rationale while it is being written: pieces that put together are exactly the rationale of
the parsed answer."""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # the bytes of a character that is not complete yet


class RationaleStream:
    """Takes the text written so far, gives what of the rationale is new and certain.

    Held back is what may still turn out not to belong to it: white space at its end, half a tag,
    half a character.
    """

    def __init__(self) -> None:
        self._sent = ""

    def take(self, text: str) -> str:
        """The next piece, often empty. `text` is all that was written so far, not only what is
        new."""
        _, opened, rest = text.partition(_OPEN)
        if not opened:
            return ""
        inside, closed, _ = rest.partition(_CLOSE)
        if not closed:
            inside = inside.rstrip(_BROKEN)
            inside = inside[: len(inside) - _half_tag(inside)]
        certain = inside.strip()
        piece = certain[len(self._sent) :]
        self._sent += piece
        return piece


def _half_tag(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of the closing tag."""
    return next((n for n in range(min(len(_CLOSE) - 1, len(text)), 0, -1) if _CLOSE.startswith(text[-n:])), 0)
