"""The grammar of leaks: values, places and votes said of the image, and harmless numbers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.judge.texts import HARMLESS as HARMLESS_SENTENCES
from rapo.aescot.leaks.allusions import ALLUSIONS
from rapo.aescot.leaks.find import LIKENESS, find_leak
from rapo.aescot.leaks.grammar import rule
from rapo.aescot.leaks.harmless import HARMLESS
from rapo.aescot.leaks.rules import LEAKS
from rapo.aescot.leaks.words import _CLASSES, TAGS, tokens
from rapo.aescot.plain_text import plain_text

VALUES = """
One short of full marks.
I'd say 78%.
It is a hair under seven.
Call it a high six.
5/5.
Forty out of fifty.
A 3.8 seems harsh but fair.
The numeric verdict is six point eight.
Eight. No hesitation.
A near-perfect 9.5.
An IX out of X.
It would climb two points with a straighter horizon.
A grade of D would be kind.
It gets a C+ from me, maybe a B- on a good day.
1 star.
●●●●○
👍👍👍
Its aesthetic score lies at 0.58.
It collects eight of the ten available points.
In the low fives, by my count.
If ten is perfection, this is two steps away.
Seven points.
A C-grade image.
A normalized value of .63 fits.
The image is in the 60-70 range.
Half a mark off for the crop.
It nearly maxes out the scale.
It stops two rungs below the top of the ladder.
""".strip().split("\n")
PLACES = """
It ranks in the lowest decile.
This one ended up 14th out of 200.
A below-average result.
I'd put it comfortably in the upper third of the collection.
Overall it is slightly above average for the dataset.
It beats roughly two thirds of the photographs I have been shown.
Better than nine out of ten pictures of its kind.
It would take home first prize.
It came in second in its category.
It misses the top tier by a whisker.
Only one in ten images in the collection is better.
Its place in the ranking is deserved.
""".strip().split("\n")
PEOPLE = """
Voters split almost evenly, with a slight lean toward approval.
The panel's number and mine agree.
Most raters liked it.
On aggregate, people scored it in the low fives.
Its popularity among the judges is easy to understand.
The crowd was lukewarm about it.
My brief says this one is weak, so I look for weaknesses.
I cannot tell you the number I was given, only that it is generous.
The figure attached to this photo is modest.
Its label, high quality, is accurate.
""".strip().split("\n")
ALLUDED = """
This explains the below-par appraisal it got from the public.
The high evaluation makes sense when one looks at the reflections.
In keeping with the favourable assessment it was given, the tones are rich.
The photograph hovers near the centre of the distribution.
This sits comfortably within the good-to-excellent bracket.
I would have guessed a higher number.
Nine would be too generous, seven too harsh.
Those who assessed it were evidently impressed by the timing.
The aggregate opinion leans positive, thanks to the golden light.
The image's standing among its peers is modest.
""".strip().split("\n")


@pytest.mark.parametrize("text", [*VALUES, *PLACES, *PEOPLE, *ALLUDED])
def test_a_value_a_place_or_a_vote_is_a_leak(text: str) -> None:
    assert find_leak(text)


@pytest.mark.parametrize("text", [*HARMLESS_SENTENCES, ""])
def test_numbers_of_photography_and_of_things_are_harmless(text: str) -> None:
    assert not find_leak(text)


def test_tags_say_how_large_a_number_is_and_how_it_is_written():
    assert tokens("a 7 , 10 , 5.8 , 2.8 , 42 , 800 , 1 , 35mm , 3rd")[0][1::2] == [
        *("Ns", "Nt", "Nd", "Na", "Nb", "Nx", "Ni", "Q", "ORD"),
    ]
    assert tokens("seven tens sixties vii sevenish score it")[0] == ["Ws", "Wp", "Wq", "Wr", "Ws", "SCORE", "IT"]


def test_a_word_is_in_one_class_only():
    classes = Counter(word for words in _CLASSES.values() for word in words.split())
    assert [word for word, count in classes.items() if count > 1] == []
    assert all(TAGS[word] == name for name, words in _CLASSES.items() for word in words.split())


def test_a_gap_stays_within_its_sentence_and_its_length():
    gap = rule("SCORE ~2<digit>")
    assert gap.search(" SCORE of the Ns ")
    assert not gap.search(" SCORE of all the Ns ")
    assert not gap.search(" SCORE . Ns ")


_ANY = st.sampled_from([*TAGS, *"0123456789.,;:!?/()-%★", "7.5", "8/10", "the", "of", "frame", "photograph"])


@given(st.lists(_ANY, max_size=40).map(" ".join) | st.text(max_size=120))
def test_what_is_shown_is_a_piece_of_the_text(text: str) -> None:
    leak = find_leak(text)
    if leak:
        kind, _, piece = leak.partition(": ")
        assert kind in {name for name, _ in (*LEAKS, *ALLUSIONS)} | {LIKENESS}
        assert eval(piece, {"__builtins__": {}}) in plain_text(text)


@given(st.lists(_ANY, max_size=40))
def test_what_is_harmless_is_blanked_token_by_token(words: list[str]) -> None:
    tagged = f" . {' '.join(tokens(plain_text(' '.join(words)))[0])} . "
    for pattern in HARMLESS:
        for found in pattern.finditer(tagged):
            assert tagged[found.start() - 1] == " " == tagged[found.end()]
