"""DeepSpeed around a `GroupPolicy`, on GPUs or on CPU cores, the same for cold start and RAPO."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch

from rapo.policy.forward import GroupPolicy

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a training world.

    `local_rank` is the index of its device among those it can see: 0 for a Ray actor, which sees
    its own only.
    """

    rank: int
    world: int
    threads: int
    address: str = "127.0.0.1"
    port: int = 0
    timeout_s: float = 1800.0
    local_rank: int = 0


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """AdamW with a schedule over `steps`: linear warm-up, then constant, linear or cosine decay to
    zero."""

    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    zero_stage: int
    steps: int
    warmup_steps: int
    schedule: Literal["constant", "linear", "cosine"]
    beta2: float = 0.999


def torch_dtype(name: str) -> torch.dtype:
    return _DTYPES[name]


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def prepare_process(threads: int) -> None:
    """What must be set before DeepSpeed is imported, in every training process."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(threads)
        # Tiny gradients become denormals, which this hardware computes an order of magnitude
        # slower.
        torch.set_flush_denormal(True)


def join_world(rank: Rank) -> None:
    """Join the process group (NCCL on GPUs, gloo on CPUs); raises after `rank.timeout_s` where a
    peer is missing."""
    prepare_process(rank.threads)
    os.environ.update(
        MASTER_ADDR=rank.address,
        MASTER_PORT=str(rank.port),
        RANK=str(rank.rank),
        WORLD_SIZE=str(rank.world),
        LOCAL_RANK=str(rank.local_rank),
    )
    import deepspeed

    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo",
        auto_mpi_discovery=False,
        timeout=timedelta(seconds=rank.timeout_s),
        verbose=False,
    )


def learning_rate_factor(settings: OptimizerSettings) -> Callable[[int], float]:
    """The factor on the learning rate at a step (0-based)."""

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        progress = min(1.0, progress)
        if settings.schedule == "linear":
            return 1.0 - progress
        if settings.schedule == "cosine":
            return 0.5 * (1.0 + float(torch.cos(torch.tensor(progress * torch.pi))))
        return 1.0

    return factor


def wrap(policy: GroupPolicy, settings: OptimizerSettings, *, dtype: str) -> Any:
    """The DeepSpeed engine of `policy`. The process group must be up."""
    import deepspeed

    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, settings.beta2), weight_decay=settings.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(settings))
    engine, *_ = deepspeed.initialize(
        model=policy,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        config={
            "train_micro_batch_size_per_gpu": 1,  # unused by rapo, which counts in groups, but required
            "gradient_accumulation_steps": 1,
            "gradient_clipping": settings.max_grad_norm,
            "zero_optimization": {"stage": settings.zero_stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": dtype == "bfloat16"},
            "steps_per_print": 10**9,
        },
    )
    return engine


def freeze_vision(policy: GroupPolicy) -> None:
    """Keep the vision tower and its projector as they are, as the paper's cold start does."""
    policy.model.model.visual.requires_grad_(requires_grad=False)


def accumulate(engine: Any, losses: Sequence[Callable[[], torch.Tensor]]) -> list[float]:
    """Backward over micro-batches (`losses` are called one by one, so that one graph lives at a
    time), then one step."""
    values = []
    for index, loss_of in enumerate(losses):
        engine.set_gradient_accumulation_boundary(index == len(losses) - 1)
        loss = loss_of()
        engine.backward(loss)
        values.append(float(loss.detach()))
    engine.step()
    return values
