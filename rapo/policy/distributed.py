"""Distributed training: DeepSpeed around a `GroupPolicy`, on GPUs or CPU cores, for cold start and
RAPO alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch

from rapo.config.learning import Offload
from rapo.families.family import vision_parameters
from rapo.policy.forward import GroupPolicy

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch.distributed import Store

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a training world.

    `threads` are its compute threads on a CPU. `timeout_s` limits each collective call.
    `local_rank` is the index of its device among those that it sees: 0 for a Ray actor, which sees
    only its own.
    """

    rank: int
    world: int
    threads: int
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
    offload: Offload = "none"


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a `policy.dtype` setting."""
    return _DTYPES[name]


def device() -> torch.device:
    """The device that this process trains on."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def prepare_process(threads: int) -> None:
    """Set what DeepSpeed and torch need. Call it in every training process, before DeepSpeed is
    imported."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(threads)
        # Tiny gradients become denormals, which CPUs compute an order of magnitude slower.
        torch.set_flush_denormal(True)


def join_world(rank: Rank, meeting: Store | None = None) -> None:
    """Join the process group (NCCL on GPUs, gloo on CPUs) of the ranks that come to `meeting`
    (`rapo.policy.meeting`); None where this process is in a group already.

    Raises after `rank.timeout_s` where a rank is missing.
    """
    prepare_process(rank.threads)
    # DeepSpeed reads these, and joins the group that there is.
    os.environ.update(RANK=str(rank.rank), WORLD_SIZE=str(rank.world), LOCAL_RANK=str(rank.local_rank))
    backend, timeout = "nccl" if torch.cuda.is_available() else "gloo", timedelta(seconds=rank.timeout_s)
    if meeting is not None:
        torch.distributed.init_process_group(
            backend, store=meeting, rank=rank.rank, world_size=rank.world, timeout=timeout
        )
    import deepspeed

    # DeepSpeed would compile an all-reduce that only its inference uses. That takes a compiler and
    # half a minute, and a process killed meanwhile leaves a lock for which all later ones wait.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)


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


def wrap(policy: GroupPolicy, settings: OptimizerSettings, *, dtype: str) -> DeepSpeedEngine:
    """The DeepSpeed engine of `policy`. The process group must exist.

    In bfloat16 gradients are added up and reduced in float32: 32 micro-batches would otherwise cost
    .7 % of the gradient. DeepSpeed does that under ZeRO only, so that stage 0 runs as stage 1.
    """
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
            "train_micro_batch_size_per_gpu": 1,  # required, but without effect: micro-batches hold groups
            "gradient_accumulation_steps": 1,
            "gradient_clipping": settings.max_grad_norm,
            **_precision(settings, dtype),
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        },
    )
    return engine


def _precision(settings: OptimizerSettings, dtype: str) -> dict[str, object]:
    """DeepSpeed's settings of ZeRO, dtypes and offload."""
    half = dtype == "bfloat16"
    zero: dict[str, object] = {"stage": max(1, settings.zero_stage) if half else settings.zero_stage}
    if settings.offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    result: dict[str, object] = {"zero_optimization": zero, "bf16": {"enabled": half}}
    if half:
        result |= {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return result


def frozen(policy: GroupPolicy, settings: OptimizerSettings, *, dtype: str) -> GroupPolicy | DeepSpeedEngine:
    """`policy` for forward passes alone. Under ZeRO-3 its parameters are shared out over the ranks,
    which then call it together."""
    policy.requires_grad_(requires_grad=False)
    if settings.zero_stage < 3:
        return policy
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=policy,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": 3},
            "bf16": {"enabled": dtype == "bfloat16"},
            "steps_per_print": 10**9,
        },
    )
    return engine


def freeze_vision(policy: GroupPolicy) -> None:
    """Freeze the vision tower and its projector, as the paper's cold start does (Aes-R1, arXiv
    2509.21871, its released settings)."""
    for parameter in vision_parameters(policy.family, policy.model):
        parameter.requires_grad_(requires_grad=False)


def checkpoint_activations(policy: GroupPolicy) -> None:
    """Keep each layer's input only, and compute the rest again in the backward pass."""
    policy.model.gradient_checkpointing_enable()
    policy.train()  # transformers checkpoints in training mode only


def accumulate(
    engine: DeepSpeedEngine, losses: Sequence[Callable[[], torch.Tensor]], advance: Callable[[], None] = lambda: None
) -> list[float]:
    """Backward over micro-batches, then one optimiser step; the micro-batches' losses.

    `losses` are called one by one, so that one graph exists at a time; `advance` is called before
    each.
    """
    values = []
    for index, loss_of in enumerate(losses):
        advance()
        engine.set_gradient_accumulation_boundary(index == len(losses) - 1)
        loss = loss_of()
        engine.backward(loss)
        values.append(float(loss.detach()))
    engine.step()
    return values
