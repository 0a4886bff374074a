"""Image names: how the output of `rapo score` names an image, and how it is found again."""

from __future__ import annotations

from pathlib import Path

from rapo.images.suffixes import IMAGE_SUFFIXES
from rapo.util.printable import from_printable, printable

_FORMULA = "=+-@'~"


def name_of(path: Path) -> str:
    """The image's name in a table: its path in printable form (`rapo.util.printable`).

    `./` comes before a relative path that a spreadsheet could take for a number, a date or a
    formula; the system does not mind it.
    """
    text = str(path)
    if not path.is_absolute() and (text[0] in _FORMULA or path.suffix.lower() not in IMAGE_SUFFIXES):
        text = f"./{text}"
    return printable(text)


def path_of(name: str) -> Path:
    """The path that `name_of` named. Names of older tables, which hold paths as they are, work as
    well."""
    return Path(from_printable(name))
