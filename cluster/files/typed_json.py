"""Typed JSON: reads a file into the type that wrote it, and checks it on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from cluster.files.atomic import read_json
from rapo.errors import RunFolderError

T = TypeVar("T")


def read_json_as(path: Path, kind: type[T]) -> T:
    """Read a JSON file into a dataclass or TypedDict; keys that it does not have are ignored.

    Raises `RunFolderError` as `read_json` does, and where the content does not fit.
    """
    try:
        return TypeAdapter(kind).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "its content"
        raise RunFolderError(
            f"{path} was written by another version of rapo or is damaged ({key}: {first['msg']}). "
            "Remove it and run the stage again."
        ) from error
