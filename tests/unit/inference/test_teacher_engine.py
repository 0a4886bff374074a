"""TeacherEngine: its parts that need no model (prompt, answers, image sizes, folders, settings)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import safetensors_bytes
from PIL import Image

from rapo.config import Config, dump_config, load_config
from rapo.errors import ConfigError, ModelError
from rapo.inference.teacher_engine import check_teacher_folder, read_answer, shrink, teacher_prompt, to_last_sentence


@pytest.mark.parametrize(("score", "shown"), [(0.7, "0.70"), (0.456, "0.46"), (1.0, "1.00"), (0.0, "0.00")])
def test_the_prompt_holds_the_private_score_with_two_decimals(score: float, shown: str) -> None:
    prompt = teacher_prompt(score, words=90)
    assert f"score of this picture is {shown} on" in prompt
    assert "at most 90 words" in prompt
    assert "{" not in prompt


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("The light is soft. The colors are ric", "The light is soft."),
        ("Is it calm? It is! And the", "Is it calm? It is!"),
        ('He calls it "a quiet scene." Then', 'He calls it "a quiet scene."'),
        ("It is calm (a little). It has no", "It is calm (a little)."),
        ("One. Two.", "One. Two."),
        ("Soft light, e.g. on the face, and vs. the", ""),
        ("Good. Some details, e.g. the hands", "Good."),
        ("A weight of 0.5 in an image.jpg of", ""),
        ("光线柔和。色彩丰富，但", "光线柔和。"),
        ("no end at all", ""),
        ("", ""),
    ],
)
def test_a_text_is_cut_at_its_last_full_sentence(text: str, sentences: str) -> None:
    assert to_last_sentence(text) == sentences


def test_only_a_truncated_answer_is_cut() -> None:
    text = "The light is soft. A calm mood"
    assert read_answer(text, truncated=False).text == text
    assert read_answer(text, truncated=True).text == "The light is soft."


def test_an_answer_becomes_one_line() -> None:
    assert read_answer("  Soft light.\n\n  A calm\tmood. ", truncated=False).text == "Soft light. A calm mood."


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_answer_is_a_problem(text: str) -> None:
    for truncated in (False, True):
        written = read_answer(text, truncated=truncated)
        assert (written.text, written.problem) == (None, "the teacher wrote nothing")


def test_an_answer_without_a_full_sentence_says_what_to_raise() -> None:
    written = read_answer("soft light and", truncated=True)
    assert written.text is None
    assert written.problem is not None
    assert "aescot.teacher.max_tokens" in written.problem
    assert "soft light and" in written.problem


def test_reasoning_is_left_out_and_never_taken_for_the_critique() -> None:
    assert read_answer("<think>It has 0.62.</think>\nSoft light.", truncated=False).text == "Soft light."
    assert read_answer("It has 0.62.</think> Soft light.", truncated=False, reasoning=True).text == "Soft light."
    assert read_answer("<think>It has 0.62. So", truncated=True).text is None
    cut = read_answer("It has 0.62. So", truncated=True, reasoning=True)
    assert cut.text is None
    assert "reasoning" in (cut.problem or "")
    assert read_answer("<think>Hm.</think>", truncated=False).problem == "the teacher wrote nothing"


def test_tags_of_the_policys_own_answer_are_refused() -> None:
    written = read_answer("Soft light. <answer>0.5</answer>", truncated=False)
    assert written.text is None
    assert "<answer>" in (written.problem or "")


@pytest.mark.parametrize("size", [(4000, 3000), (300, 9000), (1001, 1000), (200, 20000)])
def test_a_large_image_is_shrunk_within_the_limit_and_keeps_its_proportions(size: tuple[int, int]) -> None:
    small = shrink(Image.new("RGB", size), 1_000_000)
    assert 0.99 * 1_000_000 < small.width * small.height <= 1_000_000
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_a_small_image_is_left_alone() -> None:
    image = Image.new("RGB", (100, 50))
    assert shrink(image, 5000) is image


def test_teacher_and_rollout_engines_have_defaults_of_their_own() -> None:
    overrides = ["aescot.teacher.kind=vllm", "aescot.teacher.model=m", "aescot.teacher.engine.max_num_seqs=8"]
    engine = load_config(overrides=overrides).aescot.teacher.engine
    assert (engine.max_num_seqs, engine.max_model_len) == (8, 4096)
    assert Config().rollout.engine.max_model_len == 512
    assert "[aescot.teacher.engine]" in dump_config(Config())
    with pytest.raises(ConfigError, match=r"aescot\.teacher\.temperature"):
        load_config(overrides=["aescot.teacher.temperature=-1"])


def test_any_architecture_is_accepted_and_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not found"):
        check_teacher_folder(tmp_path / "none")
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_teacher_folder(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        check_teacher_folder(tmp_path)
    config.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="no architecture"):
        check_teacher_folder(tmp_path)
    config.write_text(json.dumps({"architectures": ["SomeOtherVLM"]}), encoding="utf-8")
    with pytest.raises(ModelError, match="no weights"):
        check_teacher_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(safetensors_bytes()[:-1])
    with pytest.raises(ModelError, match="cut or damaged"):
        check_teacher_folder(tmp_path)
    weights.write_bytes(safetensors_bytes())
    check_teacher_folder(tmp_path)
