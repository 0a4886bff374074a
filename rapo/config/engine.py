"""Configuration of a vLLM engine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rapo.config.types import Fraction, MayChange, Positive, Section


class EngineConfig(Section):
    """The vLLM engine, in rollout workers, scorer replicas, teachers and judges alike."""

    max_model_len: Positive = 512
    max_num_seqs: MayChange[Positive] = 256
    block_size: MayChange[Positive | None] = 32
    kv_cache_gib: MayChange[Annotated[float, Field(gt=0)]] = Field(1.0, description="on CPU")
    gpu_memory_utilization: MayChange[Fraction] = Field(0.9, description="on GPU")
    enforce_eager: MayChange[bool | None] = Field(None, description="no CUDA graphs; default: on CPU only")
    tensor_parallel_size: MayChange[Positive] = 1
