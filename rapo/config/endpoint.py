"""Configuration of an OpenAI-compatible endpoint."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from rapo.config.types import Amount, MayChange, Positive, Seconds, Section

# Upper case only, because many keys would pass for a name in lower case.
_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint: where it is, how fast it may be asked, and what it may cost.

    The key is never a setting: `key_env` names the environment variable that holds it.
    """

    base_url: MayChange[str | None] = Field(None, description="such as http://127.0.0.1:8000/v1")
    key_env: MayChange[str | None] = Field(
        None, description="name of the environment variable with the key; none: no key is sent"
    )
    concurrency: MayChange[Positive] = Field(16, description="requests in flight")
    requests_per_minute: MayChange[Positive | None] = None
    tokens_per_minute: MayChange[Positive | None] = Field(None, description="prompt and completion together")
    request_timeout_s: MayChange[Seconds] = Field(120.0, description="of one request")
    item_timeout_s: MayChange[Seconds] = Field(900.0, description="of one image with all retries and pauses")
    retries: MayChange[Annotated[int, Field(ge=0)]] = Field(
        6, description="after 408, 409, 429, 5xx, lost connections and unreadable answers"
    )
    max_failures: MayChange[Positive] = Field(
        50, description="images in a row without an answer, after which nothing more is asked"
    )
    max_image_bytes: Positive = Field(5 * 2**20, description="of the data URL; larger images are shrunk")
    token_limit: Literal["max_completion_tokens", "max_tokens"] = Field(
        "max_completion_tokens", description="name of the token limit that the endpoint knows"
    )
    omit: tuple[Literal["temperature", "seed"], ...] = Field((), description="fields that the endpoint refuses")
    extra: dict[str, str | int | float | bool] = Field({}, description="further fields of every request")
    prompt_price: MayChange[Amount | None] = Field(None, description="of a million prompt tokens, in any currency")
    completion_price: MayChange[Amount | None] = Field(None, description="of a million completion tokens")
    budget: MayChange[Amount | None] = Field(None, description="in the prices' currency; beyond it nothing is asked")

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("an address such as https://host/v1 is needed")
        if url.username is not None or url.password is not None or url.query:
            raise ValueError("an address may hold no user, password or query; name a variable in key_env instead")
        return value

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.fullmatch(value):
            raise ValueError("this takes the NAME of an environment variable, such as OPENAI_API_KEY, never a key")
        return value

    @model_validator(mode="after")
    def _budget_has_prices(self) -> EndpointConfig:
        if self.budget is not None and (self.prompt_price is None or self.completion_price is None):
            raise ValueError("a budget needs prompt_price and completion_price, per million tokens")
        return self
