"""Fit: whether a configuration fits the machine, and its keys fit each other.

- Only what is certain is said: a lower bound of the memory, GPUs that no driver shows.
- The machine counts for a local Ray only; a cluster's nodes are other machines.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from cluster.cli.doctor_machine import memory_gib, nvidia_gpus
from cluster.remote.needs import needs_of
from cluster.remote.ray_session import temporary_folder_problem
from rapo.config import ChatConfig, Config
from rapo.errors import ModelError
from rapo.models.prompt_length import PromptLength
from rapo.models.weight_files import stored_tensors

_GIB = 2**30
#: Other GPUs than NVIDIA's are not counted.
_OTHER_GPUS = Path("/dev/kfd")
#: The weights' share of the object store at most: chunks that are in transit and images need room.
_STORE_SHARE = 0.9
#: Bytes of a parameter's optimiser state: two moments in float32.
_MOMENTS = 8


def length_problems(config: Config, length: PromptLength | None) -> Iterator[str]:
    """Pixel limits that contradict each other, and lengths that leave no room for a prompt."""
    policy, limit = config.policy, config.rollout.engine.max_model_len
    if length is not None and length.view.min_pixels > length.view.max_pixels:
        low, high = (
            f"{value:,} ({'of the model' if own is None else f'policy.{key}'})"
            for key, own, value in (
                ("min_pixels", policy.min_pixels, length.view.min_pixels),
                ("max_pixels", policy.max_pixels, length.view.max_pixels),
            )
        )
        yield f"an image would have at least {low} and at most {high} pixels; raise policy.max_pixels, or lower policy.min_pixels"
    elif length is not None and (least := length.shortest) > length.room:
        yield (
            f"policy.max_completion_tokens = {policy.max_completion_tokens} leaves {max(0, length.room)} tokens for a prompt in "
            f"rollout.engine.max_model_len = {limit}, and the shortest has {least}: raise rollout.engine.max_model_len to "
            f"{least + policy.max_completion_tokens} or more"
        )
    elif policy.max_completion_tokens >= limit:
        yield (
            f"policy.max_completion_tokens = {policy.max_completion_tokens} leaves no room for a prompt in "
            f"rollout.engine.max_model_len = {limit}; raise rollout.engine.max_model_len"
        )
    for name, role in (("teacher", config.aescot.teacher), ("judge", config.aescot.judge)):
        if role.kind == "vllm" and role.max_tokens >= role.engine.max_model_len:
            yield (
                f"aescot.{name}.max_tokens = {role.max_tokens} leaves no room for a prompt in "
                f"aescot.{name}.engine.max_model_len = {role.engine.max_model_len}; raise the latter"
            )


def transport_problems(config: Config) -> Iterator[str]:
    """Roles that cannot be members of one broadcast of weights."""
    rollout, learner = config.rollout, config.learner
    if rollout.weight_transport != "broadcast":
        return
    otherwise = "or set rollout.weight_transport = 'object_store'"
    if rollout.engine.tensor_parallel_size > 1:
        yield (
            f"rollout.weight_transport = 'broadcast' does not reach the {rollout.engine.tensor_parallel_size} processes of a "
            f"split engine: set rollout.engine.tensor_parallel_size = 1, {otherwise}"
        )
    if bool(rollout.gpus) != bool(learner.gpus):
        yield (
            f"rollout.weight_transport = 'broadcast' connects GPUs with GPUs or CPUs with CPUs, and rollout.gpus = "
            f"{rollout.gpus:g}, learner.gpus = {learner.gpus:g}: give both roles GPUs or none, {otherwise}"
        )
    elif 0.0 < rollout.gpus < 1.0 or 0.0 < learner.gpus < 1.0:
        yield (
            f"rollout.weight_transport = 'broadcast' with rollout.gpus = {rollout.gpus:g}, learner.gpus = {learner.gpus:g}: NCCL "
            f"refuses two members on one GPU; give each worker and each rank a whole one, {otherwise}"
        )


def colocation_problems(config: Config) -> Iterator[str]:
    """Settings with which a worker cannot take turns with a learner rank."""
    if not config.colocated:
        return
    rollout, learner, rapo = config.rollout, config.learner, config.rapo
    asked, otherwise = "rollout.placement = 'colocate'", "or set rollout.placement = 'apart'"
    parts = rollout.engine.tensor_parallel_size
    if rapo.max_staleness:
        yield (
            f"{asked} has sampler and learner take turns, and rapo.max_staleness = {rapo.max_staleness} has them work at the "
            f"same time: set rapo.max_staleness = 0, {otherwise}"
        )
    if rapo.in_flight == "continue":
        yield (
            f"{asked} ends all groups before the learner's turn, so that none can go on as rapo.in_flight = 'continue' asks: "
            f"set rapo.in_flight = 'finish', {otherwise}"
        )
    if learner.workers % parts:
        yield (
            f"{asked} gives a worker the GPUs of as many learner ranks as its model has parts, and learner.workers = "
            f"{learner.workers} is no multiple of rollout.engine.tensor_parallel_size = {parts}: change either, {otherwise}"
        )
    if learner.min_workers is not None:
        yield (
            f"{asked} keeps the room of all pairs for the whole run, so that it cannot go on with "
            f"learner.min_workers = {learner.min_workers}: leave that out, {otherwise}"
        )
    if rollout.weight_transport == "broadcast":
        yield (
            f"{asked} has engines sleep while weights are published, so that none can receive a broadcast: set "
            f"rollout.weight_transport = 'object_store', {otherwise}"
        )
    if rollout.workers > config.most_workers:
        ranks = "a learner rank beside each worker" if parts == 1 else f"{parts} learner ranks beside each worker"
        yield (
            f"{asked} has {ranks}, and rollout.workers = {rollout.workers} is more than learner.workers = {learner.workers} "
            "have room for: lower the former, or raise the latter"
        )
    if rollout.autoscale.enabled:
        yield (
            f"{asked} bounds the workers by the ranks' GPUs, which rollout.autoscale.enabled = true cannot add: switch it off, "
            f"{otherwise}"
        )
    if rollout.worker_gpus != parts * learner.gpus or learner.gpus not in (0.0, 1.0):
        yield (
            f"{asked} gives both sides the same GPUs in turn, and rollout.gpus = {rollout.gpus:g}, learner.gpus = "
            f"{learner.gpus:g}: set both to 1 (0: on the CPU), {otherwise}"
        )
    if rollout.labels not in ({}, learner.labels):
        yield (
            f"{asked} puts workers on the ranks' nodes, and rollout.labels = {rollout.labels} differs from learner.labels = "
            f"{learner.labels}: leave rollout.labels out, {otherwise}"
        )


def machine_problems(config: Config, stages: Sequence[str]) -> Iterator[str]:
    """What a local Ray lacks on this machine for `stages`: memory, GPUs, room in the object store,
    a temporary folder."""
    if config.rollout.gpus and config.rollout.engine.gpu_memory_utilization in (0.0, 1.0):
        yield (
            f"rollout.engine.gpu_memory_utilization = {config.rollout.engine.gpu_memory_utilization:g} leaves nothing for "
            f"{'CUDA itself' if config.rollout.engine.gpu_memory_utilization else 'the model'}; 0.9 is usual"
        )
    if config.ray.address is not None:
        return
    if problem := temporary_folder_problem(config):
        yield problem
    yield from _gpus(config, stages)
    parameters = _parameters(config.policy.model)
    yield from _memory(config, parameters, stages)
    if "rapo" in stages:
        yield from _object_store(config, parameters)


def _most(amounts: Mapping[str, float], stages: Sequence[str]) -> tuple[str, float]:
    """The stage among `stages` that needs most, and how much."""
    return max(((stage, amounts.get(stage, 0.0)) for stage in stages), key=lambda item: item[1])


def _gpus(config: Config, stages: Sequence[str]) -> Iterator[str]:
    coldstart = config.coldstart
    amounts = {
        "aescot": sum(role.actors * role.gpus for role in _writers(config)),
        "coldstart": coldstart.workers * coldstart.gpus,
        "rapo": _need_gpus(config, "rapo"),
        "evaluate": _need_gpus(config, "evaluate"),
        "serve": config.serve.most_replicas * config.serve_gpus if config.serve.demo_images else 0.0,
    }
    stage, needed = _most(amounts, stages)
    if not needed or _OTHER_GPUS.exists():
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len(nvidia_gpus()) if visible is None else len([device for device in visible.split(",") if device.strip()])
    if needed > there:
        yield (
            f"the stage {stage} needs {needed:g} GPUs, this machine has {there}: lower the workers or gpus of {stage}'s "
            "roles, or name a cluster by ray.address"
        )


def _need_gpus(config: Config, stage: str) -> float:
    return sum(need.count * need.resources.get("GPU", 0.0) for need in needs_of(config)[stage])


def _memory(config: Config, parameters: int, stages: Sequence[str]) -> Iterator[str]:
    """The stages' least memory on the CPU: weights and KV caches of the engines; weights, gradients
    and moments of the training."""
    known = memory_gib()
    if known is None:
        return
    rollout, learner, coldstart = config.rollout, config.learner, config.coldstart
    weights = parameters * _width(config) / _GIB
    engines = rollout.workers * (weights + rollout.engine.kv_cache_gib)
    training = (
        learner.workers * weights
        if learner.lora.rank
        else _training(config, parameters, learner.workers, learner.zero_stage)
    )
    amounts = {
        "aescot": sum(role.actors * role.engine.kv_cache_gib for role in _writers(config) if not role.gpus),
        "coldstart": 0.0 if coldstart.gpus else _training(config, parameters, coldstart.workers, coldstart.zero_stage),
        "rapo": (0.0 if rollout.gpus else engines) + (0.0 if learner.gpus else training),
        "evaluate": 0.0 if rollout.gpus else engines,
    }
    stage, needed = _most(amounts, stages)
    if needed > known[0]:
        yield (
            f"the stage {stage} needs at least {needed:,.0f} GiB of memory, this machine has {known[0]:,.0f}: lower "
            "kv_cache_gib of the engine or the number of workers, or take a smaller model"
        )


def _training(config: Config, parameters: int, ranks: int, stage: int) -> float:
    """GiB of weights, gradients and moments on all ranks. ZeRO divides the moments among the ranks
    from stage 1 on, the gradients from 2 on, the weights from 3 on (Rajbhandari et al. 2020)."""
    weights, gradients, moments = (1 if stage >= least else ranks for least in (3, 2, 1))
    return parameters * ((weights + gradients) * _width(config) + moments * _MOMENTS) / _GIB


def _object_store(config: Config, parameters: int) -> Iterator[str]:
    """Two weight versions live at a time: the workers still load one while the next is written."""
    version = parameters * _width(config) / 2**20
    needed = math.ceil(2 * version / _STORE_SHARE)
    if needed > config.ray.object_store_mib:
        yield (
            f"ray.object_store_mib = {config.ray.object_store_mib} is too small: two weight versions of {version:,.0f} MiB are "
            f"held at a time; set it to {needed} or more"
        )


def _writers(config: Config) -> list[ChatConfig]:
    """Teacher and judge, as far as they run an engine of their own."""
    return [role for role in (config.aescot.teacher, config.aescot.judge) if role.kind == "vllm"]


def _width(config: Config) -> int:
    return 4 if config.policy.dtype == "float32" else 2


@cache
def _parameters(model: str) -> int:
    """The number of parameters of a model folder; 0 of the embedded model, and where it is not
    known."""
    if model == "embedded":
        return 0
    try:
        return sum(math.prod(tensor.shape) for tensor in stored_tensors(model).values())
    except ModelError:  # said by the check of the folder
        return 0
