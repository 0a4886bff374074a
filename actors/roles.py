"""Roles: the calls that each kind of actor answers.

A role is a plain class that has these methods. `cluster.remote.actors` makes Ray actors of it; its
`ACTOR_OPTIONS` are what Ray has to know of the class. A test or a benchmark brings another class
with the same methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from actors.messages import GroupReceipt, ProcessInfo, RankFigures, RankInfo, RewardReceipt
from rapo.algorithm.partition import Share
from rapo.chat.types import Usage
from rapo.config import Config
from rapo.explanations.grounding_judge import JudgeHistory
from rapo.records import Chunk, Group, ImageRecord, Meeting, Prediction, WeightManifest
from rapo.util.file_manifest import Entries

if TYPE_CHECKING:
    from ray import ObjectRef

    from rapo.policy.state import StateFiles


class RolloutRole(Protocol):
    """Samples groups and predicts scores from verified weights. All calls are asynchronous."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]]

    def __init__(self, name: str, config: Config) -> None: ...
    async def hello(self) -> ProcessInfo: ...
    async def start(self, model_dir: str, version: int) -> None: ...
    async def ping(self) -> None: ...
    async def load(self, chunks: Sequence[ObjectRef[Chunk]], *manifests: WeightManifest) -> int: ...
    async def receive(self, version: int, meeting: Meeting, member: int) -> int: ...
    async def give_up(self, epoch: int) -> None: ...
    async def load_folder(self, folder: str, version: int) -> int: ...
    async def sleep(self) -> None: ...
    async def generate(self, record: ImageRecord, data: NDArray[np.uint8], step: int) -> tuple[GroupReceipt, Group]: ...
    async def predict(self, records: Sequence[ImageRecord]) -> list[Prediction]: ...


class RewardRole(Protocol):
    """Scores all groups of a step together. `history` is what earlier processes of the run have
    asked a judge model; behind the groups stand the encoded images, where there is one."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]]

    def __init__(self, config: Config, history: JudgeHistory) -> None: ...
    def hello(self) -> ProcessInfo: ...
    def ping(self) -> None: ...
    def score(self, rows: bool, *parts: Group | NDArray[np.uint8]) -> tuple[RewardReceipt | Share, ...]: ...


class LearnerRole(Protocol):
    """One rank of the group that trains the policy."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]]

    def __init__(self, rank: int, config: Config) -> None: ...
    def rendezvous(self) -> tuple[str, int]: ...
    def start(self, model_dir: str, address: str, port: int, splits: int) -> RankInfo: ...
    def ping(self) -> float: ...
    def step(self, share: Share, uids: Sequence[str], *images: NDArray[np.uint8]) -> RankFigures: ...
    def publish(self, version: int) -> Iterator[Chunk | WeightManifest]: ...
    def publish_now(self, version: int) -> Iterator[Chunk | WeightManifest]: ...
    def send(self, version: int, meeting: Meeting, member: int) -> str | None: ...
    def send_now(self, version: int, meeting: Meeting, member: int) -> str | None: ...
    def gather(self, version: int) -> None: ...
    def park(self) -> None: ...
    def copy_state(self) -> int: ...
    def state(self, copied: int) -> tuple[int, StateFiles]: ...
    def write_state(self, folder: str, files: StateFiles) -> Entries: ...
    def restore(self, *parts: StateFiles) -> int: ...
    def load_state(self, folder: str, *, universal: bool) -> int: ...
    def convert_state(self, folder: str, target: str) -> None: ...
    def save_model(self, folder: str, source: str, *parts: WeightManifest | Chunk) -> None: ...


class ImageBatch(TypedDict):
    """Images to write critiques of: encoded bytes, and the score in [0, 1] that people gave."""

    uid: list[str]
    dataset: list[str]
    score: list[float]
    image: list[bytes]


class Critiques(TypedDict):
    """An entry for each row of the batch. Where there is no critique, `problem` says why, and
    `reason` is a word for counting (`rapo.aescot.rows`). `usage` and `model` say what an answer
    used and who gave it, where the teacher is a model."""

    critique: list[str | None]
    problem: list[str | None]
    reason: list[str | None]
    usage: NotRequired[list[Usage]]
    model: NotRequired[list[str | None]]


class WrittenBatch(ImageBatch):
    critique: list[str]


class Verdicts(TypedDict):
    """An entry for each row of the batch: whether it is kept, or why it is not. `usage` and `model`
    are as in `Critiques`."""

    keep: list[bool]
    reason: list[str | None]
    detail: list[str]
    usage: NotRequired[list[Usage]]
    model: NotRequired[list[str | None]]


class TeacherRole(Protocol):
    """Writes critiques. A row whose image is not usable has a problem and stops no other row.

    `spent` is what earlier processes of the same run have spent of its budget.
    """

    def __init__(self, config: Config, spent: float) -> None: ...
    def __call__(self, batch: ImageBatch) -> Critiques: ...


class JudgeRole(Protocol):
    """Keeps or rejects critiques. `spent` is as for a teacher."""

    def __init__(self, config: Config, spent: float) -> None: ...
    def __call__(self, batch: WrittenBatch) -> Verdicts: ...
