"""The report: strict JSON, and a page that stands alone and copes with whatever a run left
behind."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from producers import finished_run

from cluster.files.alerts import read_alerts
from cluster.files.jsonl import append_jsonl
from cluster.files.predictions import PredictionRow, write_predictions
from cluster.files.report import Report, RunFacts
from cluster.pipeline.runner import Pipeline
from cluster.report import plots
from cluster.report.build import render, write_report
from cluster.report.gallery import choose, rationale, thumbnail
from cluster.report.sentences import verdict
from cluster.terminal.console import Console
from rapo.algorithm.alert_kinds import Alert
from rapo.explanations.grounding_judge import GroundingVerdict
from rapo.explanations.judged import judged_grounding

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text, headings, attributes, and checks that elements nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack and data.strip():
            self.texts.append(" ".join(data.split()))
            if self.stack[-1] == "h2":
                self.headings.append(self.texts[-1])

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def values(self, tag: str, name: str) -> list[str]:
        return [v or "" for t, n, v in self.attributes if (t, n) == (tag, name)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A finished run and its report, as the stages and the pipeline make them."""
    config, folder = finished_run(tmp_path_factory.mktemp("made") / "run")
    with (folder / "rapo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "rew')
    return folder.path, Pipeline(config, folder, Console()).report()


@pytest.fixture
def run(made: tuple[Path, Report], tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(made[0], tmp_path / "run")


@pytest.fixture
def report(made: tuple[Path, Report]) -> Report:
    return made[1]


def changed(report: Report, model: str, **values: Any) -> Report:
    """`report` with other values in the evaluation of a model."""
    evaluation: Any = {**report.evaluate[model], **values}
    return replace(report, evaluate={**report.evaluate, model: evaluation})


def without(report: Report, *models: str) -> Report:
    return replace(report, evaluate={model: row for model, row in report.evaluate.items() if model not in models})


def test_the_report_is_strict_json_and_leaves_no_other_file(run: Path, report: Report) -> None:
    before = {p.name for p in run.iterdir()}
    write_report(run, changed(report, "rapo", plcc=math.nan, srcc=0.742))
    assert {p.name for p in run.iterdir()} - before == {"report.json", "report.html"}
    text = (run / "report.json").read_text()
    assert "NaN" not in text
    loaded = json.loads(text)
    assert loaded["evaluate"]["rapo"]["plcc"] is None
    assert loaded["evaluate"]["rapo"]["srcc"] == 0.742
    assert loaded.keys() == {
        "run",
        "stages",
        "versions",
        "data",
        "aescot",
        "alerts",
        "evaluate",
        "comparison",
        "served",
    }
    assert loaded["stages"]["rapo"] == {"seconds": 87.7}


def test_the_page_stands_alone(run: Path, report: Report) -> None:
    html = render(run, report)
    page = Page(html)
    words = re.sub(r'"data:image/[^"]*"', '""', html)
    assert not re.search(r"https?://|//[a-z]|<script|@import|url\((?!#)", words)
    zero = page.text.partition("Zero at every step, not shown: ")[2].partition(".")[0].split("; ")
    assert "Staleness (steps)" in zero
    panels = 10 - len(zero)
    assert html.count("<svg") == len(page.values("svg", "viewbox")) == panels + 1 + 2, "panels, validation, scatter"
    references = page.values("img", "src") + page.values("use", "xlink:href") + page.values("image", "xlink:href")
    assert len(page.values("img", "src")) == 6
    assert references
    assert all(value.startswith(("data:image/", "#")) for value in references)
    for identifier in {value[1:] for value in references if value.startswith("#")}:
        assert f'id="{identifier}"' in html


def test_the_calibrated_interval_is_in_the_report_and_on_the_page(run: Path, report: Report) -> None:
    write_report(run, report)
    found = json.loads((run / "report.json").read_text())["evaluate"]["rapo"]["interval"]
    says = f"The 90 % interval holds {found['inside']} of 40 simulated raters' scores: {100 * found['measured']:.1f} %"
    assert says in Page((run / "report.html").read_text()).text
    assert "No calibrated interval" in Page(render(run, changed(report, "rapo", interval=None))).text
    assert "interval holds" not in Page(render(run, without(report, "rapo"))).text


def test_what_a_judge_model_found_has_a_row(run: Path, report: Report) -> None:
    assert "by a judge model" not in Page(render(run, report)).text
    verdicts = judged_grounding([GroundingVerdict((True, False, False, False, True))], "m")
    explanations: Any = {**report.evaluate["rapo"]["explanations"], "judged": verdicts}
    said = Page(render(run, changed(report, "rapo", explanations=explanations))).text
    assert re.search(r"Grounding, by a judge model\W+0\.400", said)


def test_plots_take_their_colours_from_the_page(run: Path, report: Report) -> None:
    html = render(run, report)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", html))
    light, dark = (set(re.findall(r"(--[a-z0-9-]+):", part)) for part in html.split("prefers-color-scheme: dark")[:2])
    assert {"--ink", "--muted", "--grid", "--series-1", "--series-2"} <= used <= light & dark
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg), "a colour that does not follow the page"
        assert "DejaVu" not in svg


def test_what_the_page_says(run: Path, report: Report) -> None:
    (run / "config.toml").write_text('[run]\nseed = 7\nnote = "<b>"\n')
    page = Page(render(run, report))
    text = page.text
    assert page.headings == [
        "Evaluation", "Explanations and resolution", "Predicted against simulated raters' scores",
        "Images, as the RAPO model sees them",
        "Validation during RAPO", "Training curves, by RAPO step", "AesCoT: 480 critiques generated",
        "Where the time went", "How to repeat this run",
    ]  # fmt: skip
    low, high = report.evaluate["rapo"]["srcc_interval"] or (0.0, 0.0)
    for part in (
        "RAPO on embedded scenes", f"{low:.3f} – {high:.3f}", "95.0 %",
        "Cold start: 2 of 40 answers invalid, not shown.", "16 train, 24 validation, 40 test images", "scores from 1 to 10",
        "24 test images were scored over gRPC in 1.9 s; largest difference from the evaluation: 0.000.",
        "Grounding, light and shadow", "Score told from the text", "with the images' own attributes, which",
        "The explanations got worse: mean grounding 0.000 → 0.000, different rationales 2 → 1 on 40 images.",
        "Rejected: leak", "87.7", "62.2 %", report.versions["torch"], 'note = "<b>"',
        " at step ", "Reward", "Entropy of the policy",
        "Seconds per step", "absolute", "rollout", "Unreadable lines in metrics.jsonl: 1.", "<script>soft light", "seed 7",
    ):  # fmt: skip
        assert part in text, part
    assert "nan" not in text.lower()


def test_every_panel_shows_what_the_controller_writes(run: Path, report: Report) -> None:
    html = render(run, report)
    text = Page(html).text
    assert "Not recorded" not in text
    for part in (
        "Mean grounding on validation images",
        "Staleness (steps)",
        "Idle share",
        "reward",
        "weights",
    ):
        assert part in text
    assert "var(--series-4)" in html, "one of four lines is missing"


def test_a_panel_without_values_is_named(run: Path, report: Report) -> None:
    (run / "rapo" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    text = Page(render(run, report)).text
    assert "Not recorded: Reward; Share of completions that parse; Entropy of the policy; Mean grounding" in text


def test_a_panel_that_is_always_zero_is_named_and_not_drawn(run: Path, report: Report) -> None:
    (run / "rapo" / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 0.5, "kl": 0.0}\n{"step": 2, "loss": 0, "kl": 0}\n'
    )
    page = Page(render(run, report))
    assert "Zero at every step, not shown: KL from the reference policy." in page.text
    assert "KL from the reference policy over RAPO steps" not in str(page.values("svg", "aria-label"))
    assert "Loss" in page.text


def test_scores_of_people_are_called_human(run: Path, report: Report) -> None:
    assert report.data is not None
    page = Page(render(run, replace(report, data=replace(report.data, name="ava"))))
    assert "Predicted against human scores" in page.headings
    assert "simulated" not in page.text


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (0.612, 0.742, "simulated raters' scores (SRCC) on 40 held-out images from 0.612 to 0.742."),
        (
            0.742,
            0.742,
            "RAPO left the rank correlation with simulated raters' scores (SRCC) on 40 held-out images at 0.742",
        ),
        (0.8, 0.742, "RAPO lowered the rank correlation"),
        (None, 0.742, "is 0.742; there is no cold start to compare with."),
        (0.612, None, "is 0.612; there is no result of RAPO."),
        (None, None, "No model has been evaluated yet."),
    ],
)
def test_the_verdict_says_what_happened(
    run: Path, report: Report, before: float | None, after: float | None, says: str
) -> None:
    report = changed(report, "coldstart", srcc=before, srcc_interval=[0.53, 0.67])
    report = changed(report, "rapo", srcc=after, srcc_interval=[0.68, 0.79])
    assert says in Page(render(run, report)).text
    if None in (before, after):
        absent = [model for model, srcc in (("coldstart", before), ("rapo", after)) if srcc is None]
        assert verdict(without(report, *absent)).endswith(says)


