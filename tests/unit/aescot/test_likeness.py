"""The model of a leak's wording: what it was made of, and what it adds to the rules."""

from __future__ import annotations

import json

from bench.judge.__main__ import AUTHORS
from bench.judge.likeness import digest, read
from rapo.aescot.leaks.find import LIKENESS, find_leak, rule_leak
from rapo.aescot.leaks.likeness import WEIGHTS, like_a_leak, parts, sentences
from rapo.aescot.leaks.words import tokens
from rapo.aescot.plain_text import plain_text


def test_the_weights_are_of_these_texts_and_words():
    model = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    assert set(model["authors"]) <= set(AUTHORS)
    assert model["made_of"] == digest(model["authors"]), "run python -m bench.judge.likeness --write"
    assert 3000 < len(model["weights"]) <= 4000
    assert WEIGHTS.stat().st_size < 100_000


def test_sentences_of_known_leaks_are_like_leaks_and_sound_critiques_are_not():
    for author in AUTHORS:
        texts = read(author)
        likely = [like_a_leak(tokens(plain_text(text))[0]) is not None for text in texts["leaks"]]
        unlikely = [like_a_leak(tokens(plain_text(text))[0]) is None for text in texts["sound"]]
        assert sum(likely) >= 0.8 * len(likely), author
        assert sum(unlikely) >= 0.95 * len(unlikely), author


def test_what_no_rule_finds_is_shown_with_its_sentence():
    text = "A boat lies on the sand. I am far from alone in ranking it as I do, it seems. The light is soft."
    texts = [text, *(leak for author in AUTHORS for leak in read(author)["leaks"])]
    found = [find_leak(one) for one in texts if not rule_leak(one)]
    assert any(one.startswith(f"{LIKENESS}: ") for one in found)


def test_parts_and_sentences():
    assert [list(one) for one in sentences(["a", "b", ".", "!", "c", "d"])] == [[0, 1, 2], [4, 5]]
    assert parts(["a", "b"]) == {"a", "b", "^ a", "a b", "b $", "^ a b", "a b $", "^ _ b", "a _ $"}
