"""`rapo scale`: asks a live run for another number of rollout workers."""

from __future__ import annotations

from pathlib import Path

from cluster.files.run_folder import RunFolder
from cluster.rollout.scale_requests import ask_for
from rapo.config import load_config
from rapo.errors import ConfigError, RunFolderError


def scale_run(out: Path, workers: int) -> str:
    """Ask the run that works in `out` for `workers` rollout workers; a line for the user.

    Raises `RunFolderError` where no run works there, `ConfigError` for a number that the run would
    not grant.
    """
    folder = RunFolder(out)
    if not (out / "config.toml").is_file():
        raise RunFolderError(f"{out} is no run folder: it holds no config.toml.")
    if not folder.busy():
        raise RunFolderError(
            f"no run is working in {out}, so there is nothing to scale. Start it with --set rollout.workers={workers}."
        )
    most = load_config(out / "config.toml").rollout.most
    if workers > most:
        raise ConfigError(
            f"{workers} rollout workers are more than the {most} that this run allows. Start it again with "
            f"--set rollout.max_workers={workers}; it goes on where it was."
        )
    if not (out / "rapo").is_dir():
        raise RunFolderError(
            f"the run in {out} has not come to its RAPO stage yet; only that has rollout workers to scale."
        )
    ask_for(out / "rapo", workers)
    return f"asked for {workers} rollout workers; `rapo status {out}` shows how they join and leave"
