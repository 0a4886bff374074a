"""Checkpoint: the run's whole state on disk, from which a run goes on whose driver died.

    rapo/state/step-000025/learner/state/*   the ranks' weights, optimiser, schedule, random states
                           groups.pkl        groups that were sampled and not used yet
                           state.json        step, window, best model, validation
                           manifest.json     size and checksum of each of these files

- A state appears whole or not at all: it counts once everything of it is on the disk.
- It is verified before it is used. One that is damaged is set aside, and the one before it is
  taken.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.messages import GroupReceipt
from cluster.files.atomic import disk_full_named, read_json, write_atomic, write_json
from cluster.files.json_values import finite
from cluster.files.jsonl import read_jsonl
from cluster.remote.waiting import Waiting
from cluster.training.best_model import BestState
from cluster.training.staleness import WindowState
from rapo.config import Config
from rapo.errors import RunFolderError
from rapo.records import Group
from rapo.util.atomic_dir import whole_folder
from rapo.util.file_manifest import Entries, damage, entries_of

_MANIFEST, _STATE, _GROUPS, _LEARNER = "manifest.json", "state.json", "groups.pkl", "learner"
_CONVERTED = "converted"


#: A validation result with the `step` that it belongs to.
ValidationPoint = dict[str, object]
#: Groups that were sampled and not used yet, each with its receipt, by ticket.
SavedGroups = Mapping[int, tuple[Group, GroupReceipt]]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a checkpoint keeps beside the groups and the learner's files. `ranks` is the number of
    learner ranks that wrote these, `zero_stage` their stage (None: not known)."""

    step: int
    window: WindowState
    validation: list[ValidationPoint]
    best: BestState
    ranks: int
    zero_stage: int | None = None

    def fits(self, config: Config) -> bool:
        """Whether the learner's files are those that ranks of this configuration write."""
        settings = config.learner
        return self.ranks == settings.workers and self.zero_stage in (None, settings.zero_stage)

    def check_convertible(self, config: Config) -> None:
        """Raise `RunFolderError` where ranks of this configuration cannot take the learner's files
        over, converted or not."""
        wanted = config.learner.zero_stage
        if self.zero_stage in (None, wanted) or {self.zero_stage, wanted} == {1, 2}:
            return
        raise RunFolderError(
            f"the state of step {self.step} was written with learner.zero_stage = {self.zero_stage}, and this configuration "
            f"has {wanted}: DeepSpeed converts between stages 1 and 2 only. Give learner.zero_stage={self.zero_stage}; "
            "learner.offload and learner.gradient_checkpointing save memory in its place."
        )

    @classmethod
    def read(cls, path: Path) -> TrainingState:
        raw = read_json(path)
        return cls(
            step=raw["step"],
            window=WindowState(**raw["window"]),
            validation=raw["validation"],
            best=BestState(**raw["best"]),
            ranks=raw["ranks"],
            zero_stage=raw.get("zero_stage"),
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified state."""

    folder: Path
    state: TrainingState
    groups: SavedGroups

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def learner(self) -> Path:
        return self.folder / _LEARNER


class Checkpoints:
    """The states in `folder`, the last `keep` of them."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def write(
        self, state: TrainingState, groups: SavedGroups, save_learner: Callable[[Path], Waiting[Entries]]
    ) -> Waiting[None]:
        """Write the state after a step; `save_learner` writes the ranks' files into a folder and
        says which. What is given here is on the disk before the first wait.

        Raises `ResourceError` where the disk is full; the states before are then untouched.
        """
        target = self._folder / _name(state.step)
        with disk_full_named(target), whole_folder(target) as aside:
            aside.mkdir(parents=True)
            write_atomic(aside / _GROUPS, pickle.dumps(dict(groups), protocol=5))
            write_json(aside / _STATE, asdict(state))
            entries = entries_of(aside, [aside / _GROUPS, aside / _STATE])
            written = yield from save_learner(aside / _LEARNER)
            entries |= {f"{_LEARNER}/{name}": entry for name, entry in written.items()}
            write_json(aside / _MANIFEST, entries)
        unfinished = self._folder.glob(".step-*.partial")
        for old in (*self._folders()[: -self._keep], *self._folder.glob(f"{_CONVERTED}-*"), *unfinished):
            shutil.rmtree(old, ignore_errors=True)

    def converted(self, checkpoint: Checkpoint) -> Path:
        """Where a state that is rewritten for other ranks goes, until the next one is
        written; nothing is there."""
        folder = self._folder / f"{_CONVERTED}-{checkpoint.folder.name}"
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def kept(self) -> Iterator[TrainingState]:
        """The states that are kept, oldest first."""
        for folder in self._folders():
            yield TrainingState.read(folder / _STATE)

    def latest(self, note: Callable[[str], None]) -> Checkpoint | None:
        """The newest state that is whole; `note` is told of those that are not, which are
        renamed."""
        for folder in reversed(self._folders()):
            problem = _problem(folder)
            if problem is None:
                groups: SavedGroups = pickle.loads((folder / _GROUPS).read_bytes())
                return Checkpoint(folder, TrainingState.read(folder / _STATE), groups)
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            note(
                f"the state of step {int(folder.name.removeprefix('step-'))} is damaged ({problem}); it is set aside as {aside}"
            )
        return None

    @property
    def newest(self) -> int:
        """The step of the newest state, verified or not; 0 where there is none."""
        folders = self._folders()
        return int(folders[-1].name.removeprefix("step-")) if folders else 0

    def _folders(self) -> list[Path]:
        found = self._folder.glob("step-*") if self._folder.is_dir() else ()
        return sorted(path for path in found if path.suffix == "")


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _problem(folder: Path) -> str | None:
    try:
        entries = read_json(folder / _MANIFEST)
        found = damage(folder, entries)
    except (RunFolderError, AttributeError, TypeError, ValueError) as error:
        return f"its manifest cannot be read: {error}"
    if found is not None:
        return found
    try:
        TrainingState.read(folder / _STATE)
    except (KeyError, TypeError) as error:
        return f"its state was written by another version of rapo: {error}"
    return None


def cut_back(path: Path, step: int) -> None:
    """Take the rows of later steps out of a JSON-lines file; they are about to be written again."""
    if path.is_file():
        kept = [row for row in read_jsonl(path) if (finite(row.get("step")) or 0) <= step]
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
