"""Configuration section `aescot`: the choice of images, the teacher and the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.config.endpoint import EndpointConfig
from rapo.config.engine import EngineConfig
from rapo.config.types import Amount, Fraction, MayChange, Positive, Seconds, Section, StoredModel
from rapo.records import DIMENSIONS


class ChatEngineConfig(EngineConfig):
    max_model_len: Positive = 4096


class ChatConfig(Section):
    """A vision-language model that is asked about images. `vllm` runs it from a folder,
    `openai` asks an OpenAI-compatible endpoint. Teacher and judge have these keys in common."""

    kind: str
    model: StoredModel | None = Field(
        None, description="vllm: a folder, or a URL of one; openai: the endpoint's name of the model"
    )
    revision: str | None = Field(None, description="of the model, for the manifest only")
    prompt: str | None = Field(None, description="text with placeholders (docs/data.md); default: the project's own")
    prompt_file: Path | None = Field(None, description="instead of prompt: a text file")
    actors: Positive = Field(1, description="at most so many processes")
    min_actors: Positive = Field(1, description="to which the pool shrinks where it has too little to do")
    cpus: MayChange[Amount] = 1.0
    gpus: MayChange[Amount] = 0.0
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: Positive = 320
    max_pixels: Positive = Field(1280 * 28 * 28, description="larger images are shrunk for a model")
    engine: ChatEngineConfig = ChatEngineConfig()
    endpoint: EndpointConfig = EndpointConfig()

    @model_validator(mode="after")
    def _model_given(self) -> ChatConfig:
        if self.min_actors > self.actors:
            raise ValueError(f"min_actors is {self.min_actors}, more than actors = {self.actors}")
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("prompt and prompt_file exclude each other")
        if self.kind == "vllm" and not self.model:
            raise ValueError("kind 'vllm' needs model: a model folder, or the URL of one")
        if self.kind == "openai":
            if not self.model or self.endpoint.base_url is None:
                raise ValueError("kind 'openai' needs model, the endpoint's name of it, and endpoint.base_url")
            if self.actors != 1:
                raise ValueError(
                    "kind 'openai' takes actors = 1, which keeps rates and budget; raise endpoint.concurrency instead"
                )
        return self


class TeacherConfig(ChatConfig):
    """The writer of critiques. `measured` is rule-based and needs no weights; `given` takes those
    of a file."""

    kind: Literal["measured", "vllm", "openai", "given"] = "measured"
    critiques: Path | None = Field(None, description="given: rows of images, critiques and scores (docs/data.md)")
    images: Path | None = Field(None, description="given: folder that relative image names are looked up in")
    blind: bool = Field(False, description="the teacher is not told the human score")
    language: str = "English"
    dimensions: tuple[str, ...] = Field(DIMENSIONS, min_length=1, description="what a critique covers")
    words: Positive = 120
    temperature: Annotated[float, Field(ge=0)] = 0.7
    max_tokens: Positive = Field(320, description="a longer critique is cut at its last full sentence")
    slip_rate: Fraction = Field(0.04, description="how often the measured teacher errs as real teachers do")

    @model_validator(mode="after")
    def _critiques_given(self) -> TeacherConfig:
        if (self.kind == "given") != (self.critiques is not None):
            raise ValueError("kind 'given' needs critiques, a file of them, and the other kinds take none")
        return self


class JudgeConfig(ChatConfig):
    """The filter of critiques. `rules` needs no weights; a model judges alignment and grounding in
    its place; `none` keeps every critique. With rules, a level that differs from the measurement by
    more than `tolerance` is an error."""

    kind: Literal["rules", "vllm", "openai", "none"] = "rules"
    votes: Positive = Field(1, description="answers per critique; the majority decides")
    json_schema: bool = Field(False, description="constrain a model's answers to the verdict's JSON schema")
    tolerance: Annotated[int, Field(ge=0, le=4)] = 1


class AesCoTConfig(Section):
    """The cold-start data. The images to critique are balanced over the score bands as far as the
    data allows."""

    images: Positive = Field(3000, description="the critiques to write")
    bands: tuple[float, ...] = (0.0, 0.4, 0.7, 1.0)
    refill: Amount = Field(
        1.0, description="rows that may be asked in place of rejected ones, as a share of a band's critiques"
    )
    batch_size: Positive = 32
    shard_rows: Positive = Field(64, description="rows of a file of answers, which a process works on at a time")
    timeout_s: MayChange[Seconds] = 7 * 24 * 3600.0
    teacher: TeacherConfig = TeacherConfig()
    judge: JudgeConfig = JudgeConfig()

    @model_validator(mode="after")
    def _ascending(self) -> AesCoTConfig:
        if len(self.bands) < 2 or list(self.bands) != sorted(set(self.bands)):
            raise ValueError("aescot.bands must be two or more ascending numbers, such as [0.0, 0.4, 0.7, 1.0]")
        return self
