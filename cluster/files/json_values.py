"""JSON values: their type, and the conversion of the values that Python holds into them.

- JSON in a run folder is strict: NaN and infinities become null.
- What is read from a file may be of any shape; it is checked where it is used.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
JsonRow: TypeAlias = dict[str, JsonValue]


@runtime_checkable
class _NumpyValue(Protocol):
    """A NumPy scalar or array; NumPy itself is not imported, because `rapo score` goes without."""

    def tolist(self) -> object: ...


def to_json_value(value: object, where: str) -> JsonValue:
    """`value` with dataclasses, mappings, sequences, NumPy values and paths converted.

    Raises `TypeError` for a value that JSON cannot hold; `where` is its place in the message.
    """
    if isinstance(value, _NumpyValue):
        value = value.tolist()
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def finite(value: object) -> float | None:
    """`value` as a float, or None where it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
