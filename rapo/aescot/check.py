"""Checks: what can be known of a teacher's or a judge's model before it is asked anything."""

from __future__ import annotations

from rapo.aescot.prompt import teacher_template
from rapo.chat.key import read_key
from rapo.config import ChatConfig, Config
from rapo.errors import ConfigError


def check_teacher(config: Config) -> None:
    """Raise a `RapoError` for a teacher that could not start."""
    if config.aescot.teacher.kind != "measured":
        teacher_template(config.aescot.teacher)
        _check_model(config.aescot.teacher, "aescot.teacher")


def check_judge(config: Config) -> None:
    """Raise a `RapoError` for a judge that could not start."""
    if config.aescot.judge.kind != "rules":
        _check_model(config.aescot.judge, "aescot.judge")


def _check_model(settings: ChatConfig, key: str) -> None:
    if settings.kind == "vllm":
        from rapo.inference.chat_engine import check_chat_folder

        check_chat_folder(settings.model or "")
        # Not at the top: it imports transformers, which nothing else here needs.
        from rapo.models.completeness import check_teacher_parameters

        check_teacher_parameters(settings.model or "")
        return
    try:
        read_key(settings.endpoint.key_env)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