def test_the_verdict_says_whether_the_intervals_overlap(report: Report) -> None:
    report = changed(report, "coldstart", srcc=0.7, srcc_interval=[0.6, 0.75])
    report = changed(report, "rapo", srcc=0.742, srcc_interval=[0.68, 0.79])
    assert verdict(report).endswith("0.742, though the two intervals overlap.")
    assert verdict(changed(report, "rapo", srcc_interval=None)).endswith("0.742.")


def test_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    write_report(tmp_path, Report(RunFacts(0, str(tmp_path))))
    page = Page((tmp_path / "report.html").read_text())
    assert page.headings == ["How to repeat this run"]
    for part in (
        "No model has been evaluated yet.", "The evaluation is not shown", "evaluate/coldstart.parquet is missing",
        "evaluate/rapo.parquet is missing", "Images are not shown", "Validation is not shown",
        "Training curves are not shown", "AesCoT is not shown", "Times are not shown", "Versions are not shown",
        "The configuration is not shown",
    ):  # fmt: skip
        assert part in page.text, part


def test_damaged_inputs_cost_only_their_own_part(run: Path, report: Report) -> None:
    path = run / "evaluate" / "rapo.parquet"
    path.write_bytes(b"PAR1 not really")
    for image in (run / "data").rglob("*.jpg"):
        image.write_bytes(b"no image")
    (run / "rapo" / "metrics.jsonl").write_bytes(b'\xff\n[1]\n{"step": null}\n{"step": 1, "loss": 0.5}\n')
    page = Page(render(run, report))
    assert "Predictions of the RAPO model are not shown: evaluate/rapo.parquet is not readable." in page.text
    assert "Images, as the cold start model sees them" in page.headings
    assert "Unreadable lines in metrics.jsonl: 3." in page.text
    pq.write_table(pa.table({"uid": ["a"], "score": [0.5]}), path)
    assert "evaluate/rapo.parquet is not readable." in Page(render(run, report)).text
    write_predictions(path, [PredictionRow("a", "s", None, 0.5, None, "", "no_think", "greedy")])
    assert "RAPO model are not shown: no valid prediction." in Page(render(run, report)).text


