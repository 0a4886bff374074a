"""AesCoT: writes critiques of a balanced sample of the training images and filters them by a judge,
as a Ray Data pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.files.atomic import write_json
from cluster.files.parquet import read_parquet, write_parquet
from cluster.files.report import CritiqueCounts
from cluster.remote.waiting import run_limited
from rapo.aescot.read_images import ImageReader
from rapo.aescot.select import balanced_sample
from rapo.config import Config
from rapo.errors import DataError
from rapo.records import ImageRecord
from rapo.util.seeds import derive_seed

CRITIQUES, MANIFEST = "critiques.parquet", "manifest.json"
#: With fewer critiques than this the cold start can only learn them by heart.
FEW = 50
#: Ray Data restarts an actor without end by default, and an image that kills its actor would then
#: never be given up.
_RETRIES = 2


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


def write_aescot(
    config: Config, train: Sequence[ImageRecord], out: Path, progress: Callable[[int], None]
) -> CritiqueCounts:
    """Write `out/critiques.parquet` (every critique with its verdict) and `out/manifest.json`.

    Raises `DataError` where no critique is kept.
    """
    settings = config.aescot
    rng = np.random.default_rng(derive_seed(config.run.seed, "aescot"))
    chosen, shortfall = balanced_sample(
        [r.score for r in train], [r.uid for r in train], settings.bands, settings.images, rng
    )
    rows = _generate(config, [train[i] for i in chosen], progress)
    rejected = Counter(str(row.reason) for row in rows if not row.keep)
    counts = CritiqueCounts(
        generated=len(rows),
        kept=len(rows) - rejected.total(),
        rejected=dict(sorted(rejected.items())),
        teacher=settings.teacher.kind,
        bands=list(settings.bands),
        shortfall=shortfall,
        seed=config.run.seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_parquet(out / CRITIQUES, [asdict(row) for row in rows])
    write_json(out / MANIFEST, counts)
    if counts.kept == 0:
        raise DataError(
            f"the judge kept none of {len(rows)} critiques (rejected: {dict(rejected)}). "
            f"See {out / CRITIQUES}; raise aescot.images, or aescot.judge.tolerance for images unlike the embedded ones."
        )
    return counts


def kept_critiques(folder: Path) -> list[CritiqueRow]:
    """The critiques that the judge kept."""
    rows = [CritiqueRow(**row) for row in read_parquet(folder / CRITIQUES)]
    return [row for row in rows if row.keep]


def _generate(config: Config, records: Sequence[ImageRecord], progress: Callable[[int], None]) -> list[CritiqueRow]:
    """Run teacher and judge as actor pools over the records. Rows come back in any order and are
    sorted by uid."""
    import ray

    from actors.guarded import GuardedJudge, GuardedTeacher
    from actors.judge import Judge
    from actors.teacher import Teacher

    settings = config.aescot
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    dataset: ray.data.Dataset = ray.data.from_items(
        [
            {"place": place, "uid": r.uid, "dataset": r.dataset, "path": str(r.path), "score": r.score, "band": 0}
            for place, r in enumerate(records)
        ],
        override_num_blocks=max(1, min(16, len(records) // settings.batch_size)),
    )
    here = ray.get_runtime_context().get_node_id()
    dataset = dataset.map_batches(
        ImageReader(config.image),
        batch_size=settings.batch_size,
        batch_format="pyarrow",
        num_cpus=0,
        label_selector={"ray.io/node-id": here},
    )
    for role, guard, actor in (
        (settings.teacher, GuardedTeacher, Teacher),
        (settings.judge, GuardedJudge, Judge),
    ):
        dataset = dataset.map_batches(
            guard,
            fn_constructor_args=(actor, config),
            batch_size=settings.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=role.actors),
            num_cpus=role.cpus,
            num_gpus=role.gpus or None,
            max_restarts=_RETRIES,
            max_task_retries=_RETRIES,
        )
    rows: list[CritiqueRow] = []

    def collect() -> None:
        for batch in dataset.iter_batches(batch_size=settings.batch_size, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            columns = batch.select([field.name for field in fields(CritiqueRow)])
            rows.extend(CritiqueRow(**row) for row in columns.to_pylist())

    run_limited(collect, role="teacher or judge", timeout_s=settings.timeout_s, meanwhile=lambda: progress(len(rows)))
    return sorted(rows, key=lambda row: row.uid)
