"""Dashboard: each figure that it asks for is one that a gateway or a run exports."""

from __future__ import annotations

import json
import re

from kustomize import DEPLOY
from prometheus_client.metrics_core import Metric

from cluster.monitoring import prometheus
from services.gateway.metrics import Metrics

DASHBOARD = json.loads((DEPLOY / "base/monitoring/dashboard.json").read_text(encoding="utf-8"))
#: A gauge of every scalar of a step goes by its own name; `step` is always among them.
_RUN = {"step", "fleet_workers", "fleet_wanted"}


def test_every_figure_is_exported() -> None:
    gateway = {name for metric in Metrics().registry.collect() for name in _names(metric)}
    source = (DEPLOY.parent / "monitoring/prometheus.py").read_text(encoding="utf-8")
    run = _RUN | set(re.findall(r'"(\w+_total)"', source))
    run |= {
        f"{name}_{end}" for name in re.findall(r'"rapo_(\w+_seconds)"', source) for end in ("sum", "count", "bucket")
    }
    assert prometheus.PrometheusBackend.name
    asked = {name for panel in DASHBOARD["panels"] for target in panel["targets"] for name in _asked(target["expr"])}
    assert len(asked) > 15
    for name in asked:
        known = name.removeprefix("ray_rapo_") in run if name.startswith("ray_") else name in gateway
        assert known, name


def test_panels_have_numbers_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def _names(metric: Metric) -> set[str]:
    ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[metric.type]
    return {metric.name + end for end in ends}


def _asked(expression: str) -> list[str]:
    return re.findall(r"\b(?:ray_)?rapo_\w+", expression)
