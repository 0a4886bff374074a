"""rapo: teaches a vision-language model to judge the beauty of an image.

Importing this package pulls in neither torch, Ray nor vLLM, and its clients need grpcio and
protobuf only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsyncScorerClient", "CallError", "ScorerClient", "__version__"]

if TYPE_CHECKING:
    from rapo.client.aio import AsyncScorerClient
    from rapo.client.errors import CallError
    from rapo.client.sync import ScorerClient


def __getattr__(name: str) -> Any:
    if name == "ScorerClient":
        from rapo.client.sync import ScorerClient

        return ScorerClient
    if name == "AsyncScorerClient":
        from rapo.client.aio import AsyncScorerClient

        return AsyncScorerClient
    if name == "CallError":
        from rapo.client.errors import CallError

        return CallError
    raise AttributeError(f"module 'rapo' has no attribute {name!r}")
