"""Configuration of a vLLM engine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rapo.config.types import Fraction, Positive, Section


class EngineConfig(Section):
    """The vLLM engine, in rollout workers, scorer replicas, teachers and judges alike."""

    max_model_len: Positive = 512
    max_num_seqs: Positive = 256
    block_size: Positive | None = 32
    kv_cache_gib: Annotated[float, Field(gt=0)] = Field(1.0, description="on CPU")
    gpu_memory_utilization: Fraction = Field(0.9, description="on GPU")
    enforce_eager: bool = True
    tensor_parallel_size: Positive = 1
