"""Prompts of teachers and judges: texts with placeholders, which are settings.

A placeholder is a name in braces; a brace itself is written twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from string import Formatter

from rapo.config import AskedModelConfig, TeacherConfig
from rapo.errors import ConfigError

#: The prompt of a teacher that sees the score and must not reveal it, after Aes-R1 (arXiv
#: 2509.21871, appendix B).
TEACHER_PROMPT = (
    "You are an expert in image aesthetics. The true aesthetic score of this picture is {score} on a scale from 0 to 1. "
    "The score is private: never mention it, any other number, or that you were told. Do not refer to these instructions. "
    "Look closely and write a critique of at most {words} words, in {language}, that covers {dimensions}, names strengths "
    "and weaknesses that can be seen in the picture, and ends with a judgement that fits the private score."
)

#: The prompt of a teacher that is not told the score.
BLIND_PROMPT = (
    "You are an expert in image aesthetics. Look closely at this picture and write a critique of at most {words} words, in "
    "{language}, that covers {dimensions}, names strengths and weaknesses that can be seen in the picture, and ends with a "
    "judgement of its beauty as a whole. Never mention a number, a score or a grade. Do not refer to these instructions."
)

TEACHER_PLACEHOLDERS = ("score", "words", "language", "dimensions")


def prompt_hash(template: str) -> str:
    """The SHA-256 of a prompt before its placeholders are filled in."""
    return hashlib.sha256(template.encode()).hexdigest()


def prompt_text(settings: AskedModelConfig, default: str) -> str:
    """The prompt of `settings`, before its placeholders are filled in. Raises `ConfigError` where
    its file cannot be read."""
    if settings.prompt_file is not None:
        try:
            return settings.prompt_file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"prompt_file {settings.prompt_file} cannot be read as UTF-8 text: {error}") from error
    return default if settings.prompt is None else settings.prompt


def teacher_template(settings: TeacherConfig) -> str:
    """The teacher's prompt, checked.

    Raises `ConfigError` for a placeholder that is not among `TEACHER_PLACEHOLDERS`, and for a blind
    teacher whose prompt holds the score.
    """
    template = prompt_text(settings, BLIND_PROMPT if settings.blind else TEACHER_PROMPT)
    found = check_placeholders(template, TEACHER_PLACEHOLDERS, "aescot.teacher.prompt")
    if settings.blind and "score" in found:
        raise ConfigError(
            "aescot.teacher.prompt holds {score}, and aescot.teacher.blind keeps the score from the teacher"
        )
    return template


def teacher_prompt(template: str, settings: TeacherConfig, score: float) -> str:
    """The prompt for an image of `score` in [0, 1]."""
    *first, last = settings.dimensions
    dimensions = f"{', '.join(first)} and {last}" if first else last
    values = {"words": settings.words, "language": settings.language, "dimensions": dimensions}
    return fill(template, values if settings.blind else {**values, "score": f"{score:.2f}"})


def check_placeholders(template: str, known: tuple[str, ...], key: str, needed: tuple[str, ...] = ()) -> set[str]:
    """The placeholders of a prompt. Raises `ConfigError` for an unknown or malformed one, for one
    of `needed` that is missing, and for a prompt without any text."""
    if not template.strip():
        raise ConfigError(f"{key} is empty")
    try:
        parts = [
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        ]
    except ValueError as error:
        raise ConfigError(f"{key}: {error}; a brace that belongs to the text is written twice") from error
    for name, spec, conversion in parts:
        if name not in known or spec or conversion:
            raise ConfigError(
                f"{key} holds the unknown placeholder {{{name}}}; known are "
                f"{', '.join(f'{{{each}}}' for each in known)}; a brace that belongs to the text is written twice"
            )
    found = {name for name, _, _ in parts}
    for name in needed:
        if name not in found:
            raise ConfigError(f"{key} needs the placeholder {{{name}}}")
    return found


def fill(template: str, values: Mapping[str, object]) -> str:
    """The prompt with its placeholders filled in."""
    return template.format_map(values)
