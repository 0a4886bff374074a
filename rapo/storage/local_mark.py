"""LocalMark: tells which states of a store a folder has, and which of its files changed since.

- The store may have taken a state whose answer was lost. So the mark names a state before it is
  sent, and a folder may have several.
- A file counts as stored while its size and its time of change are those of the last state. Clocks
  are not compared: those of a shared file system may differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: The mark's name in its folder.
MARK = ".snapshot"

#: Bytes and time of the last change.
Look = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LocalMark:
    """`states` are names of states, `files` what the files of the last stored one looked like."""

    states: tuple[str, ...] = ()
    files: Mapping[str, Look] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> LocalMark:
        """The mark of a folder; an empty one where it has none, or a damaged one."""
        try:
            read = json.loads((folder / MARK).read_text(encoding="utf-8"))
            return cls(tuple(read["states"]), {name: (size, time) for name, (size, time) in read["files"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Put the mark into a folder, whole or not at all."""
        aside = folder / f"{MARK}.tmp"
        aside.write_text(json.dumps({"states": self.states, "files": self.files}), encoding="utf-8")
        aside.replace(folder / MARK)

    def lacks(self, folder: Path, names: Iterable[str]) -> bool:
        """Whether one of these files of the folder is not as it was stored."""
        return any(self.files.get(name) != look for name, look in look_at(folder, names).items())


def look_at(folder: Path, names: Iterable[str]) -> dict[str, Look]:
    """What files of a folder look like."""
    found = {name: (folder / name).stat() for name in names}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
