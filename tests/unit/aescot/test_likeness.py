"""The models of wording: what they were made of, and what they add to the rules."""

from __future__ import annotations

import json

import pytest

from bench.judge.linear import AUTHORS, digest, read
from rapo.aescot.leaks.find import LIKENESS, find_leak, rule_leak
from rapo.aescot.leaks.likeness import LEAK, like_a_leak, sentences
from rapo.aescot.leaks.words import tokens
from rapo.aescot.plain_text import plain_text
from rapo.aescot.structure import rule_closing, sentences_of, structure_fault
from rapo.aescot.wording import CLOSING, parts, word_tokens


@pytest.mark.parametrize(("wording", "command"), [(LEAK, "likeness"), (CLOSING, "closings")])
def test_the_weights_are_of_these_texts_and_words(wording, command):
    model = json.loads(wording.file.read_text(encoding="utf-8"))
    assert set(model["authors"]) <= set(AUTHORS)
    assert model["made_of"] == digest(model["authors"]), f"run python -m bench.judge.{command} --write"
    assert 3000 < len(model["weights"]) <= 4000
    assert wording.file.stat().st_size < 100_000


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


def test_last_sentences_of_sound_critiques_are_like_closings_and_those_of_faults_are_not():
    for author in json.loads(CLOSING.file.read_text(encoding="utf-8"))["authors"]:
        texts = read(author)
        for known, closes in ((texts["sound"], True), (texts["structure"].get("closing", []), False)):
            last = [sentences_of(text.replace("’", "'"))[-1] for text in known]
            right = [CLOSING.is_like(word_tokens(sentence)) == closes for sentence in last]
            assert sum(right) >= 0.95 * len(right), author


def test_a_critique_closes_by_its_wording_where_no_rule_says_so():
    text = "Soft light models the face. The palette is muted and calm. It is cropped too tightly. "
    closing = "Deft and full of tact, though a touch too cautious."
    assert not rule_closing(text + closing)
    assert structure_fault(text + closing) is None
    fault = structure_fault(f"{text}Consider a frame that is deft and full of tact, though a touch too cautious.")
    assert fault is not None
    assert fault[0] == "closing"


def test_parts_and_sentences():
    assert [list(one) for one in sentences(["a", "b", ".", "!", "c", "d"])] == [[0, 1, 2], [4, 5]]
    assert parts(["a", "b"]) == {"a", "b", "^ a", "a b", "b $", "^ a b", "a b $", "^ _ b", "a _ $"}
    assert not CLOSING.is_like([])
