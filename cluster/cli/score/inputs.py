"""ScoreInputs: the images of `rapo score`, from files, folders, patterns and a list on stdin.

- One rule holds for a whole tree: files with the suffix of an image, unless they or a folder above
  them are hidden or made by a system for itself.
- Linked folders are searched after all others, and no folder is searched twice, so that links that
  lead in a circle end.
- A file that is named twice, in whatever way, is one image.
- What is left out is counted, by reason.
"""

from __future__ import annotations

import codecs
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rapo.errors import DataError
from rapo.images.suffixes import IMAGE_SUFFIXES, RAW_SUFFIXES, UNREAD_SUFFIXES
from rapo.util.printable import clipped

#: Stands for the list on stdin.
STDIN = "-"

#: Folders that hold thumbnails or metadata beside images, made by NAS systems and archives.
_SYSTEM_FOLDERS = frozenset({
    *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot"),
    *("__MACOSX", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information"),
})  # fmt: skip
_SHOWN = 5

_Identity = tuple[int, int]


@dataclass(slots=True)
class LeftOut:
    """How many files and folders were not looked at, by reason; `patterns` are those that match
    nothing."""

    reasons: Counter[str] = field(default_factory=Counter)
    raw: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    patterns: list[str] = field(default_factory=list)

    def file(self, suffix: str) -> None:
        """Count a file that has no suffix of an image."""
        kinds = self.raw if suffix in RAW_SUFFIXES else self.unread if suffix in UNREAD_SUFFIXES else self.others
        kinds[clipped(suffix, 20) or "no suffix"] += 1

    def line(self) -> str:
        """What was not looked at, in one line; empty if nothing was left out."""
        parts = [f"{reason}: {count:,}" for reason, count in sorted(self.reasons.items())]
        for kinds, words in (
            (self.raw, "raw images, to be developed into TIFF or JPEG first"),
            (self.unread, "images of a format that is not decoded, to be converted first"),
            (self.others, "files without an image's suffix"),
        ):
            if kinds:
                parts.append(f"{words}: {kinds.total():,} ({_few(kinds)})")
        if self.patterns:
            shown = ", ".join(clipped(pattern, 150) for pattern in self.patterns[:2])
            parts.append(f"patterns that match nothing: {len(self.patterns):,} ({shown})")
        return f"not looked at: {'; '.join(parts)}" if parts else ""


@dataclass(slots=True)
class Inputs:
    """The images, each once, in order; and what was left out."""

    images: list[Path]
    left_out: LeftOut


def find_images(paths: Sequence[str], listed: Iterable[str | bytes] = ()) -> Inputs:
    """The images that `paths` name; folders are searched to the bottom, sorted by name.

    `-` among the paths takes the names in `listed`, one a line, or each ended by a NUL. A file that
    is named is an image whatever its suffix. Raises `DataError` for a name in `paths` that does not
    exist and where nothing is found at all. A listed file that does not exist is kept: it gets a
    row with an error.
    """
    search = _Search()
    for name in paths:
        for path in _listed(listed) if name == STDIN else search.expand(name):
            search.add(path)
    search.follow_links()
    if not search.found:
        line = search.left_out.line()
        raise DataError(
            f"no images in {clipped(', '.join(paths), 100) or 'an empty list'}{f' ({line})' if line else ''}. Give files, "
            "folders or patterns, or - for a list on stdin."
        )
    return Inputs(search.found, search.left_out)


def _listed(lines: Iterable[str | bytes]) -> Iterator[Path]:
    # A name need not be UTF-8. `find -print0` ends one with a NUL, because it may hold newlines.
    data = b"".join(map(os.fsencode, lines)).removeprefix(codecs.BOM_UTF8)
    names = data.split(b"\0") if b"\0" in data else (line.rstrip(b"\r") for line in data.split(b"\n"))
    yield from (Path(os.fsdecode(name)) for name in names if name)


class _Search:
    def __init__(self) -> None:
        self.found: list[Path] = []
        self.left_out = LeftOut()
        self._known: set[tuple[str, str]] = set()
        self._real: dict[Path, str] = {}
        self._searched: set[_Identity] = set()
        self._links: list[Path] = []

    def expand(self, name: str) -> list[Path]:
        """The paths that a name or a pattern stands for."""
        path = Path(os.path.expanduser(name))
        if not name:
            raise DataError(
                "an empty name would be the working folder. Give files, folders or patterns, or . for this folder."
            )
        if os.path.exists(path):
            return [path]
        if not glob.has_magic(name):
            raise DataError(
                f"{clipped(name, 200)} does not exist. Give files, folders or patterns such as 'photos/*.jpg'."
            )
        matches = self._once(glob.glob(_literal_start(path), recursive=True), set(path.parts))
        if not matches:
            self.left_out.patterns.append(name)
        return matches

    def add(self, path: Path) -> None:
        """Take in a file, or the images of a folder."""
        if os.path.isdir(path):
            self._walk(path)
        else:
            self._take(path)

    def _take(self, path: Path) -> None:
        """Take in a file. A link to a file is an image of its own, a way through another folder is
        not."""
        folder = path.parent
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        file = self._real[folder], path.name
        if file not in self._known:
            self._known.add(file)
            self.found.append(path)

    def follow_links(self) -> None:
        """Search the linked folders that were met, and those met in them."""
        while self._links:
            if not self._walk(self._links.pop(0)):
                self.left_out.reasons["linked folders that were searched already"] += 1

    def _once(self, matches: Iterable[str], named: set[str]) -> list[Path]:
        """Leave out what a pattern meets again behind a linked folder, and in folders of a system
        that it does not name."""
        real: dict[str, str] = {}
        kept: dict[str, Path] = {}
        for match in sorted(matches, key=lambda name: (name.count(os.sep), name)):
            path = Path(match)
            if _SYSTEM_FOLDERS.intersection(path.parts) - named:
                self.left_out.reasons["files in folders that a system made for itself"] += 1
                continue
            parent, name = os.path.split(match)
            if parent not in real:
                real[parent] = os.path.realpath(parent)
            if kept.setdefault(os.path.join(real[parent], name), path) != path:
                self.left_out.reasons["files met again behind a linked folder"] += 1
        return sorted(kept.values())

    def _walk(self, top: Path) -> bool:
        """Take in the images of a folder, its files before its folders. Returns whether it was not
        searched before."""
        waiting, new = [top], True
        while waiting:
            folder = waiting.pop()
            try:
                here = _identity(folder)
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                self.left_out.reasons["folders that cannot be read"] += 1
                continue
            if here in self._searched:
                new &= folder is not top
                continue
            self._searched.add(here)
            below: list[Path] = []
            for entry in entries:
                path = folder / entry.name
                if not (os.path.isdir(path) if entry.is_symlink() else entry.is_dir()):
                    self._file(entry, path)
                elif self._is_wanted(entry):
                    (self._links if entry.is_symlink() else below).append(path)
            waiting += reversed(below)
        return new

    def _is_wanted(self, folder: os.DirEntry[str]) -> bool:
        if folder.name.startswith("."):
            self.left_out.reasons["hidden folders"] += 1
        elif folder.name in _SYSTEM_FOLDERS:
            self.left_out.reasons["folders that a system made for itself"] += 1
        else:
            return True
        return False

    def _file(self, entry: os.DirEntry[str], path: Path) -> None:
        suffix = path.suffix.lower()
        if entry.name.startswith("."):
            self.left_out.reasons["hidden files"] += 1
        elif suffix not in IMAGE_SUFFIXES:
            self.left_out.file(suffix)
        elif _is_special(entry):
            self.left_out.reasons["pipes, sockets and devices"] += 1
        else:  # a link that leads nowhere too: it gets a row with an error
            self._take(path)


def _is_special(entry: os.DirEntry[str]) -> bool:
    if entry.is_file(follow_symlinks=False):
        return False
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _identity(folder: Path) -> _Identity:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _literal_start(path: Path) -> str:
    """The path as a pattern in which the folders that exist under just this name stand for
    themselves."""
    start = Path(path.anchor)
    for folder in path.parts[len(start.parts) :]:
        if not os.path.exists(start / folder):
            break
        start /= folder
    rest = path.relative_to(start)
    return os.path.join(glob.escape(str(start)), str(rest))


def _few(kinds: Counter[str]) -> str:
    shown = [f"{suffix} {count:,}" for suffix, count in kinds.most_common(_SHOWN)]
    return ", ".join([*shown, *(["..."] if len(kinds) > _SHOWN else [])])
