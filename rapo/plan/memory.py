"""Memory: bytes per GPU of a training rank and of a rollout worker, item by item.

- Training states follow ZeRO's sharding (Rajbhandari et al. 2020, arXiv 1910.02054), with the
  dtypes that `rapo.policy.distributed` sets: gradients are added up in float32.
- What does not depend on the configuration (CUDA, NCCL, allocator) is a flat amount.
"""

from __future__ import annotations

from dataclasses import dataclass

from rapo.plan.model_shape import ModelShape

#: CUDA context, NCCL's buffers and fragments of the allocator.
FIXED = 2.5e9
#: DeepSpeed's defaults, in elements: parameters that ZeRO-3 holds whole, and a bucket of gradients.
_LIVE, _BUCKET = 10**9, 5 * 10**8
#: `rapo.policy.forward` computes logits in pieces of at most so many elements, in float32; about
#: four copies of a piece live at a time.
_LOGIT_BYTES = 4 * 4 * 2**27
_VISION_FACTOR = 22  # bytes kept of a patch and vision layer, in elements of its width

Items = dict[str, float]


@dataclass(frozen=True, slots=True)
class Training:
    """What a rank trains: its shape, world and settings; `tokens` and `pixels` of its largest
    micro-batch."""

    shape: ModelShape
    world: int
    zero_stage: int
    half: bool
    offload: bool
    checkpointing: bool
    freeze_vision: bool
    lora_rank: int
    reference: bool
    tokens: int
    pixels: int

    @property
    def element(self) -> int:
        return 2 if self.half else 4

    @property
    def trained(self) -> int:
        """The number of parameters that train."""
        if self.lora_rank:
            return self.lora_parameters
        return self.shape.text_parameters if self.freeze_vision else self.shape.parameters

    @property
    def lora_parameters(self) -> int:
        """Of adapters on all seven layers of each block."""
        shape = self.shape
        queries, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        widths = 2 * (shape.hidden + queries) + 2 * (shape.hidden + kv) + 3 * (shape.hidden + shape.intermediate)
        return self.lora_rank * widths * shape.layers

    def state_bytes(self) -> Items:
        """Bytes of a rank: parameters, gradients, optimiser."""
        world, whole = self.world, self.shape.parameters + (self.lora_parameters if self.lora_rank else 0)
        stage = max(1, self.zero_stage) if self.half else self.zero_stage
        optimizer = (12 if self.half else 8) * self.trained / (world if stage >= 1 else 1)
        return {
            "parameters": self.element * whole / (world if stage == 3 else 1),
            "gradients": 4.0 * self.trained / (world if stage >= 2 else 1),
            "optimizer": 0.0 if self.offload else optimizer,
            "host": optimizer if self.offload else 0.0,
        }

    @property
    def reference_bytes(self) -> float:
        """Bytes of a rank's reference model."""
        whole = float(self.element * self.shape.parameters) if self.reference else 0.0
        return whole / (self.world if self.zero_stage == 3 else 1)

    @property
    def parked_bytes(self) -> float:
        """Bytes that a rank moves off its GPU between two steps: what it holds then."""
        states = self.state_bytes()
        return states["parameters"] + states["optimizer"] + self.reference_bytes

    def gpu_bytes(self) -> Items:
        """Bytes of a rank on its GPU, by item."""
        shape, states = self.shape, self.state_bytes()
        sharded = self.zero_stage == 3
        kept = self.tokens * shape.activation_bytes_per_token(self.element, checkpointing=self.checkpointing)
        if self.checkpointing:
            kept += self.tokens * shape.layer_bytes_per_token(self.element)
        vision = 0.0
        if not self.freeze_vision:
            layers = 1 if self.checkpointing else shape.vision_layers
            vision = shape.patches(self.pixels) * layers * _VISION_FACTOR * shape.vision_hidden * self.element
        buffers = min(_LIVE, shape.parameters) * self.element if sharded else 0.0
        buffers += 4.0 * min(_BUCKET, self.trained) + min(_LOGIT_BYTES, 16.0 * self.tokens * shape.vocabulary)
        return {
            "parameters": states["parameters"],
            "gradients": states["gradients"],
            "optimizer": states["optimizer"],
            "reference": self.reference_bytes,
            "activations": kept + vision,
            "buffers": buffers,
            "fixed": FIXED,
        }


@dataclass(frozen=True, slots=True)
class Sampling:
    """A rollout worker: `parts` GPUs with `utilization` of `memory` bytes each."""

    shape: ModelShape
    parts: int
    half: bool
    utilization: float
    memory: float
    length: int

    def gpu_bytes(self) -> Items:
        element = 2 if self.half else 4
        weights = element * self.shape.parameters / self.parts
        return {"weights": weights, "cache": max(0.0, self.utilization * self.memory - weights - FIXED), "fixed": FIXED}

    @property
    def sequences(self) -> int:
        """Sequences of the greatest length that the cache holds."""
        per_token = self.shape.kv_bytes_per_token(2 if self.half else 4) / self.parts
        return int(self.gpu_bytes()["cache"] // (per_token * self.length))


def snapshot_bytes(training: Training) -> float:
    """Bytes of a snapshot of the training state, of all ranks together: what trains, and its
    optimiser, in float32 (12 bytes a parameter)."""
    return 12.0 * training.trained
