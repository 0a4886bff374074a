"""Training state: a rank's weights, optimiser shard, schedule and random generators as files, in
DeepSpeed's own format.

- All ranks of the world copy and load together. `copy_state` is all that a step waits for:
  `pack_state` and `write_state` work on the copy, in other threads.
- A state belongs to the world size that saved it. `to_universal` rewrites one for a world of any
  size.
- Parameters that do not train are left out: they are those of the model that the ranks start from.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rapo.errors import RunFolderError
from rapo.util.atomic_dir import sync
from rapo.util.file_manifest import Entries, entries_of

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from rapo.policy.host_memory.pinned_copies import PinnedCopies

#: The contents of a state's files, by name, in the host's memory.
HostState = dict[str, object]
#: Files of a state as bytes, by name.
StateFiles = dict[str, NDArray[np.uint8]]

_TAG = "state"
_MEMORY = Path("/dev/shm")
# DeepSpeed converts only states with this entry. A plain transformer needs no rules beside it.
_CONVERTIBLE = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


def copy_state(engine: DeepSpeedEngine, *, version: int, pinned: PinnedCopies | None = None) -> HostState:
    """Copy this rank's state, and the number of optimiser steps `version`, to the host's memory;
    what lies on a GPU by `pinned`."""
    from rapo.policy.host_memory.host_copy import HostCopies

    generators = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    client_state = {**_CONVERTIBLE, "version": version, "generators": generators}
    before, engine.checkpoint_engine = engine.checkpoint_engine, HostCopies(pinned)
    try:
        with tempfile.TemporaryDirectory(prefix="rapo-state-") as folder:  # DeepSpeed puts a script of its own there
            engine.save_checkpoint(
                folder, tag=_TAG, save_latest=False, client_state=client_state, exclude_frozen_parameters=True
            )
        copied: HostState = engine.checkpoint_engine.files
    finally:
        engine.checkpoint_engine = before
    return copied


def pack_state(copied: HostState) -> StateFiles:
    """The files of a copied state as bytes. Each copy is let go of as soon as its file is made."""
    files: StateFiles = {}
    while copied:
        name, content = copied.popitem()
        file = io.BytesIO()
        torch.save(content, file)
        files[name] = np.frombuffer(file.getbuffer(), np.uint8)
    return files


def write_state(folder: Path, files: StateFiles) -> Entries:
    """Write one rank's files to `folder`/state, where those of all ranks go, and through to the
    disk; their entries."""
    target = folder / _TAG
    target.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        data.tofile(target / name)
        sync(target / name)
    return entries_of(folder, [target / name for name in files])


def load_state(engine: DeepSpeedEngine, folder: Path, *, universal: bool = False) -> int:
    """Load the state of `folder`; the version that it was saved with. `universal`: it comes from
    `to_universal`.

    Raises `RunFolderError` where `folder` holds no state, or none that fits the model.
    """
    if not any((folder / _TAG).glob("*model_states.pt")):
        raise RunFolderError(f"{folder} holds no training state.")
    settings = engine._config
    before, settings.load_universal_checkpoint = settings.load_universal_checkpoint, universal
    try:
        # Not strict: parameters that do not train are not among them.
        loaded, client_state = engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
    finally:
        settings.load_universal_checkpoint = before
    if loaded is None:
        raise RunFolderError(f"{folder} holds no training state that fits this model.")
    generators = client_state["generators"]
    torch.set_rng_state(generators["torch"])
    if torch.cuda.is_available() and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"])
    return int(client_state["version"])


def to_universal(folder: Path, target: Path, *, timeout_s: float) -> None:
    """Rewrite the state of all ranks in `folder` under `target`, for a world of any size.

    Raises `RunFolderError` where the conversion fails or takes longer than `timeout_s`.
    """
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(folder / _TAG), "--output_folder", str(target / _TAG)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise RunFolderError(
            f"{folder} cannot be converted for another number of learner ranks or ZeRO stage: {lines[-1:]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RunFolderError(
            f"converting {folder} for another number of learner ranks or ZeRO stage took longer than {timeout_s:.0f} s "
            "(learner.step_timeout_s)"
        ) from error


def unpack_state(engine: DeepSpeedEngine, *parts: StateFiles) -> int:
    """Load a state from the bytes of this rank's files and, on other ranks than 0, of rank 0's; the
    version that it was saved with."""
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
