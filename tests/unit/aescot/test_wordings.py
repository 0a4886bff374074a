"""The models of wording: what they were made of, and what they add to the rules."""

from __future__ import annotations

import json

import pytest

from bench.judge.texts import AUTHORS, SENTENCES, digest, read
from bench.judge.wordings import KINDS, WRITERS
from rapo.aescot.leaks.find import LIKENESS, find_leak, rule_leak
from rapo.aescot.leaks.likeness import sentences
from rapo.aescot.structure.closing import closing_fault, rule_closing
from rapo.aescot.structure.coverage import aspects_of, coverage_fault, spread
from rapo.aescot.structure.faults import structure_fault
from rapo.aescot.structure.rules import REFUSAL
from rapo.aescot.wording import ASPECTS, CLOSING, Wording, phrases, stems, word_tokens

SOUND = (
    "Soft light models the face. The palette is muted and calm. It is cropped too tightly. "
    "Handsome, shallow, and gone from my mind by teatime."
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_of_these_texts_and_words(kind):
    model = json.loads(Wording(kind).file.read_text(encoding="utf-8"))
    assert model["made_of"] == digest(), "run python -m bench.judge.wordings --write"
    assert 10 < len(model["weights"]) <= 4000
    assert Wording(kind).file.stat().st_size < 100_000


@pytest.mark.parametrize("kind", ["leak", "refusal", "closing", "one_sided"])
def test_texts_of_a_kind_are_told_from_others(kind):
    one, wording = KINDS[kind], Wording(kind)
    right, of = 0, 0
    for writer in WRITERS:
        for known, texts in zip((True, False), one.texts(writer), strict=True):
            right += sum((one.score(wording, text) > 0) == known for text in texts[::5])
            of += len(texts[::5])
    assert right >= (0.92 if kind == "one_sided" else 0.95) * of


def test_what_no_rule_finds_is_shown_with_its_sentence():
    texts = [leak for writer in (*AUTHORS, *SENTENCES) for leak in read(writer)["leaks"][::3]]
    found = [find_leak(one) for one in texts if not rule_leak(one)]
    assert sum(one.startswith(f"{LIKENESS}: ") for one in found) > 100
    text = "A boat lies on the sand. The needle settles just past the middle. The light is soft."
    assert find_leak(text) == f"{LIKENESS}: 'the needle settles just past the middle.'"


def test_people_who_rate_may_be_part_of_the_image():
    harmless = [text for writer in SENTENCES for text in read(writer).get("harmless", []) if rule_leak(text)]
    assert sum(not find_leak(text) for text in harmless) > 10
    assert find_leak("The judges gave it little, and the tilted horizon explains why.")


def test_a_critique_closes_by_its_wording_where_no_rule_says_so():
    assert not rule_closing(SOUND)
    assert structure_fault(SOUND) is None
    fault = structure_fault(SOUND.replace("Handsome,", "Consider whether it is handsome,"))
    assert fault is not None
    assert fault[0] == "closing"


def test_an_answer_that_is_worded_like_a_refusal_is_one():
    text = (
        "Nothing opened on my screen but a grey box. There will be no verdict from me until somebody sends "
        "the thing itself."
    )
    assert not REFUSAL.search(text)
    fault = structure_fault(text)
    assert fault is not None
    assert fault[0] == "refusal"
    assert structure_fault(f"I shall keep my thoughts about the hat to myself. {SOUND}") is None


def test_a_sentence_speaks_of_aspects():
    spoken = dict(zip(ASPECTS, aspects_of("A low sun rakes the wall and throws long shadows."), strict=True))
    assert max(spoken, key=lambda aspect: spoken[aspect]) == "light"
    assert all(share < 0.5 for aspect, share in spoken.items() if aspect != "light")


def test_a_text_of_one_aspect_is_told_by_it():
    text = (
        "The sun comes in low and rakes across the plaster. Where it strikes, the highlights are held, and "
        "the shadows behind keep their detail. The glow fades slowly toward the door, which lies in deep "
        "shade. It is a beautifully lit picture."
    )
    fault = structure_fault(text)
    assert fault == ("coverage", "it speaks of light, and of little else")
    assert structure_fault(f"{text[:50]} {SOUND}") is None


def test_words_that_name_aspects_evenly_are_enough():
    assert coverage_fault("Vivid color, elegant light, calm composition.") == ""
    assert coverage_fault("A dog lies on a step. A man walks by.") == "it speaks of no aspect of beauty"
    assert coverage_fault("") == ""


@pytest.mark.parametrize("text", ["", "?", "   ", "很美。", "★", "What a picture?"])
def test_a_text_of_next_to_nothing_closes_with_nothing(text):
    assert closing_fault(text)


def test_phrases_and_sentences():
    assert [list(one) for one in sentences(["a", "b", ".", "!", "c", "d"])] == [[0, 1, 2], [4, 5]]
    assert phrases(["a", "b"]) == {"a", "b", "^ a", "a b", "b $", "^ a b", "a b $", "^ _ b", "a _ $"}
    assert stems(["sharpened", "sharp", "SCORES"]) == {"~sharp"}
    assert "named>=2" in spread("Soft light. Vivid colors.")
    assert "named>=3" not in spread("Soft light. Vivid colors.")
    assert CLOSING.score(phrases(word_tokens("A fine picture."))) > 0
