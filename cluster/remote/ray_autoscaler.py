"""Ray autoscaler: is told the resources that a run needs, where the cluster has one."""

from __future__ import annotations

from cluster.remote.placement import bundle
from cluster.rollout.worker_handle import worker_bundle
from rapo.config import Config


def request_capacity(config: Config, workers: int | None) -> None:
    """Ask for room for the learner ranks and `workers` rollout workers, whatever runs on it now;
    None takes the request back.

    Without an autoscaler the request has no effect. A local instance has none.
    """
    if config.ray.address is None:
        return
    from ray.autoscaler.sdk import request_resources

    if workers is None:
        request_resources(bundles=[])
        return
    learner = bundle(config.learner.cpus, config.learner.gpus)
    wanted = [(worker_bundle(config.rollout), config.rollout.labels)] * workers
    wanted += [(learner, config.learner.labels)] * config.learner.workers
    wanted = [(resources, labels) for resources, labels in wanted if resources]
    request_resources(
        bundles=[resources for resources, _ in wanted], bundle_label_selectors=[labels for _, labels in wanted]
    )
