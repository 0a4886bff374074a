"""The configuration as TOML: read, overridden, validated, written, compared. Errors name the key
and what it may hold."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from rapo.config.sections import Config
from rapo.errors import ConfigError
from rapo.system_folder import SYSTEM_FOLDER


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
            text, source = path.read_text(encoding="utf-8"), str(path)
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
        raise ConfigError(_explain(error, source)) from error


def dump_config(config: Config) -> str:
    """The resolved configuration as TOML. Keys without a value are left out, as TOML has no
    null."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def diff_config(old: Config, new: Config, *, ignore: Sequence[str] = ()) -> list[str]:
    """The dotted keys in which two configurations differ, as `key: old -> new`, without the
    `ignore`d prefixes."""
    a, b = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return [
        f"{key}: {a.get(key)!r} -> {b.get(key)!r}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not any(key == p or key.startswith(p + ".") for p in ignore)
    ]


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set takes section.key=value, not {override!r}")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()  # bare words are strings, so that paths need no quotes on the command line
    node = tree
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {part!r} is a value, not a section")
    node[parts[-1]] = value


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _siblings(item["loc"][:-1]), n=1)
            lines.append(f"unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        else:
            lines.append(f"'{key}' = {item['input']!r}: {item['msg']}")
    return f"{source}: " + "; ".join(lines)


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in loc:
        model = getattr(model.model_fields.get(part), "annotation", None) if hasattr(model, "model_fields") else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []


def _without_none(value: Any) -> Any:
    return {k: _without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
