"""TrainingListener: what a training run reports while it goes on."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.rollout.listener import FleetListener
from cluster.rollout.tasks import RolloutResult

#: A row of metrics.jsonl: figures by name, and mappings of figures.
MetricsRow = Mapping[str, object]


class TrainingListener(FleetListener):
    """Receives the reports of fleet, learners, reward actor and controller, in the thread of the
    run. A subclass overrides what it wants; the methods do nothing here."""

    def note(self, text: str) -> None:
        """A line for the user."""

    def progress(self, step: int, figures: Mapping[str, float]) -> None:
        """Steps done, and the figures to show beside them."""

    def sampled(self, result: RolloutResult) -> None:
        """A group that has just come."""

    def step(self, row: MetricsRow) -> None:
        """A row of metrics.jsonl, when the step or validation that it describes has just ended."""

    def changed(self) -> None:
        """The run's status is another one (`Controller.status`)."""
