"""Report: the layout of `report.json`, which is also what the page and the terminal show.

A part is None (or empty) where the stage that makes it is not finished.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.files.alerts import AlertRow
from rapo.aescot.provenance import RoleFacts

if TYPE_CHECKING:
    from rapo.evaluation.comparison import Comparison
    from rapo.explanations.evaluate import ModelEvaluation

#: The name of the rendered scenes, whose raters are simulated.
EMBEDDED = "embedded scenes"

#: The evaluated models: key in the report, name for people.
MODELS: tuple[tuple[str, str], ...] = (("coldstart", "cold start"), ("rapo", "RAPO"))


@dataclass(frozen=True, slots=True)
class RunFacts:
    seed: int
    dir: str


@dataclass(frozen=True, slots=True)
class StageTime:
    seconds: float


@dataclass(frozen=True, slots=True)
class SetFacts:
    """The scale of one data set, and its images by split."""

    native_range: list[float]
    normalizer: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The data. `counts` are images by split, `skipped` unusable ones by reason. `native_range` and
    `normalizer` are None where the `sets` differ in them."""

    name: str
    counts: dict[str, int]
    native_range: list[float] | None
    skipped: dict[str, int]
    normalizer: str | None
    sets: dict[str, SetFacts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BandCounts:
    """One score band: the critiques that it shall give and gave, its images, and how many of them
    were asked about. `end` is "full", "exhausted" (no image is left) or "limit"
    (`aescot.refill`)."""

    wanted: int
    images: int
    asked: int
    kept: int
    end: str


@dataclass(frozen=True, slots=True)
class CritiqueCounts:
    """`aescot/manifest.json`: how many critiques were kept, and the settings that they come
    from.

    `shortfall` is what a band lacks of an equal share. `repeated` rows were asked again in the last
    of the `starts`, because a shard was damaged or a process had died. `roles` are teacher and
    judge, `versions` those of the packages.
    """

    generated: int
    kept: int
    rejected: dict[str, int]
    teacher: str
    bands: list[float]
    shortfall: dict[str, int]
    seed: int
    by_band: dict[str, BandCounts] = field(default_factory=dict)
    rounds: int = 1
    starts: int = 1
    repeated: int = 0
    roles: dict[str, RoleFacts] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServedFacts:
    """The test images that were scored over gRPC at the end of the run. `max_abs_difference` is the
    largest one from the evaluation, None where no image has both scores."""

    images: int
    failed: int
    seconds: float | None
    max_abs_difference: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """`comparison` has the figures by data set; None where there is one set."""

    run: RunFacts
    stages: dict[str, StageTime] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    data: DataFacts | None = None
    aescot: CritiqueCounts | None = None
    alerts: list[AlertRow] | None = None
    evaluate: dict[str, ModelEvaluation] = field(default_factory=dict)
    comparison: Comparison | None = None
    served: ServedFacts | None = None

    @property
    def raters(self) -> str:
        """Whose scores the images have: "human", or those of simulated raters."""
        return "simulated raters'" if self.data is not None and self.data.name == EMBEDDED else "human"