def test_a_repeated_step_counts_once_as_it_was_last(run: Path, report: Report) -> None:
    path = run / "rapo" / "metrics.jsonl"
    path.write_text('{"step": 2, "validation": {"srcc": 0.9}}\n{"step": 1, "validation": {"srcc": 0.5}}\n')
    with path.open("a") as file:
        file.write('{"step": 2, "validation": {"srcc": 0.4}}\n')
        file.write('{"step": 2, "seconds": {"rollout": 1}}\n{"step": 2, "seconds": {"validation": 9}}\n')
    shuffled = render(run, report)
    assert "0.500 at step 1" in Page(shuffled).text
    second = {"step": 2, "validation": {"srcc": 0.4}, "seconds": {"rollout": 1}}
    path.write_text('{"step": 1, "validation": {"srcc": 0.5}}\n' + json.dumps(second))
    assert render(run, report) == shuffled


def test_the_page_shows_the_alerts(run: Path, report: Report) -> None:
    before = render(run, report)
    assert "No warnings: rapo/alerts.jsonl is missing or empty." in Page(before).text
    assert "Warnings" not in Page(before).headings
    path = run / "rapo" / "alerts.jsonl"
    for alert in (
        Alert(30, "no_signal", "All <b>alike</b>.", {"zero_spread": 1.0}),
        Alert(20, "entropy_collapse", "First as it was.", {}),
        Alert(20, "entropy_collapse", "Then as it is.", {"entropy": math.nan}, fatal=True),
    ):
        append_jsonl(path, alert.row())
    for line in ({"step": None, "kind": "x", "text": "No step."}, [1], {"step": 1, "kind": "no_text"}):
        append_jsonl(path, line)
    with path.open("ab") as file:
        file.write(b'{"step": 40, "ki\xff')
    html = render(run, report)
    page = Page(html)
    assert page.headings.index("Warnings") == page.headings.index("Validation during RAPO") + 1
    assert page.text.index("Entropy collapse; the run was ended.") < page.text.index("No signal.")
    assert "All <b>alike</b>." in page.text
    assert "First as it was." not in page.text
    assert "Dotted: steps at which a warning arose." in page.text
    assert html.count("stroke-dasharray") == before.count("stroke-dasharray") + 2
    found = read_alerts(run)
    assert [(f["step"], f["kind"], f["fatal"]) for f in found] == [
        (20, "entropy_collapse", True),
        (30, "no_signal", False),
    ]
    assert found[1]["values"] == {"zero_spread": 1.0}


