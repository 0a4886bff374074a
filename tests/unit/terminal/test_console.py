"""The terminal: plain lines where nobody watches, one live line where somebody does, tables on
stdout."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.files.report import CritiqueCounts, Report, RunFacts, StageTime
from cluster.terminal.console import Console
from cluster.terminal.format import clock, count, duration, fixed, interval, metric, percent
from cluster.terminal.interval_line import interval_line
from rapo.algorithm.coverage import IntervalCoverage
from rapo.explanations.attributes import ImageAttributes
from rapo.explanations.evaluate import ModelEvaluation, Standard, evaluate_explanations
from rapo.metrics import evaluate_predictions
from rapo.records import DIMENSIONS, Prediction


def _predictions(noise: float, invalid: int) -> list[Prediction]:
    errors = np.random.default_rng(0).normal(size=250) * noise
    targets = np.linspace(0.2, 0.8, 250)
    return [
        Prediction(str(i), "s", float(target), None if i < invalid else float(target + error), "")
        for i, (target, error) in enumerate(zip(targets, errors, strict=True))
    ]


def _evaluated(predictions: list[Prediction], bootstrap: int) -> ModelEvaluation:
    """Rationales that say of every image whether its composition is good, and the same of its
    color."""
    texts = ["good" if (item.target or 0.0) > 0.5 else "poor" for item in predictions]
    made = [
        replace(item, text=f"{text} composition; vivid color") for item, text in zip(predictions, texts, strict=True)
    ]
    attributes = np.tile(np.linspace(0.0, 1.0, len(made))[:, None], len(DIMENSIONS))
    standard = Standard(ImageAttributes("attributes", attributes), None)
    return {
        **evaluate_predictions(made, bootstrap=bootstrap),
        "explanations": evaluate_explanations(made, standard, bootstrap=bootstrap),
    }


REPORT = Report(
    RunFacts(0, "nowhere"),
    stages={"aescot": StageTime(10.0), "rapo": StageTime(30.0)},
    evaluate={
        "coldstart": _evaluated(_predictions(0.2, invalid=2), bootstrap=0),
        "rapo": _evaluated(_predictions(0.05, invalid=0), bootstrap=50),
    },
    aescot=CritiqueCounts(480, 431, {"factual": 37, "leak": 12}, "measured", [0.0, 0.5, 1.0], {}, 0),
)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Streams:
    def __init__(self, encoding: str = "utf-8") -> None:
        self.clock = Clock()
        self._bytes = {name: io.BytesIO() for name in ("err", "out")}
        streams = {n: io.TextIOWrapper(b, encoding=encoding, write_through=True) for n, b in self._bytes.items()}
        self._keep = streams
        self._encoding = encoding
        self.console = Console(stderr=streams["err"], stdout=streams["out"], clock=self.clock)

    def err(self) -> list[str]:
        return self._bytes["err"].getvalue().decode(self._encoding).splitlines()

    def out(self) -> str:
        return self._bytes["out"].getvalue().decode(self._encoding)


def test_plain_lines_come_at_most_every_five_seconds() -> None:
    streams = Streams()
    with streams.console.stage("rapo", 200) as handle:
        for step in range(1, 13):
            streams.clock.seconds += 1.0
            handle.update(completed=step, reward=1.9, srcc=0.7123)
    assert streams.err() == [
        "rapo: started, 200 steps",
        "rapo: 5/200, 0:05 elapsed, 3:15 left, reward=1.90, srcc=0.71",
        "rapo: 10/200, 0:10 elapsed, 3:10 left, reward=1.90, srcc=0.71",
        "rapo: done in 12 s, reward=1.90, srcc=0.71",
    ]


def test_a_resumed_stage_does_not_count_old_steps_into_its_rate() -> None:
    streams = Streams()
    with streams.console.stage("rapo", 120) as handle:
        streams.clock.seconds += 60.0  # engines start
        handle.update(completed=100)
        streams.clock.seconds += 10.0
        handle.update(completed=101)
        assert handle.remaining(streams.clock()) == pytest.approx(190.0)


def test_a_failed_stage_says_where_and_lets_the_error_through() -> None:
    streams = Streams()

    def fail() -> None:
        with streams.console.stage("rapo", 200) as handle:
            handle.update(completed=37)
            streams.clock.seconds += 41.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert streams.err()[-1] == "rapo: failed after 41 s at 37/200"
    with pytest.raises(KeyboardInterrupt), streams.console.stage("evaluate"):
        raise KeyboardInterrupt
    assert streams.err()[-1] == "evaluate: interrupted after 0.0 s"


def test_metrics_stay_until_taken_away() -> None:
    streams = Streams()
    with streams.console.stage("rapo") as handle:
        handle.update(reward=1.0, phase="rollout")
        handle.update(reward=2.0)
        handle.update(phase=None)
    assert streams.err()[-1] == "rapo: done in 0.0 s, reward=2.00"


def test_messages_are_literal_and_hold_no_control_characters() -> None:
    streams = Streams()
    streams.console.note("[bold]kept[/bold] \x1b[31mred\x1b[0m \x1b]0;title\x07\x07bell\x9b :smile:")
    streams.console.warn("w" * 300)
    streams.console.skip("data", "already complete")
    with streams.console.stage("aescot") as handle:
        handle.note("49 rejected")
    assert streams.err() == [
        "[bold]kept[/bold] red bell :smile:",
        "warning: " + "w" * 300,
        "data: skipped: already complete",
        "aescot: started",
        "aescot: 49 rejected",
        "aescot: done in 0.0 s",
    ]


def test_the_summary_goes_to_stdout_with_aligned_numbers(tmp_path: Path) -> None:
    streams = Streams()
    folder = tmp_path / ("long" * 40)
    (folder / "export").mkdir(parents=True)
    (folder / "report.html").touch()
    streams.console.summary(replace(REPORT, run=RunFacts(0, str(folder))))
    assert streams.err() == []
    text = streams.out()
    assert "\x1b" not in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["rapo"] == ["rapo", "30.0", "75.0", "%"]
    assert rows["total"] == ["total", "40.0"]
    before, after = REPORT.evaluate["coldstart"], REPORT.evaluate["rapo"]
    figures = [f"{value:.3f}" for value in (before["srcc"], before["plcc"], before["krcc"], before["mae"])]
    assert rows["cold"] == ["cold", "start", *figures, "99.2", "%", "250"]
    assert after["srcc_interval"] is not None
    low, high = after["srcc_interval"]
    assert rows["RAPO"][1:5] == [f"{after['srcc']:.3f}", f"{low:.3f}", "–", f"{high:.3f}"]
    assert rows["RAPO"][-3:] == ["100.0", "%", "250"]
    assert rows["kept"] == ["kept", "431", "89.8", "%"]
    assert ["rejected:", "factual", "37", "7.7", "%"] in [line.split() for line in text.splitlines()]
    assert f"{folder}/report.html\n" in text
    assert f"{folder}/export\n" in text
    cold, rapo = (next(line for line in text.splitlines() if name in line) for name in ("cold start", "RAPO"))
    assert cold.index("99.2 %") + 6 == rapo.index("100.0 %") + 7


def test_the_summary_shows_explanations_of_both_models() -> None:
    streams = Streams()
    streams.console.summary(REPORT)
    lines = [" ".join(line.split()) for line in streams.out().splitlines()]
    assert "measure cold start 95 % interval RAPO 95 % interval" in lines
    grounding = REPORT.evaluate["rapo"]["explanations"]["grounding"]
    composition = grounding["dimensions"]["composition"]
    assert composition["interval"] is not None
    low, high = composition["interval"]
    value = f"{composition['srcc']:.3f}"
    for line in (
        f"grounding, composition {value} {value} {low:.3f} – {high:.3f}",
        "grounding, color 0.000 always alike 0.000 always alike",
        "grounding, exposure – –",
        "dimensions judged 40.0 % 40.0 %",
        "different rationales 2 2",
        "score told from the text – –",
    ):
        assert line in lines, line
    assert grounding["mean"] == pytest.approx((composition["srcc"] or 0.0) / 5)
    spreads = [REPORT.evaluate[model]["spread"] for model in ("coldstart", "rapo")]
    assert "spread of the scores " + " ".join(f"{spread:.2f}" for spread in spreads) in lines
    scores = [REPORT.evaluate[model]["distinct_scores"] for model in ("coldstart", "rapo")]
    assert "different scores " + " ".join(map(str, scores)) in lines


def test_the_summary_says_what_the_calibrated_interval_holds() -> None:
    found: IntervalCoverage = {
        "stated": 0.9, "readout": "expected", "calibration_n": 256, "n": 250, "inside": 225, "measured": 0.9,
        "measured_interval": [0.8559, 0.9342], "mean_width": 0.3254,
    }  # fmt: skip
    cold, after = REPORT.evaluate["coldstart"], REPORT.evaluate["rapo"]
    says = (
        "The 90 % interval holds 225 of 250 human scores: 90.0 % (95 %: 85.6 to 93.4 %). Its mean width is 0.325; "
        "calibrated on 256 validation images, readout expected."
    )
    told: ModelEvaluation = {**after, "interval": found}
    untold: ModelEvaluation = {**after, "interval": None}
    assert interval_line(told) == says
    streams = Streams()
    streams.console.summary(replace(REPORT, evaluate={"coldstart": cold, "rapo": told}))
    assert says in " ".join(streams.out().split())
    assert interval_line(untold).startswith("No calibrated interval")
    assert interval_line(cold) == interval_line(None) == ""


def test_an_empty_report_prints_nothing() -> None:
    streams = Streams()
    streams.console.summary(Report(RunFacts(0, "nowhere")))
    assert streams.out() == ""


def test_a_terminal_without_unicode_gets_ascii() -> None:
    streams = Streams(encoding="ascii")
    streams.console.note("“quoted” – dash")
    streams.console.summary(REPORT)
    assert streams.err() == ["?quoted? ? dash"]
    srcc_interval = REPORT.evaluate["rapo"]["srcc_interval"]
    assert srcc_interval is not None
    low, high = srcc_interval
    assert f"{low:.3f} - {high:.3f}" in streams.out()


def test_ci_and_dumb_terminals_are_not_interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("CI", "false")
    assert Console(stderr=Terminal()).interactive
    monkeypatch.setenv("CI", "true")
    assert not Console(stderr=Terminal()).interactive
    monkeypatch.delenv("CI")
    monkeypatch.setenv("TERM", "dumb")
    assert not Console(stderr=Terminal()).interactive
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not Console(stderr=io.StringIO()).interactive


LIVE = """
import time
from cluster.terminal.console import Console
console = Console()
with console.stage("coldstart", 2) as handle:
    handle.update(completed=1, reward=1.92)
    handle.note("half way")
    print("from elsewhere")
    time.sleep(0.6)
    handle.update(completed=2)
