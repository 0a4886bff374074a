"""RunFiles: what learner ranks write into the run's folder; where they do not see it, by tasks on
the driver's node."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rapo.errors import RunFolderError
from rapo.records import Chunk, WeightManifest
from rapo.storage.local_copy import local_copy, state_copy
from rapo.util.atomic_dir import whole_folder
from rapo.util.file_manifest import Entries

if TYPE_CHECKING:
    from ray import ObjectRef

    from rapo.policy.state import StateFiles

P = ParamSpec("P")
T = TypeVar("T")


def folder_here(path: str, scratch: Path | None) -> Path:
    """A folder on this node: the one at a path, or a copy of what is at a URL.

    Raises `RunFolderError` where this node does not see the path.
    """
    return _seen(local_copy(path, scratch), path)


@contextmanager
def state_here(path: str, scratch: Path | None) -> Iterator[Path]:
    """As `folder_here`, for a state that is read in the block: copies of others are removed."""
    with state_copy(path, scratch) as here:
        yield _seen(here, path)


def _seen(here: Path, path: str) -> Path:
    if not here.is_dir():
        raise RunFolderError(
            f"{socket.gethostname()} does not see {path}: mount it there at the same path, give --out and policy.model as "
            "URLs, or keep the role off this node by its labels; `rapo check --cluster --out DIR` names such nodes"
        )
    return here


def write_state(folder: str, files: StateFiles) -> Entries:
    """Write a rank's training state into the folder of all ranks; the files, which are then on the
    disk."""
    from rapo.policy import state

    return state.write_state(Path(folder), files)


def convert_state(folder: str, target: str, timeout_s: float) -> None:
    """Rewrite the state of all ranks for a world of any size and ZeRO stage."""
    from rapo.policy.state import to_universal

    to_universal(Path(folder), Path(target), timeout_s=timeout_s)


def save_model(folder: str, source: str, *parts: WeightManifest | Chunk) -> None:
    """Write a weight version, `parts` of which are its manifests and chunks, as a model folder that
    transformers and vLLM load; it appears whole or not at all."""
    from rapo.policy.export import write_model

    manifest = WeightManifest.joined([part for part in parts if isinstance(part, WeightManifest)])
    chunks = [part for part in parts if not isinstance(part, WeightManifest)]
    with whole_folder(Path(folder)) as aside:
        write_model(aside, Path(source), manifest, chunks)


def on_node(node: str, function: Callable[P, T]) -> Callable[P, ObjectRef[T]]:
    """The function as a task on the node with this id, where it takes no CPU."""
    # Not by a label: tasks of a process in a placement group would stay inside that.
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=there)
    # The stubs know no function of unknown arguments.
    submit: Callable[P, ObjectRef[T]] = getattr(task, "remote")  # noqa: B009
    return submit
