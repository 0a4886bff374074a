"""Teachers behind one interface: prompts as settings, and the columns of the actor."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from actors.roles import ImageBatch
from actors.teacher import Teacher
from rapo.aescot.prompt import prompt_hash, teacher_prompt, teacher_template
from rapo.aescot.teacher import RatedImage, open_teacher
from rapo.config import Config, TeacherConfig
from rapo.errors import ConfigError


def prompt(score: float = 0.5, **settings: object) -> str:
    config = TeacherConfig.model_validate(settings)
    return teacher_prompt(teacher_template(config), config, score)


@pytest.mark.parametrize(("score", "shown"), [(0.7, "0.70"), (0.456, "0.46"), (1.0, "1.00"), (0.0, "0.00")])
def test_the_prompt_holds_the_private_score_with_two_decimals(score: float, shown: str) -> None:
    text = prompt(score, words=90)
    assert f"score of this picture is {shown} on" in text
    assert "at most 90 words, in English" in text
    assert "composition, color and exposure" in text
    assert "{" not in text


def test_a_blind_teacher_is_not_told_the_score() -> None:
    assert "0.37" in prompt(0.37)
    assert "0.37" not in prompt(0.37, blind=True)
    assert "private" not in prompt(0.37, blind=True)
    with pytest.raises(ConfigError, match="blind"):
        prompt(blind=True, prompt="The score is {score}.")


def test_the_prompt_is_a_setting(tmp_path: Path) -> None:
    own = "Say in {language} what {dimensions} are like: {{short}}, {words} words, {score}."
    said = prompt(0.25, prompt=own, language="German", dimensions=("light", "color", "line"), words=9)
    assert said == "Say in German what light, color and line are like: {short}, 9 words, 0.25."
    file = tmp_path / "prompt.txt"
    file.write_text(f"{own}\n", encoding="utf-8")
    assert prompt(0.25, prompt_file=file, language="German", dimensions=("light", "color", "line"), words=9) == said
    file.write_text(own, encoding="utf-8-sig")  # as editors of Windows write it
    assert prompt(0.25, prompt_file=file, language="German", dimensions=("light", "color", "line"), words=9) == said
    assert prompt(prompt="{dimensions}", dimensions=("light",)) == "light"
    assert prompt_hash(own) != prompt_hash(own + " ")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Score {scores}", r"\{scores\}"),
        ("Score {score:.3f}", r"\{score\}"),
        ("Score {score!r}", r"\{score\}"),
        ("Score {}", r"\{\}"),
        ("Score {score", "written twice"),
        ("Score } of", "written twice"),
        (" ", "empty"),
    ],
)
def test_a_prompt_that_cannot_be_filled_in_is_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        prompt(prompt=text)
    assert "aescot.teacher.prompt" in str(caught.value)


def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.txt"):
        prompt(prompt_file=tmp_path / "gone.txt")


def png(shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_rule_based_teacher_writes_by_uid_and_names_what_it_cannot_read() -> None:
    teacher = open_teacher(Config())
    one, broken, other = teacher.write(
        [RatedImage("a", png(), 0.4), RatedImage("b", png()[:40], 0.4), RatedImage("c", png(), 0.9)]
    )
    assert one.text is not None
    assert (broken.text, broken.fault) == (None, "image")
    assert broken.problem
    assert one.text != other.text
    assert teacher.write([RatedImage("a", png(), 0.4)]) == [one]
    assert (one.usage.cost, one.model) == (0.0, None)


def test_the_actor_gives_every_row_a_critique_or_a_reason_for_counting() -> None:
    batch: ImageBatch = {"uid": ["a", "b"], "dataset": ["d", "d"], "score": [0.4, 0.4], "image": [png(), b"none"]}
    answer = Teacher(Config())(batch)
    assert [critique is None for critique in answer["critique"]] == [False, True]
    assert answer["reason"] == [None, "image"]
    assert answer["problem"][0] is None
    assert "not an image" in (answer["problem"][1] or "")
