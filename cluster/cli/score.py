"""What `rapo score` does: find images, have a service score them, show or write a row for each.

A light command: neither Ray nor torch is imported, and pyarrow only for Parquet.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cluster.cli.score_inputs import STDIN, find_images
from cluster.cli.score_table import COLUMNS, NATIVE_COLUMNS, ScoreRow, ScoreTable
from rapo.client.sync import CallError, Outcome, ScoreOptions, ScorerClient
from rapo.errors import DataError, ServiceError


def score_paths(
    paths: Sequence[str],
    client: ScorerClient,
    output: Path | None = None,
    options: ScoreOptions | None = None,
    *,
    in_flight: int | None = None,
    fresh: bool = False,
    listed: Iterable[str] | None = None,
    console: Console | None = None,
    progress: Console | None = None,
) -> int:
    """Score files, folders, glob patterns and a list (`-`: `listed`, stdin by default); 0 if every
    image got a score, else 1.

    Rows go to `output` (see `ScoreTable`; with `fresh` what is there is ignored), or as a table
    sorted by score to `console`. Progress goes to stderr. Raises `DataError` where there is nothing
    to score, the output cannot be written, or holds scores of another model or readout; and
    `ServiceError` where no service answers.
    """
    asked: ScoreOptions = options or {}
    images = find_images(paths, (sys.stdin if listed is None else listed) if STDIN in paths else ())
    bar = progress or Console(stderr=True)
    if output is None:
        client.model(asked.get("model_version", ""))  # one clear error now
        rows = [_row(item, asked) for item in _tracked(client, images, asked, in_flight, bar)]
        _show(rows, console or Console())
        return _status(rows)
    columns = (*COLUMNS, *NATIVE_COLUMNS) if asked.get("native_scale") else COLUMNS
    with ScoreTable(output, columns, fresh=fresh) as table:
        _check_alike(table, client, asked)
        missing = [path for path in images if not _scored(table.rows.get(str(path)))]
        try:
            for item in _tracked(client, missing, asked, in_flight, bar):
                table.append(_row(item, asked))
        except CallError as error:
            done = sum(_scored(table.rows.get(str(path))) for path in images)
            raise ServiceError(
                f"{error} {done:,} of {len(images):,} images are scored and kept; the same command goes on with the rest."
            ) from error
        table.finish([str(path) for path in images])
        rows = [table.rows[str(path)] for path in images]
        bar.print(
            f"{output}: {sum(map(_scored, rows)):,} of {len(rows):,} images have a score", highlight=False, markup=False
        )
        return _status(rows)


def _status(rows: Sequence[ScoreRow]) -> int:
    return 0 if all(_scored(row) for row in rows) else 1


def _scored(row: ScoreRow | None) -> bool:
    return row is not None and row["aesthetic_score"] is not None


def _check_alike(table: ScoreTable, client: ScorerClient, asked: ScoreOptions) -> None:
    """Scores of two models or readouts cannot be compared: they must not come into one table
    unnoticed."""
    model = client.model(asked.get("model_version", ""))
    now: ScoreRow = {"model_version": model.model_version, "readout": asked.get("readout") or (*model.readouts, "?")[0]}
    if scale := asked.get("native_scale"):
        now["native_scale"] = scale
    for row in table.rows.values():
        for name, value in now.items():
            if _scored(row) and row.get(name) != value:
                raise DataError(
                    f"{table.output} holds scores with {name} = {row.get(name)}, and now it would be {value}. Choose another "
                    "output, or --fresh to score everything anew."
                )


def _row(outcome: Outcome, asked: ScoreOptions) -> ScoreRow:
    result = outcome.result
    row: ScoreRow = {
        "image": str(outcome.image),
        "aesthetic_score": result.score if result is not None else None,
        "aesthetic_score_std": result.std if result is not None else None,
        "rationale": result.rationale or None if result is not None else None,
        "model_version": result.model_version if result is not None else None,
        "readout": result.readout if result is not None else None,
        "error": str(outcome.error) if outcome.error is not None else None,
    }
    if scale := asked.get("native_scale"):
        row["native_score"] = result.native_score if result is not None else None
        row["native_scale"] = scale if result is not None else None
    return row


def _tracked(
    client: ScorerClient, images: Sequence[Path], asked: ScoreOptions, in_flight: int | None, console: Console
) -> Iterator[Outcome]:
    if not images:
        return
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # As they are ready: what is answered is written down at once, and a crash loses none of it.
    outcomes: Generator[Outcome, None, None] = client.stream(images, in_flight, **asked)
    with closing(outcomes), Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(outcomes, total=len(images))


def _show(rows: Sequence[ScoreRow], console: Console) -> None:
    native = any("native_score" in row for row in rows)
    table = Table("score", *(["native"] if native else []), "image", "rationale")
    for row in sorted((row for row in rows if _scored(row)), key=lambda row: -row["aesthetic_score"]):
        spread = f" ± {row['aesthetic_score_std']:.2f}" if row["aesthetic_score_std"] is not None else ""
        cells = [f"{row['aesthetic_score']:.2f}{spread}", *([f"{row['native_score']:.2f}"] if native else [])]
        # Text, not str: names and rationales may hold what Rich would read as markup.
        table.add_row(*cells, Text(row["image"], overflow="fold"), Text(row["rationale"] or ""))
    for row in rows:
        if not _scored(row):
            cells = ["-", *(["-"] if native else [])]
            table.add_row(*cells, Text(row["image"], overflow="fold"), Text(row["error"] or "", style="red"))
    console.print(table)
