"""RationaleStream: pieces of a rationale in steps of every size."""

from __future__ import annotations

import pytest

from rapo.answers.parse import parse_answer
from rapo.answers.rationale_stream import RationaleStream

TEXTS = [
    "<think>calm light; deep shadow.</think><answer>0.61</answer>",
    "  <think>\n a < b </ c <thin \n</think> <answer>0.61</answer>",
    "<think></think><answer>0.61</answer>",
    "<think>柔らかい光 ✓</think><answer>0.61</answer>",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_the_pieces_are_the_rationale(text: str, step: int) -> None:
    stream = RationaleStream()
    pieces = [stream.take(text[:end]) for end in range(step, len(text) + step, step)]
    rationale = parse_answer(text).rationale
    assert "".join(pieces) == rationale
    if step == 1 and rationale:
        assert sum(bool(piece) for piece in pieces) > len(rationale) / 2


@pytest.mark.parametrize("step", [1, 3])
def test_half_a_character_is_held_back(step: int) -> None:
    data = TEXTS[3].encode()
    stream = RationaleStream()
    pieces = [stream.take(data[:end].decode(errors="replace")) for end in range(step, len(data) + step, step)]
    assert "".join(pieces) == "柔らかい光 ✓"


def test_text_outside_the_tags_is_not_streamed() -> None:
    stream = RationaleStream()
    assert stream.take("no tags at all 0.5") == ""
    assert stream.take("") == ""
