"""RationaleStream: the rationale piece by piece, while the model writes it.

The pieces together are exactly the rationale of the parsed answer.
"""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # the bytes of a character that is not complete yet


class RationaleStream:
    """Finds the new part of the rationale in a text that grows.

    White space at the end, half a tag and half a character are held back, because they may not
    belong to the rationale.
    """

    def __init__(self) -> None:
        self._sent = ""

    def take(self, text: str) -> str:
        """The next piece, often empty. `text` is the whole text so far."""
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
    """The number of characters at the end of `text` that may begin the closing tag."""
    return next((n for n in range(min(len(_CLOSE) - 1, len(text)), 0, -1) if _CLOSE.startswith(text[-n:])), 0)
