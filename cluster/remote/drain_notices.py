"""Drain notices: nodes that are about to go, such as spot nodes that their cloud takes back.

- Ray is asked every few seconds; where it does not answer, the last answer counts.
- Nodes are known by their host names, as a role tells them (`ProcessInfo.node`).
"""

from __future__ import annotations

import logging
import time

import ray

_EVERY_S, _LIMIT_S = 5.0, 2.0

logger = logging.getLogger(__name__)


class DrainNotices:
    """Needs a connected Ray."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._hosts: frozenset[str] = frozenset()

    def hosts(self) -> frozenset[str]:
        """The host names of the nodes that drain."""
        if time.monotonic() - self._asked_at >= _EVERY_S:
            self._asked_at = time.monotonic()
            try:
                self._hosts = _draining()
            except (ray.exceptions.RayError, RuntimeError, OSError) as error:
                logger.warning("Ray does not tell which nodes drain: %s", error)
        return self._hosts


def _draining() -> frozenset[str]:
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    going = internal_kv_get_gcs_client().get_draining_nodes(timeout=_LIMIT_S)
    if not going:
        return frozenset()
    return frozenset(node["NodeManagerHostname"] for node in ray.nodes() if node["NodeID"] in going)
