"""What stands in for Ray's own objects in tests without Ray."""

from __future__ import annotations

from typing import Any


def as_ref(value: object = None) -> Any:
    """`value` in the place of a ref or of an actor's handle."""
    return value
