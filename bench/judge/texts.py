"""The texts that faults were planted in, by writer.

- `authors/`: authors of whole critiques, with faults. Leaks of few words are
  sentences of their own.
- `sentences/`: writers of leaks, harmless sentences, last sentences that judge the whole and that
  do not, critiques of one aspect and of several, refusals, and sound critiques.
- `aspects/`: writers of sentences that speak of one aspect, of several, or of none.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rapo.aescot.leaks.words import TAGS
from rapo.aescot.measure import measure
from rapo.aescot.structure.rules import ASPECT_WORDS
from rapo.aescot.writer import write_critique
from rapo.datasets.scenes import render_scene

_HERE = Path(__file__).parent
AUTHORS = tuple(sorted(path.stem for path in _HERE.glob("authors/*.json")))
SENTENCES = tuple(sorted(f"sentences/{path.stem}" for path in _HERE.glob("sentences/*.json")))
ASPECT_WRITERS = tuple(sorted(f"aspects/{path.stem}" for path in _HERE.glob("aspects/*.json")))
#: Sentences of tests that reveal no score.
HARMLESS = tuple((_HERE / "harmless.txt").read_text(encoding="utf-8").splitlines())
#: Last sentences of tests that judge nothing, and others like them.
NO_CLOSINGS = tuple((_HERE / "no_closings.txt").read_text(encoding="utf-8").splitlines())
SENTENCE_WORDS = 35  # a leak of more words is a critique that contains one
_SCENES, _SIZE = 200, 84


@cache
def read(writer: str) -> dict[str, Any]:
    path = writer if "/" in writer else f"authors/{writer}"
    return json.loads((_HERE / f"{path}.json").read_text(encoding="utf-8"))


@cache
def of_the_teacher() -> list[str]:
    """Critiques of the rule-based teacher, without slips."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_SCENES):
        scene = render_scene(rng, _SIZE)
        found.append(write_critique("u", measure(scene.image), scene.score, rng, 0.0).text)
    return found


def digest() -> str:
    """Of the texts that the models are made of, and of the words' classes. Critiques of the teacher
    and the models' settings are not in it: after a change to them make the models again."""
    texts = [read(writer) for writer in (*AUTHORS, *SENTENCES, *ASPECT_WRITERS)]
    words = TAGS, {name: pattern.pattern for name, pattern in ASPECT_WORDS.items()}
    return hashlib.sha256(json.dumps([texts, HARMLESS, NO_CLOSINGS, words], sort_keys=True).encode()).hexdigest()
