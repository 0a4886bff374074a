"""The figures of a running job, handed to whoever the configuration names: Prometheus through Ray,
TensorBoard, W&B.

Each is its own library behind `Backend`. One that fails is warned of once and left out from then
on: a run never ends for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cluster.files.json_values import finite
from cluster.monitoring.logs import run_id
from cluster.monitoring.prometheus import PrometheusBackend
from rapo.config import Config

logger = logging.getLogger("rapo.telemetry")


class Backend(Protocol):
    """Takes what `Telemetry` is told. Any exception of its library may pass."""

    name: str

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def fleet(self, state: Mapping[str, Any]) -> None: ...
    def fault(self, role: str, kind: str) -> None: ...
    def groups(self, receipts: Sequence[Mapping[str, Any]]) -> None: ...
    def close(self) -> None: ...


class Telemetry:
    """Told of steps, the fleet, groups and faults; `close` it at the end."""

    def __init__(self, backends: Iterable[Backend], warn: Callable[[str], None] = logger.warning) -> None:
        self._backends = list(backends)
        self._warn = warn

    def step(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl: of a training step, or with `validation`."""
        step = row.get("step")
        if isinstance(step, int):
            values = dict(scalars(row))
            self._each(lambda backend: backend.scalars(step, values))

    def fleet(self, state: Mapping[str, Any]) -> None:
        """What is in state.json."""
        self._each(lambda backend: backend.fleet(state))

    def fault(self, row: Mapping[str, Any]) -> None:
        """A row of faults.jsonl."""
        self._each(lambda backend: backend.fault(str(row.get("role")), str(row.get("kind"))))

    def groups(self, receipts: Sequence[Mapping[str, Any]]) -> None:
        """The receipts of groups that have been drawn."""
        self._each(lambda backend: backend.groups(receipts))

    def close(self) -> None:
        self._each(lambda backend: backend.close())
        self._backends = []

    def _each(self, tell: Callable[[Backend], None]) -> None:
        for backend in list(self._backends):
            try:
                tell(backend)
            except Exception as error:  # noqa: BLE001 - whatever a metrics library raises, the run goes on
                self._backends.remove(backend)
                self._warn(f"{backend.name} gets no more metrics of this run: {type(error).__name__}: {error}")


def open_telemetry(
    config: Config, run: Path, first_step: int = 0, warn: Callable[[str], None] = logger.warning
) -> Telemetry:
    """What `config.telemetry` asks for, for the run folder `run`. A run that goes on repeats steps
    from `first_step`: what TensorBoard had of them is dropped."""
    settings = config.telemetry
    makers: list[tuple[str, Callable[[], Backend]]] = []
    if settings.prometheus:
        makers.append(("Prometheus", lambda: PrometheusBackend(run.name)))
    if settings.tensorboard:
        makers.append(("TensorBoard", lambda: TensorBoardBackend(run / "rapo" / "tensorboard", first_step)))
    project = settings.wandb_project
    if project is not None:
        makers.append(("W&B", lambda: WandbBackend(project, run, settings.wandb_mode, config.model_dump(mode="json"))))
    backends = []
    for name, make in makers:
        try:
            backends.append(make())
        except Exception as error:  # noqa: BLE001 - whatever a metrics library raises, the run goes on
            warn(f"{name} gets no metrics of this run: {type(error).__name__}: {error}")
    return Telemetry(backends, warn)


def scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of a row with their dotted path as `a/b`; the step itself is none of
    them."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif (number := finite(value)) is not None and (prefix or key != "step"):
            yield f"{prefix}{key}", number


class TensorBoardBackend:
    """Event files by tensorboardX."""

    name = "TensorBoard"

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step or None, flush_secs=10)
        self._step = first_step

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def fleet(self, state: Mapping[str, Any]) -> None:
        for name, value in scalars({"window": state.get("window") or {}, "fleet": worker_counts(state)}):
            self._writer.add_scalar(name, value, self._step)

    def fault(self, role: str, kind: str) -> None:
        self._writer.add_text("fault", f"{role}: {kind}", self._step)

    def groups(self, receipts: Sequence[Mapping[str, Any]]) -> None:
        seconds = [receipt["seconds"] for receipt in receipts]
        if seconds:
            self._writer.add_histogram("group_seconds", seconds, self._step)

    def close(self) -> None:
        self._writer.close()


class WandbBackend:
    """Weights & Biases: nothing goes over the network unless `mode` or WANDB_MODE is "online"."""

    name = "W&B"

    def __init__(self, project: str, run: Path, mode: str, config: Mapping[str, Any]) -> None:
        import os

        import wandb

        name = run_id(run)
        folder = run / "rapo"
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            id=name,
            name=run.name,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE") or mode,
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(console="off", save_code=False, disable_git=True),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def fleet(self, state: Mapping[str, Any]) -> None:
        step = state.get("step")
        if isinstance(step, int):
            self._run.log({f"fleet/{name}": count for name, count in worker_counts(state).items()}, step=step)

    def fault(self, role: str, kind: str) -> None:
        return None

    def groups(self, receipts: Sequence[Mapping[str, Any]]) -> None:
        return None

    def close(self) -> None:
        self._run.finish()


def worker_counts(state: Mapping[str, Any]) -> dict[str, int]:
    """Workers by state, and how many are `wanted`."""
    fleet = state.get("fleet") or {}
    counts: dict[str, int] = {}
    for worker in fleet.get("workers") or []:
        counts[str(worker.get("state"))] = counts.get(str(worker.get("state")), 0) + 1
    if isinstance(fleet.get("wanted"), int):
        counts["wanted"] = fleet["wanted"]
    return counts
