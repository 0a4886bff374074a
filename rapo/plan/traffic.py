"""Traffic and time: bytes that a step moves over each link, and what bounds each role.

The times are arithmetic: operations over the card's peak times a share of it, bytes over a link's
speed. They say which part is the slow one, not how long it takes to the second.
"""

from __future__ import annotations

from dataclasses import dataclass

from rapo.plan.cards import Card
from rapo.plan.memory import Sampling, Training, snapshot_bytes
from rapo.plan.network import PUT, Delivery

#: Share of a card's peak that training reaches, and that reading of memory reaches in decoding.
_TRAINING, _DECODING = 0.35, 0.6
#: What vLLM spends on each token of a batch beside the reading of weights, in seconds.
_PER_TOKEN_S = 0.004


@dataclass(frozen=True, slots=True)
class Load:
    """What a step asks for: images of `prompt` tokens, completions each, tokens of an answer. In
    `rows` each completion is trained with a prompt of its own."""

    images: int
    completions: int
    prompt: int
    answer: int
    rows: bool = False

    @property
    def group_tokens(self) -> int:
        """Those that the learner computes for a group: each completion once, and the prompt once or
        with each of them."""
        return self.prompt * (self.completions if self.rows else 1) + self.completions * self.answer


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a step: its seconds and what bounds it."""

    name: str
    seconds: float
    bound: str


def collective_bytes(training: Training, micro_batches: int) -> float:
    """Bytes of a step that enter a rank, and a node of ranks, in gathers and reductions.

    In a ring over `world` ranks that is (world - 1) / world of what is gathered or reduced
    (nccl-tests, doc/PERFORMANCE.md). ZeRO-3 gathers all weights in three passes; stages 1 and 2
    gather once what the ranks have updated.
    """
    share = (training.world - 1) / training.world
    if training.zero_stage == 3:
        gathered = micro_batches * 3 * training.element * training.shape.parameters
    else:
        gathered = training.element * training.trained if training.half or training.zero_stage else 0
    reduced = 4.0 * training.trained * (micro_batches if training.zero_stage >= 2 else 1)
    return (gathered + reduced) * share


def learner_part(training: Training, load: Load, card: Card, micro_batches: int, network_rate: float | None) -> Part:
    """Forward, backward and the reference's forward pass of a rank, against its gathers and
    reductions. `network_rate` is that between nodes in bytes per second, None for ranks of one
    node."""
    tokens = load.images * load.group_tokens / training.world
    passes = (8 if training.checkpointing else 6) + (2 if training.reference else 0)
    text = passes * training.shape.text_parameters * tokens
    patches = load.images / training.world * training.shape.patches(training.pixels)
    vision = passes * training.shape.vision_parameters * patches
    compute = (text + vision) / (card.flops * _TRAINING)
    bound, rate = "links between GPUs", card.link
    if network_rate is not None and network_rate < rate:
        bound, rate = "links between nodes", network_rate
    link = collective_bytes(training, micro_batches) / rate
    if training.offload:
        host = 16.0 * training.trained / training.world / card.host_link
        bound, link = ("the link to the host", host) if host > link else (bound, link)
    return Part("learner", max(compute, link), "arithmetic" if compute >= link else bound)


def rollout_part(sampling: Sampling, load: Load, card: Card, workers: int) -> Part:
    """Prefill and decoding of a worker's groups."""
    groups = load.images / workers
    prefill = 2 * sampling.shape.text_parameters * groups * load.prompt
    prefill += 2 * sampling.shape.vision_parameters * groups * load.prompt * 4
    element = 2 if sampling.half else 4
    weights = element * sampling.shape.text_parameters / sampling.parts / (card.bandwidth * _DECODING)
    batches = -(-int(groups * load.completions) // max(1, sampling.sequences))
    decode = load.answer * batches * (weights + _PER_TOKEN_S)
    seconds = prefill / (card.flops * _TRAINING * sampling.parts) + decode
    return Part("rollout", seconds, "reading weights" if weights > _PER_TOKEN_S else "vLLM's own time per token")


def weight_bytes(training: Training) -> float:
    """Of one published version."""
    return float(training.element * training.shape.parameters)


def step_traffic(training: Training, workers: int, every: float) -> dict[str, float]:
    """Bytes of a step by path, `every` being the steps between two snapshots."""
    return {
        "weights, GPU to object store": weight_bytes(training),
        "weights, object store to workers": workers * weight_bytes(training),
        "snapshot, GPUs to object store": snapshot_bytes(training) / every,
    }


def transfer_part(training: Training, publishers: int, link: float) -> Part:
    """Gathering a version over links of `link` bytes per second, which ZeRO-3 has to, and copying
    it out of the GPUs on `publishers` nodes, while the ranks stand."""
    version = weight_bytes(training)
    gather = version * (training.world - 1) / training.world / link if training.zero_stage == 3 else 0.0
    copy = version / publishers / PUT
    return Part("weights", gather + copy, "copying through the host" if copy >= gather else "gathering")


def delivery_part(delivery: Delivery) -> Part:
    """A version's way from the ranks to all workers, beside the next step."""
    return Part("delivery", delivery.seconds, delivery.bound)


def parking_part(training: Training, card: Card) -> Part:
    """Moving a rank's tensors to its host and back, while neither side works."""
    return Part("parking", 2 * training.parked_bytes / card.host_link, "the link to the host")


def snapshot_part(training: Training, every: float) -> Part:
    """Copying the training state, while the ranks stand."""
    return Part("snapshot", snapshot_bytes(training) / training.world / PUT / every, "copying through the host")
