"""Opening a chat model: in vLLM in this process, or behind an endpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rapo.chat.types import ChatModel
from rapo.config import ChatConfig, Config
from rapo.storage.local_copy import local_copy
from rapo.util.devices import require_device


def folder_of(config: Config, settings: ChatConfig) -> Path:
    """The folder of a model that vLLM runs: a copy on this machine where the model is at a URL.

    Raises `ResourceError` where it cannot be fetched.
    """
    return local_copy(settings.model or "", config.storage.scratch)


def open_chat_model(
    config: Config, settings: ChatConfig, *, schema: Mapping[str, object] | None = None, spent: float = 0.0
) -> ChatModel:
    """The model of `settings`, whose kind is vllm or openai.

    `schema` constrains its answers to a JSON schema. `spent` is what earlier processes of the same
    run have spent of `endpoint.budget`. Raises `ModelError` for a folder without a model, and
    `ConfigError` where the variable of the endpoint's key is not set.
    """
    if settings.kind == "openai":
        from rapo.chat.endpoint import EndpointModel

        return EndpointModel(settings, config.image, patience_s=config.aescot.timeout_s, schema=schema, spent=spent)
    from rapo.inference.environment import set_engine_environment

    # The engine reads this when vLLM is first imported.
    set_engine_environment(max(1, int(settings.cpus)), settings.engine.kv_cache_gib)
    os.environ.update(config.ray.environment("teacher", settings.gpus))
    require_device(settings.gpus, "the gpus of a teacher or judge")
    from rapo.inference.chat_engine import VllmModel

    return VllmModel(folder_of(config, settings), settings, config.image, schema=schema)
