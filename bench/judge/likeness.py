"""The judge's model of a leak's wording: makes it, and measures it on authors that it did not see.

    python -m bench.judge.likeness [--write]

- Leaks against sentences of sound critiques, of faults of structure, and of the rule-based teacher.
- Of a critique that is a leak as a whole the likeliest sentence is the leak, in turns of fitting
  and choosing; those that are clearly none are sentences like others.
- The threshold: at most 2 % of sound critiques above it, each scored by a model that did not see
  its author.
- The table: each author left out of fitting and threshold, beside the rules of this tree. Those of
  the present tree have been mended by all authors; for what they found before, check out older
  rules (`rapo/aescot/leaks`, this model's two files excepted).
- `--write` fits all authors and writes `rapo/aescot/leaks/likeness.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from bench.judge.__main__ import _SENTENCE_WORDS, AUTHORS
from rapo.aescot.leaks.find import rule_leak
from rapo.aescot.leaks.likeness import WEIGHTS, parts, sentences
from rapo.aescot.leaks.words import TAGS, tokens
from rapo.aescot.measure import measure
from rapo.aescot.plain_text import plain_text
from rapo.aescot.writer import write_critique
from rapo.datasets.scenes import render_scene

SOUND_FLAGGED = 0.02
_TEACHER = "teacher"
_SCENES, _SIZE = 200, 84
_RIDGE, _KEPT, _SCALE = 0.1, 4000, 100
_TURNS, _CLEARLY_NONE = 3, -1.0


@dataclass(frozen=True)
class Text:
    """A text, its author, its kind (sound, leak, fault, teacher), and its sentences' parts."""

    author: str
    kind: str
    text: str
    sentences: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Model:
    weights: dict[str, float]
    bias: float

    def score(self, text: Text) -> float:
        """That of its likeliest sentence."""
        known = self.weights.get
        return self.bias + max((sum(known(part, 0.0) for part in one) for one in text.sentences), default=-np.inf)


