"""Paper in small: the settings that bring configs/paper.toml to two CPU cores.

The protocol stays: sources, quotas, proportions, normalisers, roles, objective, test sets. What
changes is the model (the embedded one, of a million random parameters), the number of steps, and
what belongs to GPUs.
"""

from __future__ import annotations

from pathlib import Path

#: The configuration that is run.
PAPER = Path(__file__).resolve().parents[2] / "configs" / "paper.toml"

ON_CPU = (
    "data.validation_fraction=0.1",
    "policy.model=embedded",
    "policy.dtype=float32",
    "policy.max_completion_tokens=64",
    "coldstart.workers=1",
    "coldstart.cpus=1",
    "coldstart.gpus=0",
    "coldstart.zero_stage=1",
    "coldstart.freeze_vision=false",  # a random vision tower has to learn to see
    "coldstart.cache_mib=256",
    "coldstart.steps=200",
    "coldstart.learning_rate=1.5e-3",
    "coldstart.warmup_steps=20",
    "aescot.images=220",
    "rollout.workers=2",
    "rollout.gpus=0",
    "rollout.cpus=1",
    "rollout.threads=1",
    "rollout.engine.max_model_len=512",
    "rollout.engine.block_size=32",
    "rollout.engine.enforce_eager=true",
    "rapo.steps=150",
    "rapo.images_per_step=64",
    "rapo.learning_rate=2.5e-4",
    "rapo.warmup_steps=20",
    "rapo.evaluate_every=50",
    "rapo.max_staleness=0",
    "learner.workers=2",
    "learner.gpus=0",
    "learner.cpus=1",
    "learner.threads=1",
    "learner.zero_stage=1",
    "learner.micro_batch_groups=8",
    "learner.chunk_mib=64",
    "learner.adam_beta2=0.99",
    "serve.gpus=0",
    "serve.cpus=1",
    "serve.threads=1",
    "serve.port=0",
    "serve.demo_images=6",
    "ray.object_store_mib=512",
)
