"""What `rapo score` does: find images, have a running service score them, show or write a row for each.

A light command: neither Ray nor torch is imported, and pyarrow only for Parquet.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rapo.client import DEFAULT_TARGET, Outcome, ScorerClient
from rapo.errors import DataError, ResourceError

#: What counts as an image inside a folder, formats included that the service refuses: a row with an error is better
#: than a file that silently has none. A file that is named outright is sent whatever its suffix.
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

#: Columns of the output, in order. `aesthetic_score` is null where `error` says why.
COLUMNS = ("image", "aesthetic_score", "rationale", "model_version", "error")

Row = dict[str, Any]


def score_paths(
    paths: Sequence[str],
    server: str = DEFAULT_TARGET,
    output: Path | None = None,
    concurrency: int = 8,
    console: Console | None = None,
) -> int:
    """Score files, folders and glob patterns; return 0 if every image got a score, else 1.

    Rows go to `output` (.csv, .jsonl or .parquet, written whole or not at all; in the order found), or as a table
    sorted by score to `console`. Progress goes to stderr. Raises `DataError` where there is nothing to score or the
    output cannot be written, and `ServiceError` where no service answers.
    """
    write = _writer(output) if output is not None else None
    images = find_images(paths)
    with ScorerClient(server) as client:
        client.model()  # one clear error now rather than one for each image
        outcomes = client.score_many(images, concurrency)
        rows = [_row(outcome) for outcome in _with_progress(outcomes, len(images))]
    if write is not None and output is not None:
        _write_whole(output, write(rows))
    else:
        _show(rows, console or Console())
    return 1 if any(row["error"] is not None for row in rows) else 0


def find_images(paths: Sequence[str]) -> list[Path]:
    """The images that `paths` name, each once, in order; folders are searched to the bottom, sorted by name.

    Raises `DataError` for a name that does not exist and where nothing is found at all.
    """
    found: dict[Path, None] = {}
    for name in paths:
        for path in _expand(name):
            found.update(dict.fromkeys(_walk(path) if path.is_dir() else [path]))
    if not found:
        raise DataError(
            f"no images in {', '.join(paths) or 'an empty list'}. Give files, folders or patterns; inside folders "
            f"these suffixes count: {', '.join(sorted(SUFFIXES))}."
        )
    return list(found)


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.exists():
        return [path]
    if glob.has_magic(name):
        return [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    raise DataError(f"{name} does not exist. Give files, folders or patterns such as 'photos/*.jpg'.")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(parent, name)


def _row(outcome: Outcome) -> Row:
    result = outcome.result
    return {
        "image": str(outcome.image),
        "aesthetic_score": result.score if result is not None else None,
        "rationale": result.rationale if result is not None else None,
        "model_version": result.model_version if result is not None else None,
        "error": str(outcome.error) if outcome.error is not None else None,
    }


def _with_progress(outcomes: Iterable[Outcome], total: int) -> Iterator[Outcome]:
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(outcomes, total=total)


def _show(rows: Sequence[Row], console: Console) -> None:
    table = Table("score", "image", "rationale")
    scored = [row for row in rows if row["error"] is None]
    for row in sorted(scored, key=lambda row: -row["aesthetic_score"]):
        # Text, not str: names and rationales may hold what Rich would read as markup.
        table.add_row(f"{row['aesthetic_score']:.2f}", Text(row["image"], overflow="fold"), Text(row["rationale"]))
    for row in rows:
        if row["error"] is not None:
            table.add_row("-", Text(row["image"], overflow="fold"), Text(row["error"], style="red"))
    console.print(table)


def _writer(output: Path) -> Callable[[Sequence[Row]], bytes]:
    """The encoder for the suffix of `output`. All that can be wrong with it is found before any image is scored."""
    writers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    suffix = output.suffix.lower()
    if suffix not in writers:
        raise DataError(f"cannot write {output}: the name must end in {', '.join(writers)}.")
    if not output.parent.is_dir():
        raise DataError(f"cannot write {output}: the folder {output.parent} does not exist. Create it first.")
    if output.is_dir():
        raise DataError(f"cannot write {output}: it is a folder.")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ResourceError(f"{output} needs pyarrow: pip install pyarrow, or write .csv or .jsonl.") from error
    return writers[suffix]


def _csv(rows: Sequence[Row]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", errors="replace")


def _jsonl(rows: Sequence[Row]) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", errors="replace")


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Types are given, or a column of nothing but nulls would lose its own.
    schema = pa.schema([(name, pa.float64() if name == "aesthetic_score" else pa.string()) for name in COLUMNS])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink)
    return sink.getvalue().to_pybytes()


def _write_whole(output: Path, data: bytes) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as file:
            aside = Path(file.name)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                umask = os.umask(0)
                os.umask(umask)
                aside.chmod(0o666 & ~umask)  # a temporary file is private; a result should be as any other file
                aside.replace(output)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise DataError(f"cannot write {output}: {error.strerror or error}.") from error
