"""Several data sets in the report and in the summary of a run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster.files.report import Report, RunFacts
from cluster.report.build import render
from cluster.terminal.summary import summary_tables
from rapo.evaluation.comparison import Comparer, SetFacts
from rapo.evaluation.figures import Predicted
from rapo.records import Prediction


@pytest.fixture
def report() -> Report:
    def predicted(name: str) -> Predicted:
        return Predicted([Prediction(f"{name}/{i}", name, i / 9, i / 9, "") for i in range(10)])

    def facts(name: str) -> SetFacts:
        return {
            "collection": name,
            "native_range": [1.0, 10.0],
            "width": 9.0,
            "images": 10,
            "there": 10,
            "source": "here",
        }

    sets = {name: facts(name) for name in ("ava", "para")}
    models = {"RAPO": {name: predicted(name) for name in sets}}
    return Report(run=RunFacts(0, ""), comparison=Comparer(sets, models, 10).compare("expected", ["a <note>"]))


def printed(report: Report) -> str:
    out = io.StringIO()
    console = Console(file=out, width=160)
    for part in summary_tables(report):
        console.print(part)
    return out.getvalue()


def test_the_summary_and_the_page_show_each_set(report: Report, tmp_path: Path) -> None:
    assert "1.0000 / 1.0000" in printed(report)
    page = render(tmp_path, report)
    assert "<h2>By data set</h2>" in page
    assert "0.7842 / 0.7666" in page
    assert "a &lt;note&gt;" in page


def test_one_set_needs_no_table_of_sets(report: Report, tmp_path: Path) -> None:
    alone = replace(report, comparison=None)
    assert "PLCC / SRCC" not in printed(alone)
    assert "By data set" not in render(tmp_path, alone)
