"""The judge's model of closing sentences: makes it, and measures it on authors that it did not see.

    python -m bench.judge.closings [--write]

- The last sentences of sound critiques against those of `closing` faults and against sentences that
  stand further in, of all authors and of the rule-based teacher.
- The threshold: at most 2 % of `closing` faults above it, each scored by a model that did not see
  its author.
- The table: each author left out of fitting and threshold, beside the rules of this tree, which
  have been mended by all authors.
- `--write` fits all authors and writes `rapo/aescot/closing.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from bench.judge.linear import AUTHORS, TEACHER, Fit, Model, command, of_the_teacher, read, write
from rapo.aescot.structure import closing_sentence, rule_closing, sentences_of
from rapo.aescot.wording import CLOSING, parts, word_tokens

FAULTS_PASSED = 0.02
_INNER = 2  # so many sentences at the end of a sound critique may judge the whole


@dataclass(frozen=True)
class Text:
    """A text, its author, its kind (sound, fault), its last sentence's parts, and those of
    sentences that close nothing."""

    author: str
    kind: str
    text: str
    last: tuple[str, ...]
    inner: tuple[tuple[str, ...], ...]


def _text(author: str, kind: str, text: str) -> Text:
    found = [tuple(sorted(parts(word_tokens(each)))) for each in sentences_of(text.replace("’", "'"))]
    return Text(author, kind, text, found[-1], tuple(found[: -1 if kind == "fault" else -_INNER]))


@cache
def texts() -> list[Text]:
    found = [_text(TEACHER, "sound", text) for text in of_the_teacher()]
    for author in AUTHORS:
        planted = read(author)
        found += [_text(author, "sound", text) for text in planted["sound"]]
        found += [_text(author, "fault", text) for text in planted["structure"].get("closing", [])]
    return found


@cache
def fitted(authors: frozenset[str]) -> Model:
    """A model of the texts of `authors` and of the teacher, whose sentences count once."""
    rows: dict[tuple[str, ...], bool] = {}
    for text in texts():
        if text.author in {*authors, TEACHER}:
            rows |= {**dict.fromkeys(text.inner, False), text.last: text.kind == "sound"}
    closes = np.array(list(rows.values()))
    return Fit(list(rows)).model(closes, ~closes)


def threshold(authors: frozenset[str]) -> float:
    """Above it are `FAULTS_PASSED` of the faults, each by a model without its author."""
    scores = [
        fitted(authors - {text.author}).score(text.last)
        for text in texts()
        if text.kind == "fault" and text.author in authors
    ]
    return float(np.quantile(scores, 1 - FAULTS_PASSED))


def left_out(author: str) -> dict[str, str | int]:
    """What rules, model and both reject of the texts of an author that the model did not see."""
    others = frozenset(AUTHORS) - {author}
    model, above = fitted(others), threshold(others)
    row: dict[str, str | int] = {"author": author}
    for kind in ("fault", "sound"):
        of_kind = [text for text in texts() if text.author == author and text.kind == kind]
        plain = [text.text.replace("’", "'") for text in of_kind]
        by_rule = [not rule_closing(text) for text in plain]
        by_model = [
            not closing_sentence(one) or model.score(text.last) <= above
            for one, text in zip(plain, of_kind, strict=True)
        ]
        row[f"{kind}s" if kind == "fault" else kind] = len(of_kind)
        row |= {f"{kind}: rules": sum(by_rule), f"{kind}: model": sum(by_model)}
        row[f"{kind}: both"] = sum(one and two for one, two in zip(by_rule, by_model, strict=True))
    return row


def made() -> None:
    every = frozenset(AUTHORS)
    write(CLOSING.file, fitted(every), threshold(every))


if __name__ == "__main__":
    command(__doc__, left_out, made)
