"""The judge's model of a leak's wording: makes it, and measures it on authors that it did not see.

    python -m bench.judge.likeness [--write]

- Leaks against sentences of sound critiques, of faults of structure, of the rule-based teacher
  and of `harmless.txt`, those of the rules' tests.
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

from dataclasses import dataclass
from functools import cache

import numpy as np

from bench.judge.__main__ import _SENTENCE_WORDS, AUTHORS
from bench.judge.linear import HARMLESS, TEACHER, Fit, Model, command, of_the_teacher, read, write
from rapo.aescot.leaks.find import rule_leak
from rapo.aescot.leaks.likeness import LEAK, sentences
from rapo.aescot.leaks.words import tokens
from rapo.aescot.plain_text import plain_text
from rapo.aescot.wording import parts

SOUND_FLAGGED = 0.02
_TURNS, _CLEARLY_NONE = 3, -1.0


@dataclass(frozen=True)
class Text:
    """A text, its author, its kind (sound, leak, fault, teacher), and its sentences' parts."""

    author: str
    kind: str
    text: str
    sentences: tuple[tuple[str, ...], ...]


def _text(author: str, kind: str, text: str) -> Text:
    tags = tokens(plain_text(text))[0]
    found = [range(len(tags))] if kind == "leak" and len(text.split()) <= _SENTENCE_WORDS else sentences(tags)
    return Text(author, kind, text, tuple(tuple(sorted(parts(tags[one.start : one.stop]))) for one in found))


@cache
def texts() -> list[Text]:
    found = [_text(TEACHER, "harmless", text) for text in HARMLESS]
    for author in AUTHORS:
        planted = read(author)
        found += [_text(author, "sound", text) for text in planted["sound"]]
        found += [_text(author, "leak", text) for text in planted["leaks"]]
        faults = [text for several in planted["structure"].values() for text in several]
        found += [_text(author, "fault", text) for text in faults if not rule_leak(text)]
    said: set[tuple[str, ...]] = set()
    for text in of_the_teacher():
        one = _text(TEACHER, "teacher", text)
        found.append(Text(one.author, one.kind, text, tuple(new for new in one.sentences if new not in said)))
        said.update(one.sentences)
    return found


@cache
def fitted(authors: frozenset[str]) -> Model:
    """A model of the texts of `authors` and of the teacher."""
    rows = [(text, one) for text in texts() if text.author in {*authors, TEACHER} for one in text.sentences]
    leak = np.array([text.kind == "leak" for text, _ in rows])
    single = leak & np.array([len(text.sentences) == 1 for text, _ in rows])
    of_text: dict[Text, list[int]] = {}
    for row, (text, _) in enumerate(rows):
        if leak[row] and not single[row]:
            of_text.setdefault(text, []).append(row)
    fit = Fit([one for _, one in rows])
    yes, no = single, ~leak
    for _ in range(_TURNS - 1):
        scores = fit.turn(yes, no)
        yes, no = single.copy(), ~leak
        for several in of_text.values():
            best = max(several, key=lambda row: scores[row])
            yes[best] = True
            no[[row for row in several if row != best and scores[row] < _CLEARLY_NONE]] = True
    return fit.model(yes, no)


def score(model: Model, text: Text) -> float:
    """That of its likeliest sentence."""
    return max(map(model.score, text.sentences), default=-np.inf)


def threshold(authors: frozenset[str]) -> float:
    """Above it are `SOUND_FLAGGED` of the sound critiques, each by a model without its author."""
    scores = [
        score(fitted(authors - {text.author}), text)
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
        by_model = [score(model, text) > above for text in of_kind]
        row[f"{kind}s" if kind == "leak" else kind] = len(of_kind)
        row |= {f"{kind}: rules": sum(by_rule), f"{kind}: model": sum(by_model)}
        row[f"{kind}: either"] = sum(one or two for one, two in zip(by_rule, by_model, strict=True))
    return row


def made() -> None:
    every = frozenset(AUTHORS)
    write(LEAK.file, fitted(every), threshold(every))


if __name__ == "__main__":
    command(__doc__, left_out, made)
