"""Registry: finds the layout of a source among the files of `rapo/datasets/layouts/`.

- A layout is recognised by what its label files hold. Where two fit, the path is not one source.
- The table is what is left: any file with an image and a score in each row.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import rapo.datasets.layouts
from rapo.config import SourceConfig
from rapo.datasets.files.found import MOST_FILES, Found, lacking_shards
from rapo.datasets.layout import Layout, registered
from rapo.datasets.rows import LabelSource
from rapo.errors import ConfigError, DataError


@cache
def layouts() -> tuple[Layout, ...]:
    """All layouts, the table last."""
    package = rapo.datasets.layouts
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(registered.values(), key=lambda layout: (layout.fallback, layout.name)))


def accepted() -> str:
    """What a source may be, in words."""
    names = ", ".join(layout.name for layout in layouts() if not layout.fallback)
    return (
        "A source may be a table with the columns image and score (CSV, JSON, JSON Lines, Parquet, Excel), or a folder of a "
        f"collection ({names}): docs/data.md has their files"
    )


def read_source(source: SourceConfig) -> LabelSource:
    """The labels of one source. Raises `DataError` where nothing fits, and says what is there."""
    if source.hub is not None:
        return _named("hub").read(Found(Path(source.hub)), source)
    path = source.path
    if path is None:
        raise DataError(f"no data set is given. {accepted()}")
    if not path.exists():
        raise DataError(f"data.path {path} does not exist: correct it")
    if not path.is_file() and not path.is_dir():
        raise DataError(f"data.path {path} is a pipe or a device: give a file or a folder")
    if source.images is not None and not source.images.is_dir():
        raise DataError(f"data.images {source.images} is not a folder")
    found = Found(path, source.images)
    read = find_layout(found, source.format).read(found, source)
    return replace(read, notes=(*_passed_over(found), *read.notes)) if path.is_file() else read


def _passed_over(found: Found) -> Iterator[str]:
    """What is not read of a file and of its like."""
    table = found.files[0].table
    if table is not None:
        yield from table.notes
    if lacking := lacking_shards([found.path]):
        yield f"{found.path.name} is one of {len(lacking) + 1} shards; give its folder to read them all"


def find_layout(found: Found, name: str = "auto") -> Layout:
    """The layout called `name`, or the one that the path is recognised as."""
    if name != "auto":
        return _named(name)
    fitting = [layout for layout in layouts() if layout.recognises(found)]
    special = [layout.name for layout in fitting if not layout.fallback]
    if len(special) > 1:
        names = ", ".join(special)
        raise DataError(
            f"data.path {found.path} holds several collections ({names}); give the folder of one, or data.format"
        )
    if fitting:
        return fitting[0]
    if found.path.is_file() and found.files[0].problem:
        raise DataError(found.files[0].problem)
    raise DataError(f"{_why(found)}. {accepted()}")


def _named(name: str) -> Layout:
    for layout in layouts():
        if layout.name == name:
            return layout
    raise ConfigError(f"data.format {name!r} is none of auto, {', '.join(layout.name for layout in layouts())}")


def _why(found: Found) -> str:
    """Why no layout fits."""
    if found.path.is_file():
        return f"{found.path} is of no known layout"
    if not any(found.path.iterdir()):
        return f"data.path {found.path} is empty"
    tables = [file for file in found.files if file.table is not None]
    if not tables:
        reasons = [file.problem for file in found.files]
        return f"data.path {found.path} holds no label file" + (f" ({reasons[0]})" if reasons else "")
    names = ", ".join(str(file.path.relative_to(found.path)) for file in tables[:3])
    many = f" (only {MOST_FILES} of its files were looked into)" if len(found.files) >= MOST_FILES else ""
    return f"data.path {found.path} is of no known collection, but holds {names}{many}: give one of them as data.path"