try:
    with console.stage("rapo"):
        raise RuntimeError
except RuntimeError:
    console.error("gone")
"""


def test_a_terminal_shows_a_live_line_that_ends_as_a_tick() -> None:
    master, slave = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True
    )
    os.close(slave)
    seen = b""
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 1.0)[0]:
                try:
                    chunk = os.read(master, 65536)
                except OSError:  # how Linux says that the other side is closed
                    break
                if not chunk:
                    break
                seen += chunk
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait(timeout=10)
        os.close(master)
    text = seen.decode()
    assert "1/2" in text
    assert "reward=1.92" in text
    assert "━" in text
    screen = _screen(text)
    assert screen[:2] == ["  half way", "from elsewhere"]
    took = re.fullmatch(r"✓ coldstart +(\d+\.\d) s   reward=1\.92", screen[2])
    assert took, screen[2]
    assert float(took[1]) >= 0.6
    assert re.fullmatch(r"✗ rapo +\d+\.\d s   failed", screen[3])
    assert screen[4:] == ["error: gone"]


def _screen(text: str) -> list[str]:
    """What is left on a terminal after `text`: enough of one for lines that are erased and written
    again."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-?]*[@-~]|[^\x1b]", text):
        if part == "\n":
            row += 1
            lines += [""] if row == len(lines) else []
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part[0] == "\x1b":
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] != "\x1b":
            lines[row] = f"{lines[row]:<{column}}"[:column] + part + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_formats() -> None:
    assert [duration(s) for s in (0.04, 9.949, 9.96, 59.6, 61, 3599.6, 7500)] == [
        "0.0 s", "9.9 s", "10 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "2 h 05 min",
    ]  # fmt: skip
    assert [clock(s) for s in (5.9, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
    assert [metric(v) for v in (1.923, 0.0, 3.14e-4, 1250, 1250.4, math.nan, "ok", True)] == [
        "1.92", "0.00", "3.1e-04", "1,250", "1,250", "–", "ok", "True",
    ]  # fmt: skip
    assert (fixed(None), fixed(math.inf), fixed(1.0), fixed(True)) == ("–", "–", "1.000", "–")
    assert (percent(0.5), count(12345), count(None)) == ("50.0 %", "12,345", "–")
    assert (interval([0.1, 0.2]), interval(None)) == ("0.100 – 0.200", "")
