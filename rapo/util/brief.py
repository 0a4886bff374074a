"""Brief: values and errors of strangers in messages, on one line and never long."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxlevel = 2
#: Characters of a list of names, and of an error.
_NAMES, _ERROR = 120, 160


def brief(value: object) -> str:
    """A value as Python writes it, of at most 60 characters; "..." stands for what is cut out."""
    text = _SHORT.repr(value)
    return text if len(text) <= _SHORT.maxother else f"{text[: _SHORT.maxother - 3]}..."


def brief_names(names: Iterable[str]) -> str:
    """The first of a list of names, and how many more there are."""
    shown: list[str] = []
    every = list(names)
    while len(shown) < len(every) and sum(map(len, shown)) < _NAMES:
        shown.append(brief(every[len(shown)]))
    more = f" and {len(every) - len(shown):,} more" if len(shown) < len(every) else ""
    return ", ".join(shown) + more


def brief_error(error: BaseException) -> str:
    """What an error says, in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _ERROR else f"{words[:_ERROR]}..."
