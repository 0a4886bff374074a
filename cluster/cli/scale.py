"""Scale: asks a run that is working for another number of rollout workers, for `rapo scale`."""

from __future__ import annotations

from pathlib import Path

from cluster.files.run_folder import RunFolder
from cluster.rollout.scale_requests import ask_for
from rapo.config import load_config
from rapo.errors import ConfigError, RunFolderError


def scale_run(out: Path, workers: int) -> str:
    """Ask the run in `out` for `workers` rollout workers; returns a line for the user.

    Raises `RunFolderError` where no run is working there, `ConfigError` for more workers than the
    run allows.
    """
    folder = RunFolder(out)
    if not (out / "config.toml").is_file():
        raise RunFolderError(f"{out} is no run folder: it holds no config.toml.")
    if not folder.busy():
        raise RunFolderError(
            f"no run is working in {out}, so nothing can be scaled. Start it with --set rollout.workers={workers}."
        )
    config = load_config(out / "config.toml")
    if workers > config.most_workers:
        key, least = "rollout.max_workers", workers
        if config.colocated:
            key, least = "learner.workers", workers * config.rollout.engine.tensor_parallel_size
        raise ConfigError(
            f"{workers} rollout workers are more than the {config.most_workers} that this run allows. Stop the run and start "
            f"it with --set {key}={least}; it continues from its last checkpoint."
        )
    if not (out / "rapo").is_dir():
        raise RunFolderError(
            f"the run in {out} has not reached its RAPO stage; only that stage has rollout workers to scale."
        )
    ask_for(out / "rapo", workers)
    return f"asked for {workers} rollout workers; `rapo status {out}` shows how they join and leave"
