"""The report: strict JSON, and a page that stands alone and copes with whatever a run left
behind."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.files.alerts import read_alerts
from cluster.report import plots
from cluster.report.build import render, write_report
from cluster.report.gallery import choose, rationale, thumbnail
from rapo.answers.parse import format_completion

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


def _report(folder: Path) -> dict[str, Any]:
    return {
        "stages": {"aescot": {"seconds": 12.3}, "rapo": {"seconds": 87.7}, "export": {"seconds": None}},
        "evaluate": {
            "coldstart": {"srcc": 0.612, "plcc": 0.63, "krcc": 0.44, "mae": 0.101, "parse_rate": 0.95, "n": 40,
                          "srcc_interval": [0.53, 0.67], "plcc_interval": None},
            "rapo": {"srcc": 0.742, "plcc": math.nan, "krcc": None, "mae": 0.071, "parse_rate": 1.0, "n": 40,
                     "srcc_interval": [0.68, 0.79]},
        },
        "aescot": {"generated": 480, "kept": 431, "rejected": {"leak": 12, "factual": 37}},
        "data": {"name": "scenes", "counts": {"train": 2000, "test": 40}, "native_range": [1, 10], "skipped": 3},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "run": {"seed": 7, "dir": str(folder)},
        "served": {"images": 24, "seconds": 1.9, "max_abs_difference": 0.0},
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("rapo", "evaluate", "images"):
        (tmp_path / folder).mkdir()
    targets = rng.uniform(0.2, 0.9, 40)
    for model, noise in (("coldstart", 0.2), ("rapo", 0.05)):
        rows = []
        for i, target in enumerate(targets):
            score: float | None = float(np.clip(target + noise * rng.normal(), 0, 1))
            text = format_completion(f"<script>alert({i})</script> soft light", score or 0.0)
            invalid = model == "coldstart" and i < 2
            rows.append(
                {"uid": f"u{i:02d}", "target": target, "score": None if invalid else score, "text": text,
                 "reason": "no_think" if invalid else None, "path": f"images/{i}.png"}
            )  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "evaluate" / f"{model}.parquet")
    for i in range(40):
        Image.new("RGB", (64, 48), (i * 6, 100, 50)).save(tmp_path / "images" / f"{i}.png")
    lines = []
    for step in range(1, 41):
        row: dict[str, Any] = {"step": step, "reward_mean": 1.5 + step / 100, "absolute_mean": 0.4, "entropy": 0.7}
        row |= {"relative_mean": None, "seconds": {"rollout": 1.0, "learner": 0.5}}
        if step % 10 == 0:
            row["validation"] = {"srcc": 0.6 + step / 400}
        lines.append(json.dumps(row))
    (tmp_path / "rapo" / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 41, "rew')
    (tmp_path / "config.toml").write_text('[run]\nseed = 7\nnote = "<b>"\n')
    return tmp_path


def test_the_report_is_strict_json_and_leaves_no_other_file(run: Path) -> None:
    before = {p.name for p in run.iterdir()}
    write_report(run, _report(run))
    assert {p.name for p in run.iterdir()} - before == {"report.json", "report.html"}
    text = (run / "report.json").read_text()
    assert "NaN" not in text
    loaded = json.loads(text)
    assert loaded["evaluate"]["rapo"]["plcc"] is None
    assert loaded["evaluate"]["rapo"]["srcc"] == 0.742


def test_the_page_stands_alone(run: Path) -> None:
    html = render(run, _report(run))
    page = Page(html)
    assert not re.search(r"https?://|//[a-z]|<script|@import|url\((?!#)", html)
    assert html.count("<svg") == len(page.values("svg", "viewbox")) == 6
    references = page.values("img", "src") + page.values("use", "xlink:href") + page.values("image", "xlink:href")
    assert len(page.values("img", "src")) == 6
    assert references
    assert all(value.startswith(("data:image/", "#")) for value in references)
    for identifier in {value[1:] for value in references if value.startswith("#")}:
        assert f'id="{identifier}"' in html


def test_plots_take_their_colours_from_the_page(run: Path) -> None:
    html = render(run, _report(run))
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", html))
    light, dark = (set(re.findall(r"(--[a-z0-9-]+):", part)) for part in html.split("prefers-color-scheme: dark")[:2])
    assert {"--ink", "--muted", "--grid", "--series-1", "--series-2"} <= used <= light & dark
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg), "a colour that does not follow the page"
        assert "DejaVu" not in svg


def test_what_the_page_says(run: Path) -> None:
    page = Page(render(run, _report(run)))
    text = page.text
    assert page.headings == [
        "Evaluation", "Predicted against human scores", "Images, as the RAPO model sees them",
        "Validation during RAPO", "Training curves, by RAPO step", "AesCoT: 480 critiques generated",
        "Where the time went", "How to make it again",
    ]  # fmt: skip
    assert (
        "RAPO raised the rank correlation with human scores (SRCC) on 40 held-out images from 0.612 to 0.742." in text
    )
    for part in (
        "0.530 – 0.670", "95.0 %", "Cold start: 2 of 40 answers invalid, not drawn.", "2,000 train, 40 test images",
        "24 test images were scored over gRPC in 1.9 s; largest difference from the evaluation: 0.000.",
        "Rejected: leak", "87.7 %", "2.13.0", 'note = "<b>"', "0.700 at step 40", "Reward", "Entropy of the policy",
        "Seconds per step", "absolute", "rollout",
        "Not recorded: Share of completions that parse; Loss; KL from the reference policy; KL between sampler and",
        "Unreadable lines in metrics.jsonl: 1.", "<script>alert(", "seed 7",
    ):  # fmt: skip
        assert part in text, part
    assert "nan" not in text.lower()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"coldstart": {"srcc": 0.742}}, "RAPO left the rank correlation with human scores (SRCC) on 40 held-out"),
        ({"coldstart": {"srcc": 0.8}}, "RAPO lowered the rank correlation"),
        ({"coldstart": {"srcc": 0.7, "srcc_interval": [0.6, 0.75]}}, "0.742, though the two intervals overlap."),
        ({"coldstart": None}, "is 0.742; no cold start to compare."),
        ({"rapo": {"srcc": None}}, "is 0.612; no RAPO yet."),
        ({"coldstart": None, "rapo": None}, "No model has been evaluated yet."),
    ],
)
def test_the_verdict_says_what_happened(run: Path, change: dict[str, Any], says: str) -> None:
    report = _report(run)
    report["evaluate"] |= change
    assert says in Page(render(run, report)).text


def test_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    write_report(tmp_path, {})
    page = Page((tmp_path / "report.html").read_text())
    assert page.headings == ["How to make it again"]
    for part in (
        "No model has been evaluated yet.", "The evaluation is not shown", "evaluate/coldstart.parquet is missing",
        "evaluate/rapo.parquet is missing", "Images are not shown", "Validation is not shown",
        "Training curves are not shown", "AesCoT is not shown", "Times are not shown", "Versions are not shown",
        "The configuration is not shown",
    ):  # fmt: skip
        assert part in page.text, part


def test_damaged_inputs_cost_only_their_own_part(run: Path) -> None:
    (run / "evaluate" / "rapo.parquet").write_bytes(b"PAR1 not really")
    (run / "images" / "3.png").write_bytes(b"no image")
    (run / "rapo" / "metrics.jsonl").write_bytes(b'\xff\n[1]\n{"step": null}\n{"step": 1, "loss": 0.5}\n')
    page = Page(render(run, _report(run)))
    assert "Predictions of the RAPO model are not shown: evaluate/rapo.parquet is not readable." in page.text
    assert "Images, as the cold start model sees them" in page.headings
    assert "Unreadable lines in metrics.jsonl: 3." in page.text
    pq.write_table(pa.table({"uid": ["a"], "score": [0.5]}), run / "evaluate" / "rapo.parquet")
    assert "lacks uid, target or score" in Page(render(run, _report(run))).text
    empty = pa.table({"uid": ["a"], "target": [0.5], "score": pa.array([None], pa.float64())})
    pq.write_table(empty, run / "evaluate" / "rapo.parquet")
    assert "RAPO model are not shown: no valid prediction." in Page(render(run, _report(run))).text


def test_a_repeated_step_counts_once_as_it_was_last(run: Path) -> None:
    path = run / "rapo" / "metrics.jsonl"
    path.write_text('{"step": 2, "validation": {"srcc": 0.9}}\n{"step": 1, "validation": {"srcc": 0.5}}\n')
    with path.open("a") as file:
        file.write('{"step": 2, "validation": {"srcc": 0.4}}\n')
        file.write('{"step": 2, "seconds": {"rollout": 1}}\n{"step": 2, "seconds": {"validation": 9}}\n')
    shuffled = render(run, _report(run))
    assert "0.500 at step 1" in Page(shuffled).text
    second = {"step": 2, "validation": {"srcc": 0.4}, "seconds": {"rollout": 1}}
    path.write_text('{"step": 1, "validation": {"srcc": 0.5}}\n' + json.dumps(second))
    assert render(run, _report(run)) == shuffled


def test_the_page_shows_what_the_watch_found(run: Path) -> None:
    before = render(run, _report(run))
    assert "No warnings: rapo/alerts.jsonl is missing or empty." in Page(before).text
    assert "Warnings" not in Page(before).headings
    lines = [
        {"step": 30, "kind": "no_signal", "text": "All <b>alike</b>.", "values": {"zero_spread": 1.0}, "fatal": False},
        {"step": 20, "kind": "entropy_collapse", "text": "First as it was.", "values": {}},
        {"step": 20, "kind": "entropy_collapse", "text": "Then as it is.", "values": {"entropy": None}, "fatal": True},
        {"step": None, "kind": "x", "text": "No step."}, [1], {"step": 1, "kind": "no_text"},
    ]  # fmt: skip
    path = run / "rapo" / "alerts.jsonl"
    path.write_bytes("\n".join(json.dumps(line) for line in lines).encode() + b'\n{"step": 40, "ki\xff')
    html = render(run, _report(run))
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


def test_new_keys_of_a_row_have_panels(run: Path) -> None:
    old = Page(render(run, _report(run))).text
    assert "Staleness (steps); Idle share" in old.split("Not recorded: ")[1]
    rows = [
        {"step": step, "staleness_mean": 0.5, "staleness_worst": 1, "idle_learner": 0.3, "idle_rollout": 0.2,
         "seconds": {part: 1.0 + i for i, part in enumerate(("rollout", "reward", "learner", "weights"))}}
        for step in range(1, 41)
    ]  # fmt: skip
    (run / "rapo" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    html = render(run, _report(run))
    text = Page(html).text
    assert "Staleness" not in text.split("Not recorded: ")[1]
    for part in ("Staleness (steps)", "Idle share", "worst", "reward", "weights"):
        assert part in text
    assert "var(--series-4)" in html, "one of four lines is missing"


def test_the_same_run_makes_the_same_page(run: Path) -> None:
    assert render(run, _report(run)) == render(run, _report(run))


def test_the_six_images(tmp_path: Path) -> None:
    pairs = [(0.5, 0.9), (0.5, 0.1), (0.1, 0.6), (0.85, 0.4), (0.5, 0.51), (0.3, 0.35), (0.6, 0.7)]
    rows = [{"uid": str(i), "target": t, "score": s, "text": "", "path": None} for i, (t, s) in enumerate(pairs)]
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
    svg = plots.scatter_svg(points[0], points[1], (0.0, 1.0), alt='a "b"')
    assert "data:image/png;base64," in svg
    assert len(svg) < 400_000
    assert 'aria-label="a &quot;b&quot;"' in svg
