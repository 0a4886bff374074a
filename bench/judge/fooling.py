"""What the grounded term gives policies that do not look at the image, beside a run's own two
models.

    python -m bench.judge.fooling RUN

Scripted policies answer the run's test images: they say nothing, copy the prompt, repeat one
clause, state both ends of each dimension, say the same of every image, or judge every dimension by
the human score alone. The strongest constant one knows for each dimension the level that earns most
over these images. `term` is the mean of the term (`rapo/algorithm/grounding.py`), before its
weight; `SRCC` the grounding that evaluations report. Expectation: what does not look earns less
than the trained model, and its SRCC is 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.readouts import held_out
from bench.support import record
from rapo.aescot.measure import measure
from rapo.aescot.writer import LEVELS, level_of, parse_levels, phrases
from rapo.algorithm.grounding import grounding
from rapo.answers.prompts import SCORE_PROMPT
from rapo.answers.rationale import rationale_of
from rapo.arrays import Floats
from rapo.config import ImageConfig
from rapo.explanations.grounding import grounding as explained
from rapo.images.decode import decode_image
from rapo.records import DIMENSIONS

_CLAUSES = {stated: clause for clause in phrases() for stated in parse_levels(clause).items()}


@dataclass(frozen=True)
class TestImages:
    """`measured` `(n, 5)` in [0, 1] is what the reward compares with; `scores` `(n,)` are human."""

    measured: Floats
    scores: Floats


def test_images(run: Path) -> TestImages:
    rows = held_out(run, sys.maxsize)
    found = [measure(np.asarray(decode_image(row["data"], ImageConfig()))) for row in rows]
    measured = np.array([[values[name] for name in DIMENSIONS] for values in found])
    return TestImages(measured, np.array([row["target"] for row in rows]))


def judgement(levels: Mapping[str, int]) -> str:
    """A rationale that states these levels and nothing else."""
    return "; ".join(_CLAUSES[stated] for stated in levels.items())


def scripted(images: TestImages) -> dict[str, list[str]]:
    """The rationales `(n,)` of each policy."""
    n, top = len(images.measured), len(LEVELS) - 1
    best = dict(zip(DIMENSIONS, map(_best_constant, images.measured.T), strict=True))
    return {
        "says nothing": [""] * n,
        "copies the prompt": [SCORE_PROMPT] * n,
        "repeats one clause": ["; ".join([judgement({"exposure": top})] * 20)] * n,
        "states both ends": ["; ".join(judgement(dict.fromkeys(DIMENSIONS, level)) for level in (0, top))] * n,
        "praises everything": [judgement(dict.fromkeys(DIMENSIONS, top))] * n,
        "calls everything fair": [judgement(dict.fromkeys(DIMENSIONS, top // 2))] * n,
        "the best constant": [judgement(best)] * n,
        "the score in each dimension": [
            judgement(dict.fromkeys(DIMENSIONS, level_of(float(score)))) for score in images.scores
        ],
        "looks": [
            judgement({name: level_of(float(value)) for name, value in zip(DIMENSIONS, row, strict=True)})
            for row in images.measured
        ],
    }


def _best_constant(measured: Floats) -> int:
    """The level that is nearest on average, as the term counts distance."""
    places = np.clip(measured * len(LEVELS) - 0.5, 0, len(LEVELS) - 1)
    earned = [np.maximum(0.0, 1.0 - np.abs(places - level) / 2).mean() for level in range(len(LEVELS))]
    return int(np.argmax(earned))


def trained(run: Path) -> dict[str, list[str]]:
    """The rationales of the run's models on the same images, in the same order."""
    return {
        name: [
            rationale_of(row["text"])
            for row in pq.read_table(run / "evaluate" / f"{stage}.parquet", columns=["text"]).to_pylist()
        ]
        for name, stage in (("cold start", "coldstart"), ("RAPO", "rapo"))
    }


def row(name: str, rationales: Sequence[str], images: TestImages) -> dict[str, Any]:
    earned = [grounding(text, measured) for text, measured in zip(rationales, images.measured, strict=True)]
    found = explained(rationales, images.measured)
    return {
        "policy": name,
        "term": float(np.mean(earned)),
        "SRCC": found["mean"],
        "coverage": found["coverage"],
        "rationales": len(set(rationales)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    run: Path = parser.parse_args().run
    images = test_images(run)
    rows = [row(name, rationales, images) for name, rationales in {**scripted(images), **trained(run)}.items()]
    record.write_json("fooling", {"rows": rows})
    record.write_markdown("fooling", "The grounded term", rows, [])
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()
