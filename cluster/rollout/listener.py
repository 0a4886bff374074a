"""FleetListener: what a fleet reports while a run goes on."""

from __future__ import annotations

from enum import StrEnum

from cluster.remote.faults import Fault
from cluster.rollout.worker_handle import WorkerHandle


class WorkerEvent(StrEnum):
    """What has just happened to a worker; the words of `rapo/fleet.jsonl`."""

    READY = "ready"  # it can be given tasks
    ROUTED = "routed"  # it was given its first task
    LOADED = "loaded"  # it has verified a weight version
    LEFT = "left"  # it was one too many and has finished its calls
    LOST = "lost"  # it died, hung or was late


class FleetListener:
    """Receives a fleet's reports, in the thread that uses the fleet. A subclass overrides what it
    wants; the methods do nothing here."""

    def fault(self, fault: Fault) -> None:
        """A failure that was survived."""

    def worker(self, event: WorkerEvent, worker: WorkerHandle) -> None:
        """A worker's event."""
