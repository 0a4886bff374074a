"""How well the rule-based judge finds planted faults, and what it rejects of sound critiques.

    python -m bench.judge [--critiques FILE]

- Fourteen authors planted the faults (`authors/`). The first wrote the rules as well. The others
  did not see them, but the rules were mended by the texts of the first ten since, and the models of
  wording are fitted to all.
- A leak is put into every sound critique of its author in turn, unless it is a critique of its own.
  Other faults are whole texts.
- `misaligned` and `factual` are measured on the slips of the rule-based teacher, on rendered
  scenes, because free text has no levels to compare.
- Recall: the share of planted faults that are rejected for their reason. Caught: for whatever
  reason. Precision: the share of rejections for a reason that were planted for it.
- `--critiques`: a text file with one critique a line, whose leaks and structure faults are listed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.judge.texts import AUTHORS, SENTENCE_WORDS, read
from bench.support import record
from rapo.aescot.judge import REJECT_REASONS, judge_critique
from rapo.aescot.leaks.find import find_leak
from rapo.aescot.measure import measure
from rapo.aescot.structure.faults import STRUCTURE_REASONS, structure_fault
from rapo.aescot.writer import level_of, parse_levels, parse_overall, write_critique
from rapo.datasets.scenes import render_scene
from rapo.records import Critique

KEPT = "kept"
FIGURES = ("recall", "caught", "precision")
_SCENES, _SIZE = 2000, 84


@dataclass(frozen=True, slots=True)
class Case:
    """A text, the reason for which it must be rejected (`KEPT`: none), and the one found."""

    text: str
    planted: str
    found: str


def cases(author: str, carriers: int | None = None) -> list[Case]:
    """The planted texts of one author (`AUTHORS`), each read by the structure gate and the
    leak search. A leak is put into at most `carriers` sound critiques."""
    texts = read(author)
    planted = [(text, KEPT) for text in texts["sound"]]
    planted += [(text, reason) for reason, faults in texts["structure"].items() for text in faults]
    for leak in texts["leaks"]:
        whole = len(leak.split()) > SENTENCE_WORDS
        planted += [
            (leak if whole else _inserted(sound, leak), "leak") for sound in texts["sound"][: 1 if whole else carriers]
        ]
    return [Case(text, reason, found_reason(text)) for text, reason in planted]


def found_reason(text: str) -> str:
    fault = structure_fault(text)
    return fault[0] if fault else "leak" if find_leak(text) else KEPT


def _inserted(sound: str, leak: str) -> str:
    """`leak` as the last sentence but one, so that the critique still closes with a judgement."""
    head, _, last = sound.removesuffix(".").rpartition(". ")
    return f"{head}. {leak} {last}."


def slips() -> list[Case]:
    """Critiques of the rule-based teacher, half of them with a slip, as the whole judge sees
    them."""
    found = []
    for number in range(_SCENES):
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(number,)))
        scene = render_scene(rng, _SIZE)
        measured = measure(scene.image)
        critique = write_critique("u", measured, scene.score, rng, 0.5)
        verdict = judge_critique(critique, measured, scene.score, 1)
        found.append(Case(critique.text, _slip(critique, measured, scene.score), verdict.reason or KEPT))
    return found


def _slip(critique: Critique, measured: Mapping[str, float], score: float) -> str:
    """The slip that a critique of the teacher contains."""
    if "rate it" in critique.text or "out of ten" in critique.text:
        return "leak"
    if parse_overall(critique.text) != level_of(score):
        return "misaligned"
    far = any(abs(level - level_of(measured[name])) > 1 for name, level in parse_levels(critique.text).items())
    return "factual" if far else KEPT


def table(found: Iterable[Case]) -> list[dict[str, float | int | str | None]]:
    """Precision and recall by reason."""
    found = list(found)
    planted, said = Counter(case.planted for case in found), Counter(case.found for case in found)
    right = Counter(case.planted for case in found if case.planted == case.found)
    caught = Counter(case.planted for case in found if case.found != KEPT)
    return [
        {
            "reason": reason,
            "planted": planted[reason],
            "rejected": said[reason],
            "recall": right[reason] / planted[reason] if planted[reason] else None,
            "caught": caught[reason] / planted[reason] if planted[reason] and reason != KEPT else None,
            "precision": right[reason] / said[reason] if said[reason] else None,
        }
        for reason in (*REJECT_REASONS, KEPT)
        if planted[reason] or said[reason]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--critiques", type=Path)
    arguments = parser.parse_args()
    if arguments.critiques:
        _list(arguments.critiques.read_text(encoding="utf-8").splitlines())
        return
    groups = {f"{author} author": cases(author) for author in AUTHORS} | {"slips of the teacher": slips()}
    for name, found in groups.items():
        sys.stdout.write(f"\n{name:<26}" + "".join(f"{figure:>10}" for figure in FIGURES) + "\n")
        for row in table(found):
            figures = "".join(f"{row[key]:>10.3f}" if row[key] is not None else f"{'-':>10}" for key in FIGURES)
            sys.stdout.write(f"  {row['reason']:<12}{row['planted']:>6}{row['rejected']:>6}{figures}\n")
    rows = [{"group": name, **row} for name, found in groups.items() for row in table(found)]
    record.write_json("judge", {"rows": rows})
    record.write_markdown("judge", "How well the rule-based judge finds planted faults", rows)


def _list(lines: Iterable[str]) -> None:
    counts: Counter[str] = Counter()
    for line in lines:
        fault = structure_fault(line)
        leak = find_leak(line)
        counts.update([fault[0] if fault else "sound", *(["leak"] if leak else [])])
        if leak:
            sys.stdout.write(f"{leak}\n")
    reasons = (*STRUCTURE_REASONS, "sound", "leak")
    sys.stdout.write(", ".join(f"{counts[reason]} {reason}" for reason in reasons if counts[reason]) + "\n")


if __name__ == "__main__":
    main()
