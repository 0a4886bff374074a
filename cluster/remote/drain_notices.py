"""Drain notices: nodes that are about to go, such as spot nodes that their cloud takes back.

- Ray is asked every few seconds; where it does not answer, the last answer counts.
- Nodes are known by Ray's ids (`ProcessInfo.node_id`): several may be on one host.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import ray

_EVERY_S, _LIMIT_S = 5.0, 2.0

logger = logging.getLogger(__name__)


class DrainNotices:
    """Needs a connected Ray."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._nodes: Mapping[str, str] = {}

    def nodes(self) -> Mapping[str, str]:
        """The host names of the nodes that drain or have drained, by node id."""
        if time.monotonic() - self._asked_at >= _EVERY_S:
            self._asked_at = time.monotonic()
            try:
                # A node that has gone stays: who asks once a step has to hear of it.
                self._nodes = {**self._nodes, **_draining()}
            except (ray.exceptions.RayError, RuntimeError, OSError) as error:
                logger.warning("Ray does not tell which nodes drain: %s", error)
        return self._nodes


def _draining() -> dict[str, str]:
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    going = internal_kv_get_gcs_client().get_draining_nodes(timeout=_LIMIT_S)
    if not going:
        return {}
    return {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["NodeID"] in going}
