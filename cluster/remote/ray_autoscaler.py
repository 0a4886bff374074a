"""Ray autoscaler: is told the resources that a run needs, where the cluster has one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster.remote.needs import Need, needs_of
from rapo.config import Config


def request_capacity(config: Config, needs: Sequence[Need]) -> None:
    """Ask for room for `needs`, whatever runs on it now, in place of the request before; none takes
    that back.

    Without an autoscaler the request has no effect. A local instance has none.
    """
    if config.ray.address is None:
        return
    from ray.autoscaler.sdk import request_resources

    wanted = [need for need in needs if need.resources for _ in range(need.count)]
    if not wanted:
        request_resources(bundles=[])
        return
    request_resources(
        bundles=[dict(need.resources) for need in wanted],
        bundle_label_selectors=[dict(need.labels) for need in wanted],
    )


@contextmanager
def requested_capacity(config: Config, stage: str) -> Iterator[None]:
    """Room for a stage without a fleet, which asks for its own, for the length of the block."""
    request_capacity(config, needs_of(config).get(stage, ()))
    try:
        yield
    finally:
        request_capacity(config, ())
