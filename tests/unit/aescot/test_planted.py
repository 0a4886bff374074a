"""The judge on planted faults: found for their reason, and sound critiques kept."""

from __future__ import annotations

import time

import pytest

from bench.judge.__main__ import AUTHORS, KEPT, cases, table
from rapo.aescot.judge import text_fault
from rapo.aescot.leaks.find import find_leak
from rapo.aescot.plain_text import plain_text
from rapo.aescot.structure.faults import MAX_WORDS, STRUCTURE_REASONS, structure_fault

#: Wrote no faults of structure.
EIGHTH = "eighth"
#: Wrote sound critiques of jurors, ballots, exam papers and painted numbers. The rules were not
#: mended by the last two.
HARD = (EIGHTH, "eleventh", "twelfth")
#: Of whose texts the models of wording miss more faults of structure, or take more for one.
LATER = ("tenth", "eleventh", "twelfth", "thirteenth")


@pytest.fixture(scope="module", params=AUTHORS)
def author(request):
    return request.param


@pytest.fixture(scope="module")
def rows(author):
    return {row["reason"]: row for row in table(cases(author, carriers=2))}


def test_leaks_are_found_and_sound_critiques_kept(rows, author):
    assert rows["leak"]["recall"] >= 0.93
    assert rows["leak"]["precision"] >= 0.95
    assert rows[KEPT]["recall"] >= (0.88 if author in HARD else 0.95)


@pytest.mark.parametrize("author", [name for name in AUTHORS if name != EIGHTH], scope="module")
def test_structure_is_found_and_nothing_else(rows, author):
    recall, precision = (0.93, 0.88) if author in LATER else (0.95, 0.95)
    assert set(rows) == {*STRUCTURE_REASONS, "leak", KEPT}
    faults = [rows[reason] for reason in STRUCTURE_REASONS]
    planted = sum(row["planted"] for row in faults)
    assert sum(row["recall"] * row["planted"] for row in faults) / planted >= recall
    found = sum(row["rejected"] for row in faults)
    assert sum((row["precision"] or 0) * row["rejected"] for row in faults) / found >= precision


@pytest.mark.parametrize(
    "text",
    [
        "I give it 7.",
        "A score this low is earned.",
        "A solid seven out of ten.",
        "It earns four stars.",
        "I would say zero point six.",
        "As I was told, it is good.",
        "It earns ½ of ten points.",
        "It earns ٧ from me.",
        "A sc\u200bore of nine.",
    ],
)
def test_leaks(text):
    assert find_leak(text)


def test_a_leak_is_shown_with_its_kind():
    assert find_leak("It is an 8/10 for me.") == "a fraction of a scale: '8/10'"


def test_plain_text_undoes_disguises_and_keeps_words_apart():
    assert plain_text("Ｓｃｏｒｅ ８½ &amp; r a t i n g") == "score 8 1/2 & rating"
    assert plain_text("sс0re") == "score"  # a Cyrillic letter, and a digit for a letter
    assert plain_text("the F-stop, 35mm") == "the f-stop, 35mm"


@pytest.mark.parametrize("apostrophe", ["'", "’"])
def test_a_refusal_is_found_whatever_its_apostrophes(apostrophe):
    text = (
        "I'm sorry, but I can't give a critique of this picture, since I'm not able to see it. Overall its light, color and "
        "composition may well be beautiful."
    )
    fault = structure_fault(text.replace("'", apostrophe))
    assert fault is not None
    assert fault[0] == "refusal"


@pytest.mark.parametrize(
    ("opening", "refuses"),
    [
        ("Sorry, but I cannot find the subject. ", False),
        ("I would gladly return to this place. ", False),
        ("I must decline to comment on this one. ", True),
        ("This falls outside what I am able to help with. ", True),
        ("My guidelines do not permit me to assess it. ", True),
        ("Whatever you meant to share never arrived. ", True),
        ("I would gladly give it the wall over my desk. ", False),
    ],
)
def test_an_apology_or_gladness_alone_is_no_refusal(opening, refuses):
    fault = structure_fault(f"{opening}{BODY}It is a fine portrait.")
    assert (fault and fault[0]) == ("refusal" if refuses else None)


def test_a_phrase_with_commas_said_again_at_once_is_repetition():
    fault = structure_fault(f"{BODY}It is a balanced, gentle picture of a balanced, gentle picture of a fine face.")
    assert fault is not None
    assert fault[0] == "repetition"


def test_length_has_two_bounds():
    long = " ".join(f"the word{'x' * (number % 7)}{chr(97 + number % 26)}" for number in range(MAX_WORDS + 1))
    faults = [structure_fault(text) for text in ("Good light. A good image.", f"{long}.")]
    assert [fault and fault[0] for fault in faults] == ["length", "length"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("signs", ["@", "1-", "1, ", "a-", "[insert "])
def test_a_model_that_repeats_a_sign_without_end_is_judged_at_once(signs):
    began = time.process_time()
    text_fault(f"The light is {signs * (9000 // len(signs))} soft. Overall it is a good image.")
    fault = text_fault(f"The light is {signs * 50_000} soft. Overall it is a good image.")
    assert fault is not None
    assert fault[0] == "length"
    assert time.process_time() - began < 10


BODY = (
    "Soft window light models the face, and the muted palette keeps the mood calm. The subject sits on the left third, with "
    "the focus exactly on the eyes. "
)


@pytest.mark.parametrize(
    "closing",
    [
        "It works.",
        "A quiet triumph.",
        "I would hang this on my wall.",
        "As portraits go, this one is a gem.",
        "It's a fine portrait from corner to corner.",
        "I find it technically assured.",
        "To conclude, fine technique with looser design.",
        "The strengths clearly outweigh the weaknesses.",
        "As a picture entire, it offers nothing to look at.",
        "Even so, an elegant seascape in the round.",
    ],
)
def test_a_judgement_of_the_whole_is_known_by_its_form_too(closing):
    assert structure_fault(BODY + closing) is None


@pytest.mark.parametrize(
    "closing",
    [
        "A ring glints on her left hand.",
        "The background is a plain wall.",
        "Where was this taken?",
        "Try a longer lens next time.",
        "It is raining outside.",
        "A second light from the right would open the shadows.",
    ],
)
def test_a_detail_a_question_or_advice_judges_nothing(closing):
    fault = structure_fault(BODY + closing)
    assert fault is not None
    assert fault[0] == "closing"


def test_a_text_that_runs_in_circles_is_found_though_no_phrase_comes_again():
    fault = structure_fault(
        "A tree stands in a field, and the field is empty. Around the tree the empty field makes the tree "
        "stand alone, so that alone in its field the lonely tree stands out. Because the field lies empty, "
        "what stands there alone is the tree. It is a fine image of a tree that stands alone in an empty field."
    )
    assert fault == ("repetition", "the same few words again and again")
