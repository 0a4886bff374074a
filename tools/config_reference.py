"""ConfigReference: writes docs/configuration.md, a table of every configuration key.

    python -m tools.config_reference

- Keys, types, defaults and descriptions come from the models of `rapo.config`, so that the page
  cannot say anything else. A test holds that it is current.
"""

from __future__ import annotations

import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rapo.config import Config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

_INTRODUCTION = """# Configuration

Every key, made from `rapo/config/` by `python -m tools.config_reference`. A key goes into a TOML
file under its section, or on the command line as `--set SECTION.KEY=VALUE`. An unknown key is an
error that names its neighbours. `configs/` has whole files; `rapo check FILE` says what is wrong in
one.
"""

_BOUNDS: tuple[tuple[type, str, str], ...] = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for name, field in Config.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            raise TypeError(f"{name} is no section")
        parts.append(f"## {name}\n")
        if text := _first_sentences(section):
            parts.append(f"{textwrap.fill(text, 100)}\n")
        rows = [f"| `{key}` | {' | '.join(map(_cell, cells))} |" for key, *cells in _keys(name, section)]
        parts.append("\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _keys(prefix: str, section: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Key, kind of value, default and description of each key, sections below it included."""
    for name, field in section.model_fields.items():
        below = _section(field.annotation)
        key = f"{prefix}.{name}"
        if below is not None and field.default is not None:
            yield from _keys(key, below)
        else:
            yield key, _kind(field), _default(field), field.description or ""


def _section(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _kind(field: FieldInfo) -> str:
    return f"{_type_name(field.annotation)} {_bounds(field.metadata)}".rstrip()


def _bounds(metadata: Iterable[object]) -> str:
    return ", ".join(
        f"{sign} {getattr(bound, name):g}"
        for bound in metadata
        for kind, name, sign in _BOUNDS
        if isinstance(bound, kind)
    )


def _type_name(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        # The bounds of a field that may be unset lie here.
        found = [bound for one in arguments[1:] for bound in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return f"{_type_name(arguments[0])} {_bounds(found)}".rstrip()
    if origin is typing.Literal:
        return " or ".join(json.dumps(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(one) for one in arguments if one is not type(None))
    if origin is tuple:
        inner = [one for one in arguments if one is not Ellipsis]
        return f"list of {_type_name(inner[0])}" if Ellipsis in arguments else f"{len(inner)} of {_type_name(inner[0])}"
    if origin is dict:
        return "table"
    if (section := _section(annotation)) is not None:
        return f"table: {', '.join(section.model_fields)}"
    names: dict[object, str] = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


def _first_sentences(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
