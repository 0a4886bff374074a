"""ShardSource: reads the rows of pending shards and their images, for Ray Data.

- Only the driver's node reads: no other one needs the images, nor the run folder.
- A read task is a few bytes. It maps the plan into memory when it runs, so that the driver never
  holds the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from cluster.aescot.round_files import read_plan
from rapo.aescot.read_images import ImageReader
from rapo.config import ImageConfig

#: Rows whose images a read task holds at a time. Ray Data joins them to larger blocks.
_ROWS = 16


@dataclass(frozen=True, slots=True)
class _Read:
    """The work of one read task: some rows of a plan, with their images."""

    plan: Path
    rows: Sequence[int]
    limits: ImageConfig

    def __call__(self) -> Iterable[pa.Table]:
        reader, rows = ImageReader(self.limits), read_plan(self.plan, self.rows)
        for start in range(0, len(rows), _ROWS):
            yield reader(rows.slice(start, _ROWS))


class ShardSource(Datasource):
    """One read task for each of `stretches`, the places of rows in the plan."""

    def __init__(self, plan: Path, stretches: Sequence[Sequence[int]], limits: ImageConfig) -> None:
        super().__init__()
        self._plan = plan
        self._stretches = stretches
        self._limits = limits

    @property
    def supports_distributed_reads(self) -> bool:
        """Ray Data then reads on the driver's node only."""
        return False

    def estimate_inmemory_data_size(self) -> None:
        """Not known: the images are not looked at before they are read."""

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        return [
            ReadTask(_Read(self._plan, rows, self._limits), BlockMetadata(len(rows), None, None, None))
            for rows in self._stretches
        ]
