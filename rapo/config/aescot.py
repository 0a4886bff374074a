"""Configuration section `aescot`: the choice of images, the teacher and the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.config.chat import ChatConfig
from rapo.config.types import Amount, Fraction, MayChange, Positive, Seconds, Section
from rapo.records import DIMENSIONS


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
