"""AesCoT: writes critiques of a balanced sample of the training images and filters them by a
judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.aescot.job import CritiqueJob
from cluster.aescot.stream import judged_rows, own_roles
from cluster.files.atomic import write_json
from cluster.files.parquet import parquet_writer
from cluster.files.report import BandCounts, CritiqueCounts
from cluster.files.versions import versions
from rapo.aescot.provenance import ROLES, UsedBy, role_facts
from rapo.aescot.rows import JUDGED
from rapo.config import Config
from rapo.datasets.record_table import RecordTable
from rapo.errors import DataError

CRITIQUES, MANIFEST = "critiques.parquet", "manifest.json"
#: With fewer critiques than this the cold start can only learn them by heart.
FEW = 50


@dataclass(frozen=True, slots=True)
class CritiqueRow:
    """A row of `critiques.parquet`, as teacher and judge leave it."""

    uid: str
    dataset: str
    path: str
    score: float
    critique: str | None
    problem: str | None
    keep: bool
    reason: str | None
    detail: str
    teacher_model: str | None = None
    teacher_prompt_tokens: int | None = None
    teacher_completion_tokens: int | None = None
    teacher_cost: float | None = None
    judge_model: str | None = None
    judge_prompt_tokens: int | None = None
    judge_completion_tokens: int | None = None
    judge_cost: float | None = None


#: The columns of `critiques.parquet`.
_COLUMNS = pa.schema([JUDGED.field(field.name) for field in fields(CritiqueRow)])


def write_aescot(
    config: Config, train: RecordTable, out: Path, progress: Callable[[int], None], note: Callable[[str], None]
) -> CritiqueCounts:
    """Write `out/critiques.parquet` (every critique with its verdict) and `out/manifest.json`.

    What an interrupted stage left in `out/shards` is taken over. Raises `DataError` where no
    critique is kept.
    """
    settings = config.aescot
    job = CritiqueJob(config, train, out, partial(judged_rows, config, own_roles()), progress)
    job.run()
    for name in job.damaged:
        note(f"the shard {name} was damaged: it was set aside, and its rows were asked again")
    rejected: Counter[str] = Counter()
    used = {role: UsedBy(role) for role in ROLES}
    with parquet_writer(out / CRITIQUES, _COLUMNS) as writer:
        for table in job.tables():
            writer.write_table(table.select(_COLUMNS.names))
            rejected.update(table.filter(pc.invert(table["keep"]))["reason"].to_pylist())
            for one in used.values():
                one.add(table)
    generated = sum(band.asked for band in job.bands)
    counts = CritiqueCounts(
        generated=generated,
        kept=generated - rejected.total(),
        rejected=dict(sorted(rejected.items())),
        teacher=settings.teacher.kind,
        bands=list(settings.bands),
        shortfall={band.name: max(0, band.fair - band.kept) for band in job.bands},
        seed=config.run.seed,
        by_band={
            band.name: BandCounts(band.wanted, len(band.queue), band.asked, band.kept, band.end) for band in job.bands
        },
        rounds=job.rounds,
        starts=job.starts,
        repeated=job.repeated,
        roles={role: role_facts(config, role, used[role]) for role in ROLES},
        versions=versions(),
    )
    write_json(out / MANIFEST, counts)
    if counts.kept == 0:
        raise DataError(
            f"the judge kept none of {generated} critiques (rejected: {counts.rejected}). "
            f"See {out / CRITIQUES}; raise aescot.images, or aescot.judge.tolerance for images unlike the embedded ones."
        )
    return counts


def kept_critiques(folder: Path) -> list[CritiqueRow]:
    """The critiques that the judge kept, by uid."""
    table = pq.read_table(folder / CRITIQUES, filters=pc.field("keep")).sort_by("uid")
    return [CritiqueRow(**row) for row in table.to_pylist()]
