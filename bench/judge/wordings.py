"""The judge's models of wording: makes them, and measures them on writers that they did not see.

    python -m bench.judge.wordings [--write] [--only KIND ...]

- Each kind has rows of features that are of the kind, and rows that are not (`KINDS`): sentences,
  or, of `one_sided` texts, figures of the models of aspects.
- The table: each writer left out of fitting. `found` of the writer's own texts of the kind and
  `flagged` of the others, at the threshold of the kind, beside what the rules of this tree find,
  which have been mended by most authors.
- `--write` fits all writers and writes `rapo/aescot/wordings/`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from bench.judge.linear import Model, Scores, fitted
from bench.judge.texts import (
    ASPECT_WRITERS,
    AUTHORS,
    HARMLESS,
    NO_CLOSINGS,
    SENTENCE_WORDS,
    SENTENCES,
    digest,
    of_the_teacher,
    read,
)
from rapo.aescot.leaks.find import rule_leak
from rapo.aescot.leaks.likeness import sentences
from rapo.aescot.leaks.words import tokens
from rapo.aescot.plain_text import plain_text
from rapo.aescot.structure.closing import closing_sentence, rule_closing
from rapo.aescot.structure.coverage import aspect_features, spread
from rapo.aescot.structure.rules import ASPECT_WORDS, REFUSAL
from rapo.aescot.wording import ASPECTS, SCALE, Wording, phrases, sentences_of, word_tokens

_TEACHER = "teacher"
_INNER = 2  # so many sentences at the end of a sound critique may judge the whole

Row = tuple[Set[str], bool]
"""Features, and whether they are of the kind."""


@dataclass(frozen=True)
class Kind:
    """A kind of sentence or text.

    `rows` gives a writer's rows, `texts` a writer's texts of the kind and its others, `score` a
    model's score of one text. `weight` is that of all rows of the kind, as a share of all others;
    what scores more than `above` is of the kind.
    """

    rows: Callable[[str], Iterable[Row]]
    texts: Callable[[str], tuple[Sequence[str], Sequence[str]]]
    score: Callable[[Scores, str], float]
    rule: Callable[[str], bool]
    weight: float = 0.5
    above: float = 0.0


def _plain(text: str) -> str:
    return text.replace("’", "'")


def _sentences(texts: Iterable[str]) -> Iterator[Set[str]]:
    return (phrases(word_tokens(sentence)) for text in texts for sentence in sentences_of(_plain(text)))


def _tagged(text: str) -> list[Set[str]]:
    tags = tokens(plain_text(text))[0]
    return [phrases(tags[one.start : one.stop]) for one in sentences(tags)]


def _critiques(writer: str) -> list[str]:
    """Critiques that neither leak nor refuse; by writers of sentences of one aspect as well."""
    if writer == _TEACHER:
        return list(dict.fromkeys(of_the_teacher()))
    return read(writer)["sound"] if writer in AUTHORS else _of(writer, "sound", "broad", "one_sided")


def _faults(writer: str, *reasons: str) -> list[str]:
    """Faults of an author for these reasons, or for all."""
    planted = read(writer)["structure"] if writer in AUTHORS else {}
    return [text for reason, texts in planted.items() if not reasons or reason in reasons for text in texts]


def _of(writer: str, *names: str) -> list[str]:
    """What a writer of sentences wrote under these names."""
    return [text for name in names for text in read(writer).get(name, [])] if writer in SENTENCES else []


def _of_aspects(writer: str) -> list[tuple[str, set[str]]]:
    """Sentences, and the aspects that they speak of."""
    if writer not in ASPECT_WRITERS:
        return []
    written = read(writer)
    one = [(text, {name} & {*ASPECTS}) for name in (*ASPECTS, "none") for text in written[name]]
    return [*one, *((two["text"], set(two["aspects"])) for two in written["two"])]


def _aspect_sentences(writer: str) -> list[str]:
    """Sentences that neither leak nor refuse."""
    return [text for text, _ in _of_aspects(writer)]


def _leak_texts(writer: str) -> tuple[list[str], list[str]]:
    leaks = read(writer)["leaks"] if writer in (*AUTHORS, *SENTENCES) else []
    return leaks, [*(HARMLESS if writer == _TEACHER else ()), *(_of(writer, "harmless") or _critiques(writer))]


def _leak_rows(writer: str) -> Iterator[Row]:
    leaks, others = _leak_texts(writer)
    for leak in leaks:
        if len(leak.split()) <= SENTENCE_WORDS:
            yield phrases(tokens(plain_text(leak))[0]), True
    faults = [text for text in _faults(writer) if not rule_leak(text)]
    others = [
        *others,
        *faults,
        *_of(writer, "closings", "not_closings", "sound", "broad", "one_sided"),
        *_aspect_sentences(writer),
    ]
    yield from ((one, False) for text in others for one in _tagged(text))


def _leak_score(model: Scores, text: str) -> float:
    """That of its likeliest sentence."""
    return max(map(model.score, _tagged(text)), default=-math.inf)


def _refusal_texts(writer: str) -> tuple[list[str], list[str]]:
    others = _faults(writer, "coverage", "closing", "unfinished", "repetition", "length")
    return [*_faults(writer, "refusal"), *_of(writer, "refusals")], [*_critiques(writer), *others]


def _refusal_rows(writer: str) -> Iterator[Row]:
    refusals, others = _refusal_texts(writer)
    others = [*others, *_of(writer, "closings", "not_closings", "harmless"), *_aspect_sentences(writer)]
    yield from ((one, True) for one in _sentences(refusals))
    yield from ((one, False) for one in _sentences(others))


def _refusal_score(model: Scores, text: str) -> float:
    """The mean over the sentences."""
    scores = [model.score(one) for one in _sentences([text])]
    return sum(scores) / len(scores)


def _rule_refusal(text: str) -> bool:
    return REFUSAL.search(_plain(text)) is not None


def _closing_texts(writer: str) -> tuple[list[str], list[str]]:
    none = NO_CLOSINGS if writer == _TEACHER else ()
    others = [*_faults(writer, "closing"), *_of(writer, "not_closings"), *none]
    return [*_critiques(writer), *_of(writer, "closings")], others


def _closing_rows(writer: str) -> Iterator[Row]:
    closed, others = _closing_texts(writer)
    for kind, texts, after in ((True, closed, _INNER), (False, others, 1)):
        for text in texts:
            *inner, last = _sentences([text])
            yield last, kind
            yield from ((one, False) for one in inner[: len(inner) + 1 - after])


def _closing_score(model: Scores, text: str) -> float:
    last = closing_sentence(_plain(text))
    return model.score(phrases(word_tokens(last))) if last else -math.inf


def _rule_closing(text: str) -> bool:
    return rule_closing(_plain(text))


def _aspect(aspect: str) -> Kind:
    def texts(writer: str) -> tuple[list[str], list[str]]:
        found = _of_aspects(writer)
        return [text for text, of in found if aspect in of], [text for text, of in found if aspect not in of]

    def rows(writer: str) -> Iterator[Row]:
        for kind, found in zip((True, False), texts(writer), strict=True):
            yield from ((aspect_features(text), kind) for text in found)

    return Kind(
        rows,
        texts,
        lambda model, text: model.score(aspect_features(text)),
        lambda text: bool(ASPECT_WORDS[aspect].search(text)),
        weight=0.7,
    )


def _one_sided_texts(writer: str) -> tuple[list[str], list[str]]:
    several = _of(writer, "sound", "broad") if writer in SENTENCES else _critiques(writer)
    return [*_faults(writer, "coverage"), *_of(writer, "one_sided")], several


def _one_sided_rows(writer: str) -> Iterator[Row]:
    for kind, texts in zip((True, False), _one_sided_texts(writer), strict=True):
        yield from ((spread(text), kind) for text in texts)


def _one_sided_score(model: Scores, text: str) -> float:
    return model.score(spread(text))


#: In the order in which they are made: one-sided texts are known by the models of aspects.
KINDS: dict[str, Kind] = {
    "leak": Kind(_leak_rows, _leak_texts, _leak_score, rule_leak, above=0.5),
    "refusal": Kind(_refusal_rows, _refusal_texts, _refusal_score, _rule_refusal, above=-1.0),
    "closing": Kind(_closing_rows, _closing_texts, _closing_score, _rule_closing, above=-1.25),
    **{aspect: _aspect(aspect) for aspect in ASPECTS},
    "one_sided": Kind(_one_sided_rows, _one_sided_texts, _one_sided_score, lambda _: False, weight=1.0, above=1.5),
}
WRITERS = (*AUTHORS, *SENTENCES, *ASPECT_WRITERS, _TEACHER)


def model_of(kind: str, writers: Iterable[str]) -> Model:
    """A model of the texts of `writers`; the same row counts once."""
    rows = {frozenset(found): yes for writer in writers for found, yes in KINDS[kind].rows(writer)}
    return fitted(list(rows), list(rows.values()), KINDS[kind].weight)


def left_out(kind: str, writer: str) -> dict[str, str | int]:
    """What rules, model and either find in the texts of a writer that the model did not see."""
    model = model_of(kind, [each for each in WRITERS if each != writer])
    row: dict[str, str | int] = {"kind": kind, "writer": writer}
    one = KINDS[kind]
    for name, texts in zip(("found", "flagged"), one.texts(writer), strict=True):
        by_rule = [one.rule(text) for text in texts]
        by_model = [one.score(model, text) > one.above for text in texts]
        either = sum(a or b for a, b in zip(by_rule, by_model, strict=True))
        row |= {f"{name} of": len(texts), f"{name}: rules": sum(by_rule)}
        row |= {f"{name}: model": sum(by_model), f"{name}: either": either}
    return row


def write(kind: str) -> None:
    """Fits all writers. The bias of the file has the threshold in it."""
    model = model_of(kind, WRITERS)
    rounded = {part: round(weight * SCALE) for part, weight in sorted(model.weights.items())}
    made = {
        "made_of": digest(),
        "bias": round((model.bias - KINDS[kind].above) * SCALE),
        "weights": {part: weight for part, weight in rounded.items() if weight},
    }
    file = Wording(kind).file
    file.write_text(json.dumps(made, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", choices=list(KINDS), nargs="+", default=list(KINDS))
    arguments = parser.parse_args()
    if arguments.write:
        for kind in arguments.only:
            write(kind)
        return
    head: tuple[str, ...] = ()
    for kind in arguments.only:
        for writer in WRITERS:
            if not any(KINDS[kind].texts(writer)):
                continue
            row = left_out(kind, writer)
            if head != tuple(row):
                head = tuple(row)
                sys.stdout.write("  ".join(head) + "\n")
            sys.stdout.write("  ".join(f"{value:>{len(name)}}" for name, value in row.items()) + "\n")


if __name__ == "__main__":
    main()
