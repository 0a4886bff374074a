"""Cold start: Ray Train runs DeepSpeed workers over Ray Data shards of the kept critiques."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.files.json_values import finite
from cluster.files.jsonl import append_jsonl, read_jsonl
from cluster.files.parquet import read_parquet
from cluster.pipeline.stages.aescot import CRITIQUES
from cluster.remote.waiting import run_limited
from rapo.config import Config
from rapo.util.atomic_dir import whole_folder
from rapo.util.seeds import derive_seed

MODEL = "model"
METRICS = "metrics.jsonl"


def train_coldstart(
    config: Config, base: Path, aescot: Path, out: Path, progress: Callable[[int, dict[str, float]], None]
) -> dict[str, Any]:
    """Fine-tune the model of `base` on the kept critiques.

    The model goes to `out/model`, the loss curve to `out/metrics.jsonl`.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    kept = [row for row in read_parquet(aescot / CRITIQUES) if row["keep"]]
    # The table is sorted by uid, which often goes by class or score; the first pass over it is
    # streamed in this order.
    order = np.random.default_rng(derive_seed(config.run.seed, "coldstart")).permutation(len(kept))
    kept = [kept[i] for i in order]
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS).unlink(missing_ok=True)
    settings = config.coldstart
    workers = min(settings.workers, len(kept))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # the same rows to the same ranks in every run of a seed
    columns = ("path", "score", "critique")
    shards = ray.data.from_items([{c: row[c] for c in columns} for row in kept], override_num_blocks=workers)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"config": config, "base": str(base), "out": str(out)},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=settings.gpus > 0,
            resources_per_worker={"CPU": settings.cpus} | ({"GPU": settings.gpus} if settings.gpus else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if settings.gpus else "gloo"),
        datasets={"train": shards},
        run_config=RunConfig(
            name="coldstart",
            storage_path=str(out / "ray_train"),
            # Without a limit Ray Train would wait for ever for workers that the cluster has no room
            # for.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=2),
        ),
    )
    _fit(trainer, out / METRICS, progress, settings.timeout_s)
    return {"examples": len(kept), "workers": workers}


def train_loop(arguments: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train

    from rapo.policy.distributed import Rank, join_world, prepare_process

    config: Config = arguments["config"]
    settings = config.coldstart
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    prepare_process(settings.threads)
    join_world(Rank(rank, world, settings.threads, local_rank=context.get_local_rank()))
    from rapo.policy.sft import SupervisedTrainer, endless

    trainer = SupervisedTrainer(arguments["base"], config, world=world)
    shard = ray.train.get_dataset_shard("train")
    batches = endless(
        _epochs(shard, trainer, config),
        trainer.batch_per_rank,
        settings.cache_mib * 2**20 // world,
        derive_seed(config.run.seed, "coldstart", rank),
    )
    out = Path(arguments["out"])
    for step in range(1, settings.steps + 1):
        loss = trainer.step(next(batches))
        if rank == 0:
            append_jsonl(out / METRICS, {"step": step, "loss": loss})
    _save(trainer, Path(arguments["base"]), out / MODEL, rank)
    ray.train.report({"step": settings.steps, "loss": loss})


def _epochs(shard: Any, trainer: Any, config: Config) -> Iterator[Iterator[Any]]:
    from rapo.images.decode import read_image_file

    def epoch() -> Iterator[Any]:
        for row in shard.iter_rows():
            yield trainer.example(read_image_file(Path(row["path"]), config.image), row["critique"], row["score"])

    while True:
        yield epoch()


def _save(trainer: Any, base: Path, target: Path, rank: int) -> None:
    """Gather the weights (every rank takes part) and let rank 0 write the model folder."""
    from rapo.policy.export import write_model
    from rapo.policy.weights import pack

    tensors = [(name, tensor) for name, tensor in trainer.tensors() if tensor is not None]
    if rank != 0:
        return
    *chunks, manifest = pack(tensors, 0, 2**30)
    with whole_folder(target) as aside:
        write_model(aside, base, manifest, chunks)
        trainer.processor.save(aside)  # with the pixel limits of the configuration, which every later stage reads here


def _fit(trainer: Any, metrics: Path, progress: Callable[[int, dict[str, float]], None], timeout_s: float) -> None:
    """Run Ray Train in a thread and follow the metrics file meanwhile, because `fit` itself says
    nothing until its end."""
    run_limited(trainer.fit, role="cold start", timeout_s=timeout_s, meanwhile=lambda: _follow(metrics, progress))
    _follow(metrics, progress)


def _follow(metrics: Path, progress: Callable[[int, dict[str, float]], None]) -> None:
    if rows := read_jsonl(metrics):
        step, loss = finite(rows[-1].get("step")), finite(rows[-1].get("loss"))
        if step is not None and loss is not None:
            progress(int(step), {"loss": loss})