def read(author: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{author}.json").read_text(encoding="utf-8"))


def digest(authors: Iterable[str]) -> str:
    """Of what the model is made of: the authors' texts and the words' classes."""
    made_of = [[read(author) for author in authors], TAGS]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _text(author: str, kind: str, text: str) -> Text:
    tags = tokens(plain_text(text))[0]
    found = [range(len(tags))] if kind == "leak" and len(text.split()) <= _SENTENCE_WORDS else sentences(tags)
    return Text(author, kind, text, tuple(tuple(sorted(parts(tags[one.start : one.stop]))) for one in found))


@cache
def texts() -> list[Text]:
    found = []
    for author in AUTHORS:
        planted = read(author)
        found += [_text(author, "sound", text) for text in planted["sound"]]
        found += [_text(author, "leak", text) for text in planted["leaks"]]
        faults = [text for several in planted["structure"].values() for text in several]
        found += [_text(author, "fault", text) for text in faults if not rule_leak(text)]
    rng = np.random.default_rng(0)
    said: set[tuple[str, ...]] = set()
    for _ in range(_SCENES):
        scene = render_scene(rng, _SIZE)
        one = _text(_TEACHER, "teacher", write_critique("u", measure(scene.image), scene.score, rng, 0.0).text)
        found.append(Text(one.author, one.kind, one.text, tuple(new for new in one.sentences if new not in said)))
        said.update(one.sentences)
    return found


@cache
def fitted(authors: frozenset[str]) -> Model:
    """A model of the texts of `authors` and of the teacher."""
    rows = [(text, one) for text in texts() if text.author in {*authors, _TEACHER} for one in text.sentences]
    counts = Counter(part for _, one in rows for part in one)
    names = sorted(part for part, count in counts.items() if count > 1)
    matrix = _matrix([one for _, one in rows], names)
    leak = np.array([text.kind == "leak" for text, _ in rows])
    single = leak & np.array([len(text.sentences) == 1 for text, _ in rows])
    of_text: dict[Text, list[int]] = {}
    for row, (text, _) in enumerate(rows):
        if leak[row] and not single[row]:
            of_text.setdefault(text, []).append(row)
    yes, no = single, ~leak
    weights = np.zeros(len(names) + 1)
    for turn in range(_TURNS):
        if turn:
            scores = matrix @ weights[:-1] + weights[-1]
            yes, no = single.copy(), ~leak
            for several in of_text.values():
                best = max(several, key=lambda row: scores[row])
                yes[best] = True
                no[[row for row in several if row != best and scores[row] < _CLEARLY_NONE]] = True
        weights = _fit(matrix, yes, no, weights)
    kept = np.sort(np.argsort(-abs(weights[:-1]), kind="stable")[:_KEPT])
    weights = _fit(matrix[:, kept], yes, no, weights[[*kept, -1]])
    return Model({names[at]: float(weight) for at, weight in zip(kept, weights[:-1], strict=True)}, float(weights[-1]))


def _matrix(rows: list[tuple[str, ...]], names: list[str]) -> csr_matrix:
    column = {name: at for at, name in enumerate(names)}
    found = [[column[part] for part in one if part in column] for one in rows]
    starts = np.cumsum([0, *map(len, found)])
    return csr_matrix((np.ones(starts[-1]), np.concatenate(found).astype(int), starts), shape=(len(rows), len(names)))


def _fit(matrix: csr_matrix, yes: np.ndarray, no: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Logistic regression with a ridge; all leaks together weigh half of all other sentences."""
    used = np.flatnonzero(yes | no)
    matrix, sign = matrix[used], np.where(yes[used], 1.0, -1.0)
    share = np.where(sign > 0, 0.5 * (sign < 0).sum() / (sign > 0).sum(), 1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (matrix @ weights[:-1] + weights[-1])
        slope = -sign * share / (1 + np.exp(np.clip(margin, -30, 30)))
        gradient = np.append(matrix.T @ slope + _RIDGE * weights[:-1], slope.sum())
        return float(share @ np.logaddexp(0, -margin) + _RIDGE / 2 * weights[:-1] @ weights[:-1]), gradient

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 40}).x


def threshold(authors: frozenset[str]) -> float:
    """Above it are `SOUND_FLAGGED` of the sound critiques, each by a model without its author."""
    scores = [
        fitted(authors - {text.author}).score(text)
        for text in texts()
        if text.kind == "sound" and text.author in authors
    ]
    return float(np.quantile(scores, 1 - SOUND_FLAGGED))


def left_out(author: str) -> dict[str, str | int]:
    """What rules, model and either find in the texts of an author that the model did not see."""
    others = frozenset(AUTHORS) - {author}
    model, above = fitted(others), threshold(others)
    row: dict[str, str | int] = {"author": author}
    for kind in ("leak", "sound"):
        of_kind = [text for text in texts() if text.author == author and text.kind == kind]
        by_rule = [bool(rule_leak(text.text)) for text in of_kind]
        by_model = [model.score(text) > above for text in of_kind]
        row[f"{kind}s" if kind == "leak" else kind] = len(of_kind)
        row |= {f"{kind}: rules": sum(by_rule), f"{kind}: model": sum(by_model)}
        row[f"{kind}: either"] = sum(one or two for one, two in zip(by_rule, by_model, strict=True))
    return row


def write() -> None:
    every = frozenset(AUTHORS)
    model, above = fitted(every), threshold(every)
    rounded = {part: round(weight * _SCALE) for part, weight in sorted(model.weights.items())}
    made = {
        "authors": AUTHORS,
        "made_of": digest(AUTHORS),
        "bias": round((model.bias - above) * _SCALE),
        "weights": {part: weight for part, weight in rounded.items() if weight},
    }
    WEIGHTS.write_text(json.dumps(made, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        write()
        return
    for number, author in enumerate(AUTHORS):
        row = left_out(author)
        if not number:
            sys.stdout.write("  ".join(row) + "\n")
        sys.stdout.write("  ".join(f"{value:>{len(name)}}" for name, value in row.items()) + "\n")


if __name__ == "__main__":
    main()
