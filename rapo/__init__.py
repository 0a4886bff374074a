"""rapo: teaches a vision-language model to judge the beauty of an image.

Importing this package pulls in neither torch, Ray nor vLLM, and its clients need grpcio and
protobuf only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["AsyncScorerClient", "CallError", "ScorerClient", "__version__"]

if TYPE_CHECKING:
    from rapo.client import AsyncScorerClient, CallError, ScorerClient


def __getattr__(name: str) -> object:
    """The client's names, imported when they are first used."""
    if name in __all__:
        return getattr(import_module("rapo.client"), name)
    raise AttributeError(f"module 'rapo' has no attribute {name!r}")
