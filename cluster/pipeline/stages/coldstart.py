"""Cold start: fine-tunes the model on the kept critiques, with Ray Train and DeepSpeed.

Only the driver's node opens image files. The workers get their bytes through Ray Data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypedDict, cast

import numpy as np

from actors.run_files import folder_here, on_node
from cluster.files.json_values import finite
from cluster.files.jsonl import append_jsonl, read_jsonl
from cluster.pipeline.results import ColdStartResult
from cluster.pipeline.stages.aescot import CritiqueRow, kept_critiques
from cluster.remote.needs import bundle
from cluster.remote.placement import await_placement, release, request_placement
from cluster.remote.waiting import run_limited
from rapo.aescot.read_images import ImageReader
from rapo.config import Config, ImageConfig
from rapo.errors import ImageError
from rapo.records import Chunk, WeightManifest
from rapo.util.atomic_dir import whole_folder
from rapo.util.devices import require_device
from rapo.util.garbage import collector_off
from rapo.util.seeds import derive_seed

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.train.torch import TorchTrainer

    from rapo.policy.sft import Example, SupervisedTrainer

P = ParamSpec("P")

MODEL = "model"
METRICS = "metrics.jsonl"
#: Images that are read before they are added to a block.
_READ = 16

#: Told of a step that is done, and of its figures.
Progress = Callable[[int, dict[str, float]], None]


class LoopArguments(TypedDict):
    """What Ray Train hands to each worker."""

    config: Config
    base: str
    out: str
    #: The node that writes into `out`; None: each node sees it.
    node: str | None


class SharedRow(TypedDict):
    """A kept critique with its image's encoded bytes, or with the `problem` that the image has."""

    score: float
    critique: str
    image: bytes | None
    problem: str | None
    reason: str | None


def train_coldstart(
    config: Config,
    base: Path,
    aescot: Path,
    out: Path,
    progress: Progress,
    where: Callable[[Path], Path] | None = None,
) -> ColdStartResult:
    """Fine-tune the model of `base` on the critiques in `aescot`.

    The model goes to `out/model`, the loss curve to `out/metrics.jsonl`. `where` says at which URL
    nodes that do not see the run's folder find `base`; this node then writes for them.
    """
    import ray
    from ray.data import DataContext
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    kept = kept_critiques(aescot)
    # The table is sorted by uid, which often goes by class or score; the first pass over it is
    # streamed in this order.
    order = np.random.default_rng(derive_seed(config.run.seed, "coldstart")).permutation(len(kept))
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS).unlink(missing_ok=True)
    settings = config.coldstart
    workers = min(settings.workers, len(kept))
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # the same rows to the same ranks in every run of a seed
    shards = with_images([kept[i] for i in order], config.image, workers)
    node = None if where is None else ray.get_runtime_context().get_node_id()
    there = base if where is None else where(base)
    arguments: LoopArguments = {"config": config, "base": str(there), "out": str(out), "node": node}
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config=dict(arguments),
        # The stubs are those of the former Ray Train.
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,
            use_gpu=settings.gpus > 0,
            resources_per_worker={"CPU": settings.cpus} | ({"GPU": settings.gpus} if settings.gpus else {}),
            label_selector=settings.labels or None,
        ),
        torch_config=TorchConfig(backend="nccl" if settings.gpus else "gloo"),
        datasets={"train": shards},
        run_config=RunConfig(
            name="coldstart",
            storage_path=str(out / "ray_train"),
            worker_runtime_env={"env_vars": config.ray.environment("coldstart", settings.gpus)},
            # Without a limit Ray Train waits without end for workers whose room another run took.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=2),  # type: ignore[call-arg]
        ),
    )
    _await_room(config, workers)
    _fit(trainer, out / METRICS, progress, settings.timeout_s)
    return ColdStartResult(examples=len(kept), workers=workers)


def with_images(rows: Sequence[CritiqueRow], limits: ImageConfig, blocks: int) -> Dataset:
    """Critiques with the bytes of their images, which the driver's node reads when they are
    needed."""
    import ray

    items = [{"path": row.path, "score": row.score, "critique": row.critique} for row in rows]
    return ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        ImageReader(limits),
        batch_size=_READ,
        batch_format="pyarrow",
        num_cpus=0,  # also where the driver's node offers no CPUs
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )


