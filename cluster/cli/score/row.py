"""ScoreRow: one image in the output of `rapo score`, and its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.cli.score.names import name_of, path_of
from cluster.files.json_values import finite

#: Columns of the output, in order. `NATIVE_COLUMNS` follow where a native scale is asked for, then
#: the columns that a user added.
INTERVAL_COLUMNS = ("interval_low", "interval_high", "interval_coverage")
COLUMNS = (
    *("image", "aesthetic_score", *INTERVAL_COLUMNS, "aesthetic_score_std"),
    *("rationale", "forced", "model_version", "readout", "error"),
)
NATIVE_COLUMNS = ("native_score", "native_scale")
OWN_COLUMNS = frozenset((*COLUMNS, *NATIVE_COLUMNS))

NUMBERS = frozenset({"aesthetic_score", *INTERVAL_COLUMNS, "aesthetic_score_std", "native_score"})
FLAGS = frozenset({"forced"})
TEXTS = OWN_COLUMNS - NUMBERS - FLAGS

#: What a table must have to be continued. The others may have been removed, or be younger.
REQUIRED = frozenset({"image", "aesthetic_score", "model_version", "readout"})

Cell = float | str | bool | None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One image. `image` is its name (`name_of`). `aesthetic_score` is None where `error` says why;
    `forced` is as in `rapo.client.types.ScoreResult`. `foreign` are the cells of columns that a
    user added."""

    image: str
    aesthetic_score: float | None = None
    interval_low: float | None = None
    interval_high: float | None = None
    interval_coverage: float | None = None
    aesthetic_score_std: float | None = None
    rationale: str | None = None
    forced: bool | None = None
    model_version: str | None = None
    readout: str | None = None
    error: str | None = None
    native_score: float | None = None
    native_scale: str | None = None
    foreign: Mapping[str, object] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        return self.aesthetic_score is not None

    def cells(self, columns: Iterable[str]) -> dict[str, Cell]:
        """The cells of these columns, which are the table's own."""
        return {name: getattr(self, name) for name in columns}

    def full(self, columns: Iterable[str], foreign: Iterable[str]) -> dict[str, object]:
        """The cells of these columns and of these that a user added."""
        return {**self.cells(columns), **{name: self.foreign.get(name) for name in foreign}}


def row_of(cells: Mapping[str, object]) -> ScoreRow:
    """A row that was read from a file. Its name becomes the one that is written today."""
    number = {name: finite(cells.get(name)) for name in NUMBERS}
    text = {name: _text(cells.get(name)) for name in TEXTS}
    flag = cells.get("forced")
    return ScoreRow(
        name_of(path_of(text["image"] or "")),
        number["aesthetic_score"],
        number["interval_low"],
        number["interval_high"],
        number["interval_coverage"],
        number["aesthetic_score_std"],
        text["rationale"],
        flag if isinstance(flag, bool) else None,
        text["model_version"],
        text["readout"],
        text["error"],
        number["native_score"],
        text["native_scale"],
        {name: value for name, value in cells.items() if name not in OWN_COLUMNS},
    )


def _text(value: object) -> str | None:
    # Pandas writes NaN where a text is missing.
    return None if value is None or value == "" or value != value else str(value)
