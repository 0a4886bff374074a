"""A rank's whole training state as files: weights, optimiser shard, schedule, random generators.
DeepSpeed's own format.

Every rank of the world saves and loads together. A state is bound to the world size that saved it;
`to_universal` rewrites one, so that a world of another size can load it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rapo.errors import RunFolderError

#: Files of a state as bytes, by name.
StateFiles = dict[str, NDArray[np.uint8]]

_TAG = "state"
_MEMORY = Path("/dev/shm")
# DeepSpeed converts only what says of itself that it may be; nothing in a plain transformer needs a
# rule of its own.
_CONVERTIBLE = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


def save_state(engine: Any, folder: Path, **facts: Any) -> None:
    """Write this rank's files to `folder`/state, and `facts` with them. The ranks may use one
    folder or one each."""
    (folder / _TAG).mkdir(parents=True, exist_ok=True)
    generators = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    engine.save_checkpoint(
        str(folder), tag=_TAG, save_latest=False, client_state={**_CONVERTIBLE, **facts, "generators": generators}
    )


def load_state(engine: Any, folder: Path, *, universal: bool = False) -> dict[str, Any]:
    """Take over the state of `folder`; the facts that it was saved with. `universal`: it was made
    by `to_universal`.

    Raises `RunFolderError` where there is none.
    """
    if not any((folder / _TAG).glob("*model_states.pt")):
        raise RunFolderError(f"{folder} holds no training state.")
    settings = engine._config
    before, settings.load_universal_checkpoint = settings.load_universal_checkpoint, universal
    try:
        loaded, facts = engine.load_checkpoint(str(folder), tag=_TAG)
    finally:
        settings.load_universal_checkpoint = before
    if loaded is None:
        raise RunFolderError(f"{folder} holds no training state that fits this model.")
    generators = facts["generators"]
    torch.set_rng_state(generators["torch"])
    if torch.cuda.is_available() and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"])
    return facts


def to_universal(folder: Path, target: Path, *, timeout_s: float) -> None:
    """Rewrite the state of `folder` (of all ranks, in one folder) under `target`, for a world of
    any size."""
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(folder / _TAG), "--output_folder", str(target / _TAG)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.strip()]
        raise RunFolderError(f"{folder} cannot be converted to another number of learner ranks: {said[-1:]}") from error
    except subprocess.TimeoutExpired as error:
        raise RunFolderError(
            f"converting {folder} to another number of learner ranks took longer than {timeout_s:.0f} s "
            "(learner.step_timeout_s)"
        ) from error


def pack_state(engine: Any, **facts: Any) -> StateFiles:
    """This rank's files as bytes. They pass through memory, not through a disk, where the system
    has a place for that."""
    with _scratch() as folder:
        save_state(engine, folder, **facts)
        return {path.name: np.fromfile(path, np.uint8) for path in sorted((folder / _TAG).iterdir())}


def unpack_state(engine: Any, *parts: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Take over a state from the bytes of this rank's files and of those that it shares (rank 0's);
    its facts."""
    with _scratch() as folder:
        (folder / _TAG).mkdir()
        for name, data in (item for part in parts for item in part.items()):
            data.tofile(folder / _TAG / name)
        return load_state(engine, folder)


@contextmanager
def _scratch() -> Iterator[Path]:
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rapo-state-", dir=place) as folder:
        yield Path(folder)
