"""Completions: the request that an OpenAI-compatible endpoint gets, and its response as an
answer."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from rapo.chat.types import ChatAnswer, Usage
from rapo.config import AskedModelConfig


class _Lenient(BaseModel):
    """Endpoints differ in what else they send and leave out."""

    model_config = ConfigDict(extra="ignore")


class _Message(_Lenient):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Lenient):
    message: _Message
    finish_reason: str | None = None


class TokenCounts(_Lenient):
    """The tokens of one request."""

    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)


class ChatCompletion(_Lenient):
    """A response of the call `chat/completions`."""

    choices: list[_Choice] = Field(min_length=1)
    usage: TokenCounts | None = None
    model: str | None = None


def request_body(
    settings: AskedModelConfig, text: str, image_url: str, seed: int, schema: Mapping[str, object] | None
) -> dict[str, object]:
    """The body of a request: the image first, as in all of the project's prompts."""
    content = [{"type": "image_url", "image_url": {"url": image_url}}, {"type": "text", "text": text}]
    endpoint = settings.endpoint
    body: dict[str, object] = {
        "model": settings.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": settings.temperature,
        # Some endpoints take 32 bits with a sign.
        "seed": seed % 2**31,
        endpoint.token_limit: settings.max_tokens,
    }
    for name in endpoint.omit:
        del body[name]
    if schema is not None:
        named = {"name": "verdict", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return {**body, **endpoint.extra}


def answer_of(completion: ChatCompletion, usage: Usage) -> ChatAnswer:
    """The completion's first choice as an answer; a refusal is a problem."""
    choice, model = completion.choices[0], completion.model
    if choice.message.refusal:
        return ChatAnswer(
            None, f"the model refused: {choice.message.refusal[:200]}", "unusable", usage=usage, model=model
        )
    if choice.finish_reason == "content_filter":
        return ChatAnswer(
            None, "the endpoint's content filter kept the answer back", "unusable", usage=usage, model=model
        )
    return ChatAnswer(
        choice.message.content or "", truncated=choice.finish_reason == "length", usage=usage, model=model
    )
