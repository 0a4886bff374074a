"""Telemetry: hands the figures of a run to the backends that the configuration names: Prometheus
through Ray, TensorBoard, W&B.

- Each backend is a library behind `Backend`.
- A backend that fails is warned of once and left out from then on. It never ends a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from actors.messages import GroupReceipt
from cluster.files.json_values import finite
from cluster.files.run_state import RunState, worker_counts
from cluster.monitoring.logs import run_id
from cluster.monitoring.prometheus import PrometheusBackend
from rapo.config import Config

logger = logging.getLogger("rapo.telemetry")


class Backend(Protocol):
    """Takes the figures from `Telemetry`. It may raise any exception of its library."""

    name: str

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def state(self, state: RunState) -> None: ...
    def fault(self, role: str, kind: str) -> None: ...
    def groups(self, receipts: Sequence[GroupReceipt]) -> None: ...
    def close(self) -> None: ...


class Telemetry:
    """Passes steps, states, groups and faults on to its backends. `close` it at the end."""

    def __init__(self, backends: Iterable[Backend], warn: Callable[[str], None] = logger.warning) -> None:
        self._backends = list(backends)
        self._warn = warn

    def step(self, row: Mapping[str, object]) -> None:
        """`row` is one of metrics.jsonl, of a training step or with `validation`."""
        step = row.get("step")
        if isinstance(step, int):
            values = dict(scalars(row))
            self._each(lambda backend: backend.scalars(step, values))

    def fleet(self, state: Mapping[str, object]) -> None:
        """`state` is the content of state.json."""
        read = RunState.read(state)
        self._each(lambda backend: backend.state(read))

    def fault(self, row: Mapping[str, object]) -> None:
        """`row` is one of faults.jsonl."""
        self._each(lambda backend: backend.fault(str(row.get("role")), str(row.get("kind"))))

    def groups(self, receipts: Sequence[GroupReceipt]) -> None:
        """`receipts` are those of groups that have come."""
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
    """The backends of `config.telemetry` for the run folder `run`. A run that is continued repeats
    the steps from `first_step`: TensorBoard drops what it had of them."""
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


def scalars(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of a row, with their paths as `a/b`. The step itself is not among
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

    def state(self, state: RunState) -> None:
        for name, value in scalars({"window": state.window, "fleet": fleet_counts(state)}):
            self._writer.add_scalar(name, value, self._step)

    def fault(self, role: str, kind: str) -> None:
        self._writer.add_text("fault", f"{role}: {kind}", self._step)

    def groups(self, receipts: Sequence[GroupReceipt]) -> None:
        seconds = [receipt.seconds for receipt in receipts]
        if seconds:
            self._writer.add_histogram("group_seconds", seconds, self._step)

    def close(self) -> None:
        self._writer.close()


class WandbBackend:
    """Weights & Biases. Nothing goes over the network unless `mode` or WANDB_MODE is "online"."""

    name = "W&B"

    def __init__(self, project: str, run: Path, mode: str, config: Mapping[str, object]) -> None:
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

    def state(self, state: RunState) -> None:
        if state.step is not None:
            self._run.log({f"fleet/{name}": count for name, count in fleet_counts(state).items()}, step=state.step)

    def fault(self, role: str, kind: str) -> None:
        return None

    def groups(self, receipts: Sequence[GroupReceipt]) -> None:
        return None

    def close(self) -> None:
        self._run.finish()


def fleet_counts(state: RunState) -> dict[str, int]:
    """Workers by state, and how many are `wanted`."""
    return worker_counts(state.workers) | ({} if state.wanted is None else {"wanted": state.wanted})
