"""Layout: how a collection lies on disk, and the register of all layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rapo.config import SourceConfig
from rapo.datasets.files.found import Found
from rapo.datasets.rows import LabelSource


@dataclass(frozen=True, slots=True)
class Layout:
    """`recognises` looks at the label files of a path. `read` reads labels only and raises
    `DataError` for what does not fit. `holds` says in words what the layout consists of. A
    `fallback` is taken where no other layout fits."""

    name: str
    holds: str
    recognises: Callable[[Found], bool]
    read: Callable[[Found, SourceConfig], LabelSource]
    fallback: bool = False


registered: dict[str, Layout] = {}


def register(layout: Layout) -> None:
    """Make a layout known; a file in `rapo/datasets/layouts/` calls it when it is imported."""
    registered[layout.name] = layout
