"""Reach: asks an endpoint for its models, which costs nothing, to see whether it would answer."""

from __future__ import annotations

from openai import OpenAI, OpenAIError
from pydantic import BaseModel

from rapo.chat.failures import failure_of
from rapo.chat.key import NO_KEY, hide_key, read_key
from rapo.config import AskedModelConfig
from rapo.errors import RapoError, ResourceError

_LIMIT_S = 10.0
_MOST_NAMES = 10


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def check_reachable(settings: AskedModelConfig, key: str) -> None:
    """Raise a `RapoError` where the endpoint of the section `key` does not answer, refuses the key,
    or lists models without the configured one. An endpoint without such a list is not refused."""
    endpoint = settings.endpoint
    try:
        secret = read_key(endpoint.key_env)
        client = OpenAI(api_key=secret or NO_KEY, base_url=endpoint.base_url, timeout=_LIMIT_S, max_retries=0)
    except RapoError as error:
        raise ResourceError(f"{key}: {error}") from error
    with client:
        try:
            listed = _Models.model_validate_json(client.get("/models", cast_to=str))
        except (OpenAIError, ValueError) as error:
            if getattr(error, "status_code", None) in (404, 405, 501):
                return
            words = hide_key(failure_of(error).problem, secret)
            raise ResourceError(f"{key}: {endpoint.base_url} does not answer as an endpoint does: {words}") from None
    names = [model.id for model in listed.data]
    if settings.model not in names:
        shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        raise ResourceError(f"{key}.model = '{settings.model}' is not among the models of {endpoint.base_url}: {shown}")
