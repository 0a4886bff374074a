"""Estimate: what a configuration would take on GPUs of one kind: memory by role, bytes by step,
seconds by role."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rapo.config import Config
from rapo.plan.cards import Card
from rapo.plan.memory import FIXED, Items, Sampling, Training
from rapo.plan.model_shape import ModelShape
from rapo.plan.traffic import (
    Load,
    Part,
    learner_part,
    parking_part,
    rollout_part,
    snapshot_part,
    step_traffic,
    transfer_part,
)

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
    `in_turn`: sampler and learner have the same GPUs, one after the other."""

    shape: ModelShape
    card: Card
    memory: list[RoleMemory]
    sequences: int
    host: Items
    traffic: dict[str, float]
    parts: list[Part]
    in_turn: bool = False

    @property
    def step_seconds(self) -> float:
        """Sampler and learner work side by side, unless they take turns; weights and snapshots stop
        the ranks."""
        by_name = {part.name: part.seconds for part in self.parts}
        if self.in_turn:
            return sum(by_name.values())
        return max(by_name["rollout"], by_name["learner"] + by_name["weights"] + by_name["snapshot"])


def estimate(config: Config, card: Card, answer_tokens: int) -> Estimate:
    """Raises `ModelError` where the model's folder does not describe it."""
    embedded = config.policy.model == "embedded"
    shape = ModelShape.embedded(config.policy.embedded) if embedded else ModelShape.read(Path(config.policy.model))
    pixels = config.policy.max_pixels or (config.policy.embedded.pixels if embedded else _DEFAULT_PIXELS)
    load = Load(
        config.rapo.images_per_step, config.rapo.completions, shape.image_tokens(pixels) + _PROMPT_TEXT, answer_tokens
    )
    half = config.policy.dtype == "bfloat16"
    longest = load.prompt + config.rapo.completions * config.policy.max_completion_tokens
    learner = _learner(config, shape, half, longest, pixels)
    cold = _cold_start(config, shape, half, load.prompt + config.policy.max_completion_tokens, pixels)
    engine = config.rollout.engine
    length = min(engine.max_model_len, load.prompt + config.policy.max_completion_tokens)
    rollout = Sampling(shape, engine.tensor_parallel_size, half, engine.gpu_memory_utilization, card.memory, length)
    per_rank = -(-load.images // config.learner.workers)
    groups = config.learner.micro_batch_groups
    if config.learner.micro_batch_tokens is not None:
        groups = max(1, min(groups, config.learner.micro_batch_tokens // load.group_tokens))
    roles = [
        rollout_part(rollout, load, card, config.rollout.workers),
        learner_part(learner, load, card, -(-per_rank // groups)),
        transfer_part(learner),
    ]
    every = snapshot_steps(config, max(roles[0].seconds, roles[1].seconds + roles[2].seconds))
    memory = [
        RoleMemory("coldstart", config.coldstart.workers, cold.gpu_bytes(), _limit(card, config.coldstart.gpus)),
        RoleMemory("learner", config.learner.workers, learner.gpu_bytes(), _limit(card, config.learner.gpus)),
        RoleMemory("rollout", config.rollout.workers, rollout.gpu_bytes(), _limit(card, config.rollout.gpus)),
    ]
    host = {"learner, optimiser of a rank": learner.state_bytes()["host"]}
    traffic = step_traffic(learner, config.rollout.workers, every)
    parts = [*roles, snapshot_part(learner, every)]
    if config.colocated:
        # The side whose turn it is not keeps its CUDA context, and a rank its tensors on its host.
        memory[1].items["engine, asleep"] = memory[2].items["rank, parked"] = FIXED
        host["learner, parked tensors of a rank"] = learner.parked_bytes
        traffic["parking, GPUs to hosts and back"] = 2 * learner.parked_bytes * config.learner.workers
        parts.append(parking_part(learner, card))
    return Estimate(shape, card, memory, rollout.sequences, host, traffic, parts, config.colocated)


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
