"""Score: has a service score images and shows or writes a row for each, for `rapo score`.

- Neither Ray nor torch is imported, and pyarrow only for Parquet.
- All images of a call are scored by one model version, also while the service changes its default.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.cli.score.inputs import STDIN, find_images
from cluster.cli.score.names import name_of
from cluster.cli.score.progress import tracked
from cluster.cli.score.row import COLUMNS, NATIVE_COLUMNS, ScoreRow
from cluster.cli.score.table import ScoreTable
from cluster.terminal.format import fixed, percent
from rapo.client.sync import CallError, Outcome, ScoreOptions, ScorerClient
from rapo.errors import DataError, ServiceError
from rapo.util.printable import clipped

#: Exit codes: some images have no score; stopped by Ctrl-C.
_SOME_FAILED, INTERRUPTED = 1, 130


def score_paths(
    paths: Sequence[str],
    client: ScorerClient,
    output: Path | None = None,
    options: ScoreOptions | None = None,
    *,
    in_flight: int | None = None,
    fresh: bool = False,
    listed: Iterable[str | bytes] | None = None,
    console: Console | None = None,
    progress: Console | None = None,
) -> int:
    """Score files, folders, glob patterns and a list (`-`: `listed`, stdin by default). Returns 0
    if every image got a score, 130 after Ctrl-C, else 1.

    Rows go to `output` (see `ScoreTable`; with `fresh` what is there is ignored), or as a table
    sorted by score to `console`. Progress, and how many files were not looked at, go to stderr.
    Raises `DataError` where there is nothing to score, the output cannot be written, or it holds
    scores of another model or readout; and `ServiceError` where no service answers.
    """
    bar = progress or Console(stderr=True)
    inputs = find_images(paths, (sys.stdin.buffer if listed is None else listed) if STDIN in paths else ())
    if words := inputs.left_out.line():
        _say(bar, words)
    asked: ScoreOptions = options or {}
    status = (
        _shown(inputs.images, client, asked, in_flight, console or Console(), bar)
        if output is None
        else (_written(inputs.images, client, output, asked, in_flight, bar, fresh=fresh))
    )
    return status or (_SOME_FAILED if inputs.left_out.patterns else 0)


def _shown(
    images: Sequence[Path],
    client: ScorerClient,
    asked: ScoreOptions,
    in_flight: int | None,
    console: Console,
    bar: Console,
) -> int:
    """Show a table of the scores."""
    model = client.model(asked.get("model_version", ""))  # one clear error now, not one for each image
    asked = {**asked, "model_version": model.model_version}
    rows: list[ScoreRow] = []
    try:
        rows += (_row(item, asked) for item in _outcomes(client, images, asked, in_flight, bar))
    except KeyboardInterrupt:
        _show(rows, bool(asked.get("native_scale")), console)
        _say(bar, f"interrupted after {len(rows):,} of {len(images):,} images. With -o FILE a call can be continued.")
        return INTERRUPTED
    _show(rows, bool(asked.get("native_scale")), console)
    return _status(rows)


def _written(
    images: Sequence[Path],
    client: ScorerClient,
    output: Path,
    asked: ScoreOptions,
    in_flight: int | None,
    bar: Console,
    *,
    fresh: bool,
) -> int:
    """Write a table of the scores."""
    columns = (*COLUMNS, *NATIVE_COLUMNS) if asked.get("native_scale") else COLUMNS
    names = {path: name_of(path) for path in images}
    with ScoreTable(output, columns, fresh=fresh) as table:

        def kept() -> str:
            done = sum(_scored(table, name) for name in names.values())
            again = " without --fresh" if fresh and table.rows else ""
            return f"{done:,} of {len(images):,} images are scored and kept; the same command{again} scores the rest."

        asked = _same_model(table, client, asked)
        try:
            missing = [path for path, name in names.items() if not _scored(table, name)]
            for item in _outcomes(client, missing, asked, in_flight, bar):
                table.append(_row(item, asked))
        except CallError as error:
            raise ServiceError(f"{error} {kept()}") from error
        except KeyboardInterrupt:
            _say(bar, f"interrupted. {kept()}")
            return INTERRUPTED
        table.finish(list(names.values()))
        rows = [table.rows[name] for name in names.values()]
        scored = sum(row.scored for row in rows)
        _say(bar, f"{output}: {scored:,} of {len(rows):,} images have a score")
        return _status(rows)


def _say(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def _status(rows: Sequence[ScoreRow]) -> int:
    return 0 if all(row.scored for row in rows) else _SOME_FAILED


def _scored(table: ScoreTable, name: str) -> bool:
    row = table.rows.get(name)
    return row is not None and row.scored


def _same_model(table: ScoreTable, client: ScorerClient, asked: ScoreOptions) -> ScoreOptions:
    """The options with the version that answers now.

    Raises `DataError` for a table of another version or readout, because such scores cannot be
    compared.
    """
    model = client.model(asked.get("model_version", ""))
    now = {"model_version": model.model_version, "readout": asked.get("readout") or (*model.readouts, "?")[0]}
    if scale := asked.get("native_scale"):
        now["native_scale"] = scale
    for row in table.rows.values():
        for name, value in row.cells(now).items() if row.scored else ():
            if value != now[name]:
                raise DataError(
                    f"{table.output} holds scores with {name} = {clipped(str(value), 80)}, and now it would be "
                    f"{now[name]}. Choose another output, or --fresh to score everything anew."
                )
    return {**asked, "model_version": model.model_version}


def _row(outcome: Outcome, asked: ScoreOptions) -> ScoreRow:
    image, result = name_of(Path(str(outcome.image))), outcome.result
    if result is None:
        return ScoreRow(image, error=clipped(str(outcome.error)))
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


def _outcomes(
    client: ScorerClient, images: Sequence[Path], asked: ScoreOptions, in_flight: int | None, console: Console
) -> Iterator[Outcome]:
    if not images:
        return
    # In the order of the answers: each is written at once, so that a crash loses none.
    outcomes: Generator[Outcome, None, None] = client.stream(images, in_flight, **asked)
    with closing(outcomes):
        yield from tracked(outcomes, len(images), console)


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
        words = Text(row.rationale or "") if row.scored else Text(row.error or "", style="red")
        table.add_row(*cells, Text(row.image, overflow="fold"), words)
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else fixed(value, 2)
