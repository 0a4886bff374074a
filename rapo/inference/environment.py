"""Environment: the variables that an engine's process needs before it imports torch and vLLM."""

from __future__ import annotations

import math
import os


def engine_environment(threads: int, kv_cache_gib: float) -> dict[str, str]:
    """The variables of an engine with `threads` compute threads and a KV cache of `kv_cache_gib`
    GiB (on CPUs; at least 1)."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(kv_cache_gib))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def set_engine_environment(threads: int, kv_cache_gib: float) -> None:
    """Set the variables in this process. Call it before torch and vLLM are imported."""
    os.environ.update(engine_environment(threads, kv_cache_gib))
