"""Evaluation tables: a comparison as tables of text, for the terminal, Markdown and HTML alike.

- The first table has the form of the paper's: PLCC / SRCC by set, beside published figures.
- A figure that is undefined is called so, and a numbered line below the tables says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rapo.evaluation.comparison import COMPARED, MEAN, Comparison
from rapo.evaluation.figures import Figure
from rapo.evaluation.published import CAVEATS, FULL_SPLIT, PAPER, PAPER_SETS, Pair, PublishedRow

UNDEFINED = "undefined"
#: Stands where nobody has published a figure, or where a model has no predictions.
NONE = "-"


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of a table below a `title` of their own."""

    title: str
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text. The first `words` columns are words, the others numbers."""

    title: str
    columns: list[str]
    sections: list[Section]
    words: int = 1


@dataclass(slots=True)
class Tables:
    """The tables of a comparison, and the lines below them."""

    tables: list[TextTable]
    notes: list[str]


@dataclass(slots=True)
class _Cells:
    """Makes cells, and collects why some are undefined."""

    reasons: dict[str, int] = field(default_factory=dict)

    def number(self, one: Figure, digits: int = 4, *, sign: bool = False, bounds: bool = False) -> str:
        value = one["value"]
        if value is None:
            number = self.reasons.setdefault(str(one["undefined"]), len(self.reasons) + 1)
            return f"{UNDEFINED} [{number}]"
        form = f"{'+' if sign else ''}.{digits}f"
        text = f"{value:{form}}"
        if bounds and one["interval"] is not None:
            low, high = one["interval"]
            text += f" ({low:{form}} to {high:{form}})"
        return text

    def pair(self, figures: Mapping[str, Figure]) -> str:
        cells = [self.number(figures[key]) for key in ("plcc", "srcc")]
        return cells[0] if cells[0].startswith(UNDEFINED) and cells[0] == cells[1] else " / ".join(cells)

    def lines(self) -> Iterator[str]:
        for reason, number in self.reasons.items():
            yield f"[{number}] {UNDEFINED}: {reason}"


def evaluation_tables(comparison: Comparison) -> Tables:
    """All tables of a comparison."""
    cells = _Cells()
    tables = [_overview(comparison, cells), _agreement(comparison, cells), _errors(comparison, cells)]
    if comparison["differences"]:
        tables.append(_differences(comparison, cells))
    notes = [*cells.lines(), *_set_lines(comparison), *comparison["notes"]]
    if len(tables[0].sections) > 1:
        notes += CAVEATS
    return Tables(tables, notes)


def _overview(comparison: Comparison, cells: _Cells) -> TextTable:
    sets = comparison["sets"]
    several = len(sets) > 1
    rows = []
    for model, found in comparison["models"].items():
        row = [model]
        row += [cells.pair(found["sets"][name]["figures"]) if name in found["sets"] else NONE for name in sets]
        rows.append([*row, cells.pair(found["mean"])] if several else row)
    sections = [Section("measured here", rows)]
    of_paper = {name: facts["collection"] for name, facts in sets.items() if facts["collection"] in PAPER_SETS}
    whole = sorted(of_paper.values()) == sorted(PAPER_SETS) and len(sets) == len(PAPER_SETS)
    if of_paper:
        for title, published in (("published, Aes-R1's Table 1", PAPER), ("published, full split", FULL_SPLIT)):
            made = [_published(row, list(sets), of_paper, whole=whole, several=several) for row in published]
            sections.append(Section(title, [row for row in made if any(cell != NONE for cell in row[1:])]))
    columns = ["PLCC / SRCC", *sets, *(["mean"] if several else [])]
    return TextTable("Agreement with human scores", columns, sections)


def _published(
    row: PublishedRow, sets: Sequence[str], of_paper: Mapping[str, str], *, whole: bool, several: bool
) -> list[str]:
    def pair(figures: Pair | None) -> str:
        return NONE if figures is None else f"{figures[0]:.4f} / {figures[1]:.4f}"

    cells = [row.model, *(pair(row.sets.get(of_paper.get(name, ""))) for name in sets)]
    return [*cells, pair(row.mean if whole else None)] if several else cells


def _agreement(comparison: Comparison, cells: _Cells) -> TextTable:
    sections = []
    for name in comparison["sets"]:
        rows = []
        for model, found in comparison["models"].items():
            if name in found["sets"]:
                one = found["sets"][name]
                figures = one["figures"]
                bounded = [cells.number(figures[key], 3, bounds=True) for key in ("plcc", "srcc")]
                share = cells.number(figures["parse_rate"], 3)
                krcc = cells.number(figures["krcc"], 3)
                rows.append([model, *bounded, krcc, share, f"{one['forced']:,}", f"{one['n']:,}"])
        sections.append(Section(name, rows))
    if len(sections) > 1:
        means = []
        for model, found in comparison["models"].items():
            figures = found["mean"]
            bounded = [cells.number(figures[key], 3, bounds=True) for key in ("plcc", "srcc")]
            means.append(
                [model, *bounded, cells.number(figures["krcc"], 3), cells.number(figures["parse_rate"], 3), "", ""]
            )
        sections.append(Section("mean over sets", means))
    columns = ["model", "PLCC (95 %)", "SRCC (95 %)", "KRCC", "parse rate", "forced", "images"]
    return TextTable("Agreement by set", columns, sections)


def _errors(comparison: Comparison, cells: _Cells) -> TextTable:
    sections = []
    for name, facts in comparison["sets"].items():
        rows = []
        for model, found in comparison["models"].items():
            if name in found["sets"]:
                figures = found["sets"][name]["figures"]
                rows.append(
                    [
                        model,
                        cells.number(figures["mae"], 3, bounds=True),
                        cells.number(figures["native_mae"], 3),
                        cells.number(figures["rmse"], 3),
                        cells.number(figures["bias"], 3, sign=True),
                        cells.number(figures["spread"], 2),
                    ]
                )
        low, high = facts["native_range"]
        sections.append(Section(f"{name}, native scale {low:g} to {high:g}", rows))
    columns = ["model", "MAE (95 %)", "native MAE", "RMSE", "bias", "spread ratio"]
    return TextTable("Errors on [0, 1]", columns, sections)


def _differences(comparison: Comparison, cells: _Cells) -> TextTable:
    sections = []
    for name in (*comparison["sets"], MEAN):
        rows = [
            [
                f"{row['a']} - {row['b']}",
                *(cells.number(row["figures"][key], 3, sign=True, bounds=True) for key in COMPARED),
                f"{row['n']:,}",
            ]
            for row in comparison["differences"]
            if row["set"] == name
        ]
        if rows:
            sections.append(Section("mean over sets" if name == MEAN else name, rows))
    columns = ["difference", *(f"{key.upper()} (95 %)" for key in COMPARED), "images"]
    return TextTable("Paired differences", columns, sections)


def _set_lines(comparison: Comparison) -> Iterator[str]:
    yield (
        f"Readout {comparison['readout']}. PLCC without a fitted curve. Intervals of 95 % by {comparison['bootstrap']:,} "
        f"bootstrap resamples of the images (seed {comparison['seed']}). The spread ratio is the sd of the predictions over "
        "that of the human scores."
    )
    for name, facts in comparison["sets"].items():
        sample = f"{facts['images']:,} images"
        if facts["images"] < facts["there"]:
            sample += f", a sample of {facts['there']:,}"
        yield f"{name}: {sample}, from {facts['source']}"
