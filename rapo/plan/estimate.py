"""Estimate: what a configuration would take on GPUs of one kind and on the network between their
nodes: memory by role, bytes by step, seconds by role."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from rapo.config import Config
from rapo.plan.cards import Card
from rapo.plan.memory import FIXED, Items, Sampling, Training, snapshot_bytes
from rapo.plan.model_shape import ModelShape
from rapo.plan.network import Delivery, Network, by_broadcast, through_store
from rapo.plan.traffic import (
    Load,
    Part,
    collective_bytes,
    delivery_part,
    learner_part,
    parking_part,
    rollout_part,
    snapshot_part,
    step_traffic,
    transfer_part,
    weight_bytes,
)
from rapo.records import MAX_SENDERS

_PROMPT_TEXT = 70  # tokens of the prompt beside those of its image
_DEFAULT_PIXELS = 12_845_056  # the usual limit of a processor without one of its own


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Bytes of one process of a role on its GPU, by item, of `limit`; `count` processes."""

    role: str
    count: int
    items: Items
    limit: float

    @property
    def total(self) -> float:
        return sum(self.items.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.limit


@dataclass(frozen=True, slots=True)
class Estimate:
    """A plan: `host` are bytes in the memory of the hosts, `traffic` bytes of a step by path.
    `ahead` is how many steps sampler and learner may lie apart (`rapo.max_staleness`); at 0 they
    take turns."""

    shape: ModelShape
    card: Card
    network: Network
    nodes: int
    memory: list[RoleMemory]
    sequences: int
    host: Items
    traffic: dict[str, float]
    parts: list[Part]
    ahead: int

    @property
    def step_bounds(self) -> dict[str, float]:
        """Seconds that a step takes at least, by what makes it so; s is `ahead`.

        - Weights and snapshots stop the ranks; the sampler works beside all of it.
        - A version goes round: it is trained, delivered, and a step's groups are sampled by it. The
          groups of step t may have the weights that step t - s - 1 made, and no older ones. So
          s + 1 rounds overlap, and with s = 0 all parts add up.
        - A worker loads one version at a time, the newest there is. It is then at most s + 1
          versions newer than the last but one, so that two deliveries serve s + 1 steps.
        """
        by_name = {part.name: part.seconds for part in self.parts}
        bounds = {
            "rollout": by_name["rollout"],
            "learner, weights and snapshot": by_name["learner"] + by_name["weights"] + by_name["snapshot"],
            "a version's round": sum(by_name.values()) / (self.ahead + 1),
        }
        if self.ahead:
            bounds["delivery"] = 2 * by_name["delivery"] / (self.ahead + 1)
        return bounds

    @property
    def step_seconds(self) -> float:
        return max(self.step_bounds.values())

    @property
    def step_bound(self) -> str:
        """What makes a step as long as it is."""
        return max(self.step_bounds, key=lambda name: self.step_bounds[name])


def estimate(config: Config, card: Card, answer_tokens: int, network: Network) -> Estimate:
    """Raises `ModelError` where the model's folder does not describe it."""
    embedded = config.policy.model == "embedded"
    shape = ModelShape.embedded(config.policy.embedded) if embedded else ModelShape.read(Path(config.policy.model))
    pixels = config.policy.max_pixels or (config.policy.embedded.pixels if embedded else _DEFAULT_PIXELS)
    prompt, rows = shape.image_tokens(pixels) + _PROMPT_TEXT, config.learner.packing == "rows"
    load = Load(config.rapo.images_per_step, config.rapo.completions, prompt, answer_tokens, rows)
    half = config.policy.dtype == "bfloat16"
    longest = replace(load, answer=config.policy.max_completion_tokens).group_tokens
    learner = _learner(config, shape, half, longest, pixels)
    cold = _cold_start(config, shape, half, load.prompt + config.policy.max_completion_tokens, pixels)
    engine = config.rollout.engine
    length = min(engine.max_model_len, load.prompt + config.policy.max_completion_tokens)
    rollout = Sampling(shape, engine.tensor_parallel_size, half, engine.gpu_memory_utilization, card.memory, length)
    per_rank = -(-load.images // config.learner.workers)
    groups = config.learner.micro_batch_groups
    if config.learner.micro_batch_tokens is not None:
        groups = max(1, min(groups, config.learner.micro_batch_tokens // load.group_tokens))
    micro_batches = -(-per_rank // groups)
    learner_gpus = config.learner.workers * config.learner.gpus
    rollout_gpus = config.rollout.workers * config.rollout.worker_gpus
    nodes = network.nodes(learner_gpus + (0.0 if config.colocated else rollout_gpus))
    between = network.rate if network.nodes(learner_gpus) > 1 else None
    receivers = network.receivers(learner_gpus, rollout_gpus, shared=config.colocated)
    version = weight_bytes(learner)
    publishers = min(network.nodes(learner_gpus), math.ceil(version / (config.learner.chunk_mib * 2**20)))
    if config.rollout.weight_transport == "broadcast":
        publishers = min(publishers, MAX_SENDERS)
    delivery = _delivery(config, version, publishers, receivers, network, card)
    roles = [
        rollout_part(rollout, load, card, config.rollout.workers),
        learner_part(learner, load, card, micro_batches, between),
        transfer_part(learner, publishers, min(card.link, between or card.link)),
        delivery_part(delivery),
    ]
    every = snapshot_steps(config, max(roles[0].seconds, roles[1].seconds + roles[2].seconds))
    memory = [
        RoleMemory("coldstart", config.coldstart.workers, cold.gpu_bytes(), _limit(card, config.coldstart.gpus)),
        RoleMemory("learner", config.learner.workers, learner.gpu_bytes(), _limit(card, config.learner.gpus)),
        RoleMemory("rollout", config.rollout.workers, rollout.gpu_bytes(), _limit(card, config.rollout.gpus)),
    ]
    host = {"learner, optimiser of a rank": learner.state_bytes()["host"]}
    traffic = step_traffic(learner, config.rollout.workers, every)
    traffic["weights, out of a node of ranks"] = delivery.sent
    into = "rank" if between is None else "node of ranks"
    traffic[f"gathers and reductions, into each {into}"] = collective_bytes(learner, micro_batches)
    if between is not None and config.learner.snapshot_buddy:
        part = snapshot_bytes(learner) / network.nodes(learner_gpus)
        host["learner, second copy of a snapshot on a node of ranks"] = part
        traffic["snapshot, into the next node of ranks"] = part / every
    parts = [*roles, snapshot_part(learner, every)]
    if config.colocated:
        # The side whose turn it is not keeps its CUDA context, and a rank its tensors on its host.
        memory[1].items["engine, asleep"] = memory[2].items["rank, parked"] = FIXED
        host["learner, parked tensors of a rank"] = learner.parked_bytes
        traffic["parking, GPUs to hosts and back"] = 2 * learner.parked_bytes * config.learner.workers
        parts.append(parking_part(learner, card))
    ahead = config.rapo.max_staleness
    return Estimate(shape, card, network, nodes, memory, rollout.sequences, host, traffic, parts, ahead)


def _delivery(
    config: Config, version: float, publishers: int, receivers: int, network: Network, card: Card
) -> Delivery:
    put = config.rapo.max_staleness > 0  # else the ranks' own time of a version has it
    if config.rollout.weight_transport == "broadcast":
        return by_broadcast(version, publishers, receivers, network, card, put=put)
    parts = config.rollout.engine.tensor_parallel_size
    return through_store(version, publishers, receivers, network, card, parts, put=put)


def snapshot_steps(config: Config, step_seconds: float) -> float:
    """The steps between two snapshots of a large training state, for steps of that length."""
    if config.learner.snapshot_every is not None:
        return float(config.learner.snapshot_every)
    return max(1.0, config.learner.snapshot_seconds / step_seconds)


def _limit(card: Card, gpus: float) -> float:
    return card.memory * min(1.0, gpus) if gpus else card.memory


def _learner(config: Config, shape: ModelShape, half: bool, longest: int, pixels: int) -> Training:
    settings = config.learner
    tokens = settings.micro_batch_groups * longest
    if settings.micro_batch_tokens is not None:
        tokens = min(tokens, max(longest, settings.micro_batch_tokens))
    return Training(
        shape=shape,
        world=settings.workers,
        zero_stage=settings.zero_stage,
        half=half,
        offload=settings.offload == "optimizer",
        checkpointing=settings.gradient_checkpointing,
        freeze_vision=settings.freeze_vision,
        lora_rank=settings.lora.rank,
        reference=config.rapo.needs_reference and not settings.lora.rank,
        tokens=tokens,
        pixels=pixels * max(1, tokens // longest),
    )


def _cold_start(config: Config, shape: ModelShape, half: bool, longest: int, pixels: int) -> Training:
    settings = config.coldstart
    rows = max(1, min(settings.micro_batch_size, settings.batch_size // settings.workers))
    if settings.micro_batch_tokens is not None:
        rows = max(1, min(rows, settings.micro_batch_tokens // longest))
    return Training(
        shape=shape,
        world=settings.workers,
        zero_stage=settings.zero_stage,
        half=half,
        offload=settings.offload == "optimizer",
        checkpointing=settings.gradient_checkpointing,
        freeze_vision=settings.freeze_vision,
        lora_rank=0,
        reference=False,
        tokens=rows * longest,
        pixels=pixels * rows,
    )