def test_the_same_run_makes_the_same_page(run: Path, report: Report) -> None:
    assert render(run, report) == render(run, report)


def test_the_six_images(tmp_path: Path) -> None:
    pairs = [(0.5, 0.9), (0.5, 0.1), (0.1, 0.6), (0.85, 0.4), (0.5, 0.51), (0.3, 0.35), (0.6, 0.7)]
    rows = [PredictionRow(str(i), "s", None, t, s, "", None, "greedy") for i, (t, s) in enumerate(pairs)]
    before = {"5": 0.9, "4": 0.52}
    assert [(p.title.split()[0], p.uid) for p in choose(rows, before, tmp_path)] == [
        ("Highest", "0"), ("Lowest", "1"), ("Largest", "2"), ("Largest", "3"), ("Largest", "5"), ("Closest", "4"),
    ]  # fmt: skip
    assert choose(rows[:2], before, tmp_path)[-1].uid == "1"


def test_rationales_lose_their_tags_and_end_at_a_word() -> None:
    assert rationale("<think> soft\n light </think><answer>0.5</answer>") == "soft light"
    assert rationale("<think>cut off") == "cut off"
    long = rationale("<think>" + "word " * 200 + "</think><answer>0.50</answer>")
    assert long.endswith("word …")
    assert len(long) < 430


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (3000, 1000), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    image.save(tmp_path / "a.jpg", exif=exif)
    source = thumbnail(tmp_path / "a.jpg")
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as small:
        assert small.size == (130, 390)
    assert thumbnail(tmp_path / "none.jpg") is None
    assert thumbnail(tmp_path) is None


def test_moving_mean_keeps_length_and_level() -> None:
    values = np.arange(60, dtype=np.float64)
    span = plots.window(values.size)
    mean = plots.moving_mean(values, span)
    assert span % 2 == 1
    assert mean.shape == values.shape
    assert mean[30] == pytest.approx(30.0)
    assert plots.moving_mean(np.full(40, 2.0, dtype=np.float64), 5) == pytest.approx(np.full(40, 2.0))
    assert plots.window(10) == 1


def test_many_points_become_a_bitmap() -> None:
    points = np.random.default_rng(0).uniform(size=(2, 5000))
    svg = plots.scatter_svg(points[0], points[1], (0.0, 1.0), raters="human", alt='a "b"')
    assert "data:image/png;base64," in svg
    assert len(svg) < 400_000
    assert 'aria-label="a &quot;b&quot;"' in svg
