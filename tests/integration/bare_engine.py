"""BareEngine: vLLM's model class on the meta device, without an engine and without memory.

Call `initialize`, then `load`, in a child process, because vLLM needs a process group and an
environment of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

#: Name, shape, and name of the dtype of a tensor.
Described = tuple[str, tuple[int, ...], str]


def initialize() -> None:
    from rapo.inference.environment import set_engine_environment

    set_engine_environment(threads=1, kv_cache_gib=1.0)


@cache
def _model(folder: Path) -> tuple[Any, Any]:
    """vLLM's model of `folder` (a `config.json` is enough) on the meta device, and its
    configuration."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model

    config = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=512,
        enforce_eager=True,
        limit_mm_per_prompt={"image": 1, "video": 0},
    ).create_engine_config()
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/rendezvous", 0, "gloo")
            initialize_model_parallel(1)
        with torch.device("meta"):
            return initialize_model(config), config.model_config


def load(folder: Path, published: Sequence[Described]) -> tuple[int, int, int]:
    """Load tensors of these names and shapes on the meta device.

    Returns how many parameters were assigned, how many there are, and how many elements they hold
    without the padding of vocabularies. Raises as `load_every_parameter` does.
    """
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    from rapo.inference.weight_loader import load_every_parameter

    model, config = _model(folder)
    weights = (
        (name, torch.empty(shape, dtype=getattr(torch, dtype), device="meta")) for name, shape, dtype in published
    )
    assigned = load_every_parameter(model, config, weights)
    parameters = list(model.parameters())
    padding = sum(
        (layer.weight.shape[0] - layer.org_vocab_size) * layer.weight.shape[1]
        for layer in model.modules()
        if isinstance(layer, VocabParallelEmbedding)
    )
    return assigned, len(parameters), sum(parameter.numel() for parameter in parameters) - padding
