"""JSON in answers: the objects that a model's text holds, whatever it writes around them."""

from __future__ import annotations

import json
from collections.abc import Iterator


def json_objects(text: str) -> Iterator[object]:
    """The JSON objects in a text, from the first brace of each."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield found
        at = text.find("{", end)
