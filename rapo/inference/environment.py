"""What must stand in a process's environment before torch and vLLM are imported."""

from __future__ import annotations

import math
import os


def engine_environment(threads: int, kv_cache_gib: float) -> dict[str, str]:
    """Environment variables that must stand before torch and vLLM are imported."""
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
    os.environ.update(engine_environment(threads, kv_cache_gib))
