"""Dimensions: clauses of rationales by the dimension that they mention."""

from __future__ import annotations

from rapo.aescot.writer import phrases
from rapo.answers.dimensions import split_dimensions
from rapo.records import DIMENSIONS


def test_a_critique_is_split_by_dimension() -> None:
    rationale = ("poor light, flat; superb mood, vivid story; good composition, nearly level; poor color, nearly grey; "
                 "superb exposure, balanced; overall a fair image.")  # fmt: skip
    parts = split_dimensions(rationale)
    assert [name for name, _ in parts] == list(DIMENSIONS)
    assert dict(parts)["exposure"] == "superb exposure, balanced"


def test_every_clause_of_the_teacher_belongs_to_its_dimension() -> None:
    found = [[name for name, _ in split_dimensions(clause)] for clause in phrases()]
    assert found == [[name] for name in DIMENSIONS for _ in range(5)] + [[]] * 5


def test_prose_is_split_in_the_order_of_first_mention() -> None:
    text = "The palette is warm. Soft shadows fall at f/1.8 across the room. Nothing else. The colors clash, though."
    assert split_dimensions(text) == [
        ("color", "The palette is warm. The colors clash, though."),
        ("light and shadow", "Soft shadows fall at f/1.8 across the room."),
    ]
    assert split_dimensions("") == []
