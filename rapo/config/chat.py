"""Configuration of vision-language models that are asked about images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.config.endpoint import EndpointConfig
from rapo.config.engine import EngineConfig
from rapo.config.types import Amount, MayChange, Positive, Seconds, Section, StoredModel


class AskedModelConfig(Section):
    """A vision-language model that is asked about images: its name, its prompt and its endpoint."""

    kind: str
    model: str | None = Field(None, description="openai: the endpoint's name of the model")
    prompt: str | None = Field(None, description="text with placeholders (docs/data.md); default: the project's own")
    prompt_file: Path | None = Field(None, description="instead of prompt: a text file")
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: Positive = 320
    max_pixels: Positive = Field(1280 * 28 * 28, description="larger images are shrunk for a model")
    endpoint: EndpointConfig = EndpointConfig()

    @model_validator(mode="after")
    def _endpoint_given(self) -> AskedModelConfig:
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("prompt and prompt_file exclude each other")
        if self.kind == "openai" and (not self.model or self.endpoint.base_url is None):
            raise ValueError("kind 'openai' needs model, the endpoint's name of it, and endpoint.base_url")
        return self


class ChatEngineConfig(EngineConfig):
    max_model_len: Positive = 4096


class ChatConfig(AskedModelConfig):
    """A teacher or a judge. `vllm` runs the model from a folder, `openai` asks an OpenAI-compatible
    endpoint."""

    model: StoredModel | None = Field(
        None, description="vllm: a folder, or a URL of one; openai: the endpoint's name of the model"
    )
    revision: str | None = Field(None, description="of the model, for the manifest only")
    actors: Positive = Field(1, description="at most so many processes")
    min_actors: Positive = Field(1, description="to which the pool shrinks where it has too little to do")
    cpus: MayChange[Amount] = 1.0
    gpus: MayChange[Amount] = 0.0
    engine: ChatEngineConfig = ChatEngineConfig()

    @model_validator(mode="after")
    def _processes_given(self) -> ChatConfig:
        if self.min_actors > self.actors:
            raise ValueError(f"min_actors is {self.min_actors}, more than actors = {self.actors}")
        if self.kind == "vllm" and not self.model:
            raise ValueError("kind 'vllm' needs model: a model folder, or the URL of one")
        if self.kind == "openai" and self.actors != 1:
            raise ValueError(
                "kind 'openai' takes actors = 1, which keeps rates and budget; raise endpoint.concurrency instead"
            )
        return self


class GroundingJudgeConfig(AskedModelConfig):
    """What says whether a rationale fits its image: the `measures` of the rule-based teacher, or a
    model behind an OpenAI-compatible endpoint, for text in any words (docs/reward.md)."""

    kind: Literal["measures", "openai"] = "measures"
    prompt: str | None = Field(None, description="text with placeholders (docs/reward.md); default: the project's own")
    votes: Positive = Field(1, description="answers per rationale, of which the mean counts")
    json_schema: bool = Field(False, description="constrain a model's answers to the verdict's JSON schema")
    timeout_s: MayChange[Seconds] = Field(
        600.0, description="of all verdicts of a step, or of 64 images in an evaluation"
    )
