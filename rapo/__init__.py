"""rapo: teaches a vision-language model to judge the beauty of a picture.

Importing this package pulls in neither torch, Ray nor vLLM, so that a client can install it bare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ScorerClient", "__version__"]

if TYPE_CHECKING:
    from rapo.client import ScorerClient


def __getattr__(name: str) -> Any:
    if name == "ScorerClient":
        from rapo.client import ScorerClient

        return ScorerClient
    raise AttributeError(f"module 'rapo' has no attribute {name!r}")
