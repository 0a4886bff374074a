"""Linear models of wording (`rapo.aescot.wording`): fitted, written, and measured by author."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from bench.judge.__main__ import AUTHORS
from rapo.aescot.leaks.words import TAGS
from rapo.aescot.measure import measure
from rapo.aescot.writer import write_critique
from rapo.datasets.scenes import render_scene

TEACHER = "teacher"
#: Sentences of tests that reveal no score.
HARMLESS = tuple((Path(__file__).parent / "harmless.txt").read_text(encoding="utf-8").splitlines())
_SCENES, _SIZE = 200, 84
_RIDGE, _KEPT, _SCALE = 0.1, 4000, 100


@dataclass(frozen=True)
class Model:
    weights: dict[str, float]
    bias: float

    def score(self, sentence: Iterable[str]) -> float:
        """Of the parts of a sentence."""
        return self.bias + sum(self.weights.get(part, 0.0) for part in sentence)


def read(author: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{author}.json").read_text(encoding="utf-8"))


def digest(authors: Iterable[str]) -> str:
    """Of what the models are made of: the texts, the harmless sentences and the words' classes."""
    made_of = [[read(author) for author in authors], HARMLESS, TAGS]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


@cache
def of_the_teacher() -> list[str]:
    """Critiques of the rule-based teacher, without slips."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_SCENES):
        scene = render_scene(rng, _SIZE)
        found.append(write_critique("u", measure(scene.image), scene.score, rng, 0.0).text)
    return found


class Fit:
    """Weights of the parts that more than one of `rows` has, a row being the parts of a
    sentence."""

    def __init__(self, rows: Sequence[tuple[str, ...]]) -> None:
        counts = Counter(part for one in rows for part in one)
        self._names = sorted(part for part, count in counts.items() if count > 1)
        column = {name: at for at, name in enumerate(self._names)}
        found = [[column[part] for part in one if part in column] for one in rows]
        starts = np.cumsum([0, *map(len, found)])
        shape = len(rows), len(column)
        self._matrix = csr_matrix((np.ones(starts[-1]), np.concatenate(found).astype(int), starts), shape=shape)
        self._weights = np.zeros(len(column) + 1)

    def turn(self, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
        """Fits to the rows of `yes` against those of `no`: the score of each row."""
        self._weights = _fit(self._matrix, yes, no, self._weights)
        return self._matrix @ self._weights[:-1] + self._weights[-1]

    def model(self, yes: np.ndarray, no: np.ndarray) -> Model:
        """Of the weights that are the largest, fitted once more without the others."""
        self.turn(yes, no)
        kept = np.sort(np.argsort(-abs(self._weights[:-1]), kind="stable")[:_KEPT])
        weights = _fit(self._matrix[:, kept], yes, no, self._weights[[*kept, -1]])
        named = zip(kept, weights[:-1], strict=True)
        return Model({self._names[at]: float(weight) for at, weight in named}, float(weights[-1]))


def _fit(matrix: csr_matrix, yes: np.ndarray, no: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Logistic regression with a ridge; all of `yes` together weigh half of all of `no`."""
    used = np.flatnonzero(yes | no)
    matrix, sign = matrix[used], np.where(yes[used], 1.0, -1.0)
    share = np.where(sign > 0, 0.5 * (sign < 0).sum() / (sign > 0).sum(), 1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (matrix @ weights[:-1] + weights[-1])
        slope = -sign * share / (1 + np.exp(np.clip(margin, -30, 30)))
        gradient = np.append(matrix.T @ slope + _RIDGE * weights[:-1], slope.sum())
        return float(share @ np.logaddexp(0, -margin) + _RIDGE / 2 * weights[:-1] @ weights[:-1]), gradient

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 40}).x


def write(file: Path, model: Model, above: float) -> None:
    rounded = {part: round(weight * _SCALE) for part, weight in sorted(model.weights.items())}
    made = {
        "authors": AUTHORS,
        "made_of": digest(AUTHORS),
        "bias": round((model.bias - above) * _SCALE),
        "weights": {part: weight for part, weight in rounded.items() if weight},
    }
    file.write_text(json.dumps(made, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def command(about: str | None, left_out: Callable[[str], dict[str, str | int]], made: Callable[[], None]) -> None:
    """Writes the model, or prints the row of each author."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        made()
        return
    for number, author in enumerate(AUTHORS):
        row = left_out(author)
        if not number:
            sys.stdout.write("  ".join(row) + "\n")
        sys.stdout.write("  ".join(f"{value:>{len(name)}}" for name, value in row.items()) + "\n")
