"""Stream: reader, teacher and judge as one Ray Data pipeline.

- Blocks stream: what is in memory follows from the sizes of the pools, not from the rows.
- The pools shrink where they have too little to do, and grow again.
- A block whose process dies twice is lost, and the others go on. Its rows are for the caller to ask
  one by one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from actors.roles import JudgeRole, TeacherRole
from cluster.aescot.round_files import journal_of
from rapo.aescot.journal import Journal
from rapo.aescot.provenance import Role, fingerprint
from rapo.config import ChatConfig, Config

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

#: Read tasks at a time. One reads far more than a teacher writes about.
_READERS = 2
#: A process that died is started again, and gets its block again.
_RETRIES = 1
#: So many blocks may be lost; with one more the stage ends.
_LOST_BLOCKS = 32
_LOST_ROWS = 256
#: Shards with more bytes of images go through the object store in parts.
_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Roles:
    """What makes the teacher and the judge of a process: of the configuration, and of what was
    spent before."""

    teacher: Callable[[Config, float], TeacherRole]
    judge: Callable[[Config, float], JudgeRole]


def own_roles() -> Roles:
    """Those that the configuration names."""
    from actors.judge import Judge
    from actors.teacher import Teacher

    return Roles(Teacher, Judge)


def judged_rows(
    config: Config, roles: Roles, plan: Path, stretches: Sequence[Sequence[int]], spent: Mapping[str, float]
) -> Iterator[pa.Table]:
    """The rows of `stretches` of a plan, with critiques and verdicts, in any order. Rows may be
    missing at the end. `spent` is what teacher and judge have cost before."""
    dataset = _pipeline(config, roles, plan, stretches, spent)
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(table, pa.Table)
        yield table


def _pipeline(
    config: Config, roles: Roles, plan: Path, stretches: Sequence[Sequence[int]], spent: Mapping[str, float]
) -> Dataset:
    import ray
    from ray.data import DataContext

    from actors.guarded import GuardedJudge, GuardedTeacher
    from cluster.aescot.source import ShardSource

    single = all(len(rows) == 1 for rows in stretches)
    lost = _LOST_ROWS if single else _LOST_BLOCKS
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = lost
    context.target_max_block_size = _BLOCK_BYTES
    settings = config.aescot
    # Ray Data hands what it does not know to the pool's actors, and warns that this will end. There
    # is no other name for restarts and retries yet, and its default for both is without end: a row
    # that kills its process would kill it for ever. The version of Ray is pinned.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    with DataContext.current(context):
        dataset = ray.data.read_datasource(
            ShardSource(plan, stretches, config.image),
            override_num_blocks=len(stretches),
            concurrency=min(_READERS, len(stretches)),
            num_cpus=0,  # also where the driver's node offers no CPUs
        )
        chosen: tuple[tuple[Role, ChatConfig, type, object], ...] = (
            ("teacher", settings.teacher, GuardedTeacher, roles.teacher),
            ("judge", settings.judge, GuardedJudge, roles.judge),
        )
        for name, pool, guard, role in chosen:
            digest = fingerprint(config, name)
            # A row is asked alone because what was answered is not wanted.
            journal = Journal(journal_of(plan), settings.shard_rows, name, digest, reads=not single)
            dataset = dataset.map_batches(
                guard,
                fn_constructor_args=(role, config, spent[name], journal),
                batch_size=1 if single else settings.batch_size,
                batch_format="pyarrow",
                compute=_pool(pool, len(stretches), 1 if single else settings.batch_size, alone=single),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
                # A pool whose processes may not start again waits for them without end.
                max_restarts=(lost + 1) * (_RETRIES + 1),
                max_task_retries=_RETRIES,
            )
    return dataset


def _pool(settings: ChatConfig, blocks: int, batch_size: int, *, alone: bool) -> ActorPoolStrategy:
    from ray.data import ActorPoolStrategy

    most = min(settings.actors, blocks)
    # The one process of an endpoint works on several blocks at once, as many as keep its
    # connections busy while the last rows of another block are still out.
    calls = 1 + -(-settings.endpoint.concurrency // batch_size) if settings.kind == "openai" else 1
    return ActorPoolStrategy(
        min_size=min(settings.min_actors, most),
        max_size=most,
        initial_size=most,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=calls > 1,
        # Where a process dies, the blocks that wait for it are lost as well.
        max_tasks_in_flight_per_actor=calls + (not alone),
    )
