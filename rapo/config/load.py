"""Configuration files: TOML is read, overridden, validated, written and compared. Errors name the
key and what it may hold."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator
from datetime import date
from datetime import time as dt_time
from pathlib import Path
from typing import get_args

import tomli_w
from pydantic import ValidationError

from rapo.config.sections import Config
from rapo.config.types import MAY_CHANGE, Section
from rapo.errors import ConfigError
from rapo.system_folder import SYSTEM_FOLDER
from rapo.util.brief import brief

#: Settings whose wrong values are not quoted, because they may be secrets.
_UNQUOTED = ("key_env", "base_url")


def load_config(path: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read `path` (None: the embedded `cpu.toml`), apply `section.key=value` overrides, validate.

    Raises `ConfigError` for a missing or unreadable file, an unknown key, or a value out of range.
    """
    if path is None:
        text, source = (SYSTEM_FOLDER / "configs" / "cpu.toml").read_text(encoding="utf-8"), "cpu.toml"
    else:
        path = Path(path)
        if not path.is_file():
            raise ConfigError(f"config file not found: {path}. Give a TOML file, for example configs/cpu.toml.")
        try:
            text, source = path.read_text(encoding="utf-8-sig"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explained(error, source)) from error


def dump_config(config: Config) -> str:
    """The resolved configuration as TOML. Keys without a value are left out, as TOML has no
    null."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def diff_config(old: Config, new: Config) -> list[str]:
    """What keeps `new` from continuing a run of `old`: the dotted keys that differ and are not
    marked `MayChange`, as `key: old -> new`."""
    a, b = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    free = tuple(keys_that_may_change())
    return [
        f"{key}: {a.get(key)!r} -> {b.get(key)!r}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not f"{key}.".startswith(free)
    ]


def keys_that_may_change(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """The dotted keys of fields and sections that are marked `MayChange`, each with a dot at its
    end."""
    for name, field in section.model_fields.items():
        if MAY_CHANGE in field.metadata:
            yield f"{prefix}{name}."
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys_that_may_change(field.annotation, f"{prefix}{name}.")


def _apply(tree: dict[str, object], override: str) -> None:
    key, equals, raw = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not name or not all(sections):
        raise ConfigError(f"--set takes section.key=value, not {override!r}")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()  # bare words are strings, so that paths need no quotes on the command line
    if isinstance(value, date | dt_time):
        value = raw.strip()  # a revision such as 2025-04-14; no setting is a date
    node = tree
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {section!r} is a value, not a section")
        node = child
    node[name] = value


def _explained(error: ValidationError, source: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _siblings(item["loc"][:-1]), n=1)
            lines.append(f"unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        else:
            # A whole section is no use in a message, and a key that strayed into a setting must not
            # be logged.
            shown = "" if isinstance(item["input"], dict) or key.endswith(_UNQUOTED) else f" = {brief(item['input'])}"
            lines.append(f"'{key}'{shown}: {item['msg']}")
    return f"{source}: " + "; ".join(lines)


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `loc`; none where there is no section."""
    section: type[Section] = Config
    for part in loc:
        if isinstance(part, int):  # an item of a list of sections
            continue
        field = section.model_fields.get(part)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        below = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        if not below:
            return []
        section = below[0]
    return list(section.model_fields)


def _without_none(tree: dict[str, object]) -> dict[str, object]:
    return {k: _clean(v) for k, v in tree.items() if v is not None}


def _clean(value: object) -> object:
    if isinstance(value, dict):
        return _without_none(value)
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