def _await_room(config: Config, workers: int) -> None:
    """Ray Train itself would wait for its workers until the stage's time limit."""
    settings = config.coldstart
    room = request_placement("coldstart", [bundle(settings.cpus, settings.gpus)] * workers, settings.labels)
    try:
        keys = "coldstart.workers, coldstart.cpus and coldstart.gpus"
        await_placement(room, role="cold-start workers", keys=keys, timeout_s=settings.place_timeout_s)
    finally:
        release(room)


def _train_loop(arguments: dict[str, object]) -> None:
    """The work of each Ray Train worker, as Ray Train calls it."""
    train_loop(cast("LoopArguments", arguments))


def train_loop(arguments: LoopArguments) -> None:
    """The work of each Ray Train worker."""
    import ray.train

    config = arguments["config"]
    settings = config.coldstart
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    require_device(settings.gpus, "coldstart.gpus")
    with collector_off():
        from rapo.policy.distributed import Rank, join_world, prepare_process

        prepare_process(settings.threads)
        join_world(Rank(rank, world, settings.threads, local_rank=context.get_local_rank()))
        from rapo.policy.sft import SupervisedTrainer, endless
        from rapo.policy.weight_packing import pack

        base = folder_here(arguments["base"], config.storage.scratch)
        if arguments["node"] is None:
            folder_here(arguments["out"], None)
        trainer = SupervisedTrainer(str(base), config, world=world)
    shard = ray.train.get_dataset_shard("train")
    batches = endless(
        (examples(shard.iter_rows(), trainer) for _ in count()),
        trainer.batch_per_rank,
        settings.cache_mib * 2**20 // world,
        derive_seed(config.run.seed, "coldstart", rank),
    )
    out, writes = Path(arguments["out"]), Writes(arguments["node"], settings.timeout_s)
    for step in range(1, settings.steps + 1):
        loss = trainer.step(next(batches))
        if rank == 0:
            writes(append_jsonl, out / METRICS, {"step": step, "loss": loss})
    tensors = [(name, tensor) for name, tensor in trainer.tensors() if tensor is not None]  # every rank takes part
    if rank == 0:
        *chunks, manifest = pack(tensors, 0, 2**30)
        writes(write_trained, config, arguments["base"], out / MODEL, manifest, *chunks)
    ray.train.report({"step": settings.steps, "loss": loss})


def examples(rows: Iterable[SharedRow], trainer: SupervisedTrainer) -> Iterator[Example]:
    """One pass over a worker's critiques. Raises `ImageError` where an image cannot be read."""
    for row in rows:
        if row["image"] is None:
            raise ImageError(row["problem"] or "an image was not read", reason=row["reason"] or "missing")
        yield trainer.example(row["image"], row["critique"], row["score"])


@dataclass(frozen=True, slots=True)
class Writes:
    """Calls functions that write into the run's folder: here, or on the node with the id `node`."""

    node: str | None
    timeout_s: float

    def __call__(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        if self.node is None:
            function(*args, **kwargs)
            return
        import ray

        ray.get(on_node(self.node, function)(*args, **kwargs), timeout=self.timeout_s)


def write_trained(config: Config, base: str, target: Path, manifest: WeightManifest, *chunks: Chunk) -> None:
    """Write the trained model as a model folder, with what does not train from `base`."""
    from rapo.policy.export import write_model
    from rapo.policy.processing import PolicyProcessor

    here, policy = folder_here(base, config.storage.scratch), config.policy
    with whole_folder(target) as aside:
        write_model(aside, here, manifest, chunks)
        # With the pixel limits of the configuration, which every later stage reads here.
        PolicyProcessor(str(here), min_pixels=policy.min_pixels, max_pixels=policy.max_pixels).save(aside)


def _fit(trainer: TorchTrainer, metrics: Path, progress: Progress, timeout_s: float) -> None:
    """Run Ray Train in a thread and follow the metrics file, because `fit` reports nothing before
    its end."""
    run_limited(trainer.fit, role="cold start", timeout_s=timeout_s, meanwhile=lambda: _follow(metrics, progress))
    _follow(metrics, progress)


def _follow(metrics: Path, progress: Progress) -> None:
    if rows := read_jsonl(metrics):
        step, loss = finite(rows[-1].get("step")), finite(rows[-1].get("loss"))
        if step is not None and loss is not None:
            progress(int(step), {"loss": loss})
