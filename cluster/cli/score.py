"""Score: has a service score images and shows or writes a row for each, for `rapo score`.

- Neither Ray nor torch is imported, and pyarrow only for Parquet.
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
from cluster.terminal.format import fixed, percent
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
    """Score files, folders, glob patterns and a list (`-`: `listed`, stdin by default). Returns 0
    if every image got a score, else 1.

    Rows go to `output` (see `ScoreTable`; with `fresh` what is there is ignored), or as a table
    sorted by score to `console`. Progress goes to stderr. Raises `DataError` where there is nothing
    to score, the output cannot be written, or it holds scores of another model or readout; and
    `ServiceError` where no service answers.
    """
    asked: ScoreOptions = options or {}
    images = find_images(paths, (sys.stdin if listed is None else listed) if STDIN in paths else ())
    bar = progress or Console(stderr=True)
    if output is None:
        client.model(asked.get("model_version", ""))  # one clear error now, not one for each image
        rows = [_row(item, asked) for item in _tracked(client, images, asked, in_flight, bar)]
        _show(rows, bool(asked.get("native_scale")), console or Console())
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
                f"{error} {done:,} of {len(images):,} images are scored and kept; the same command scores the rest."
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
    return row is not None and row.aesthetic_score is not None


def _check_alike(table: ScoreTable, client: ScorerClient, asked: ScoreOptions) -> None:
    """Refuse a table of another model or readout, because such scores cannot be compared."""
    model = client.model(asked.get("model_version", ""))
    now = {"model_version": model.model_version, "readout": asked.get("readout") or (*model.readouts, "?")[0]}
    if scale := asked.get("native_scale"):
        now["native_scale"] = scale
    for row in filter(_scored, table.rows.values()):
        for name, value in row.cells(now).items():
            if value != now[name]:
                raise DataError(
                    f"{table.output} holds scores with {name} = {value}, and now it would be {now[name]}. Choose another "
                    "output, or --fresh to score everything anew."
                )


def _row(outcome: Outcome, asked: ScoreOptions) -> ScoreRow:
    image, result = str(outcome.image), outcome.result
    if result is None:
        return ScoreRow(image, error=str(outcome.error))
    scale, interval = asked.get("native_scale"), result.interval
    return ScoreRow(
        image,
        aesthetic_score=result.score,
        interval_low=None if interval is None else interval.low,
        interval_high=None if interval is None else interval.high,
        interval_coverage=None if interval is None else interval.coverage,
        aesthetic_score_std=result.std,
        rationale=result.rationale or None,
        forced=result.forced,
        model_version=result.model_version,
        readout=result.readout,
        native_score=result.native_score if scale else None,
        native_scale=scale or None,
    )


def _tracked(
    client: ScorerClient, images: Sequence[Path], asked: ScoreOptions, in_flight: int | None, console: Console
) -> Iterator[Outcome]:
    if not images:
        return
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # In the order of the answers: each is written at once, so that a crash loses none.
    outcomes: Generator[Outcome, None, None] = client.stream(images, in_flight, **asked)
    with closing(outcomes), Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(outcomes, total=len(images))


def _show(rows: Sequence[ScoreRow], native: bool, console: Console) -> None:
    coverage = next((row.interval_coverage for row in rows if row.interval_coverage is not None), None)
    header = ["score"]
    if coverage is not None:
        header.append(f"{percent(coverage, 0)} interval")
    if native:
        header.append("native")
    table = Table(*header, "image", "rationale")
    for row in sorted(rows, key=lambda row: 1.0 if row.aesthetic_score is None else -row.aesthetic_score):
        cells = [_number(row.aesthetic_score)]
        if coverage is not None:
            known = row.interval_low is not None
            cells.append(f"{_number(row.interval_low)} to {_number(row.interval_high)}" if known else "-")
        if native:
            cells.append(_number(row.native_score))
        # Text, not str: names and rationales may hold what Rich would read as markup.
        words = Text(row.rationale or "") if _scored(row) else Text(row.error or "", style="red")
        table.add_row(*cells, Text(row.image, overflow="fold"), words)
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else fixed(value, 2)
