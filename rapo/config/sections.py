"""Configuration sections: fields and defaults of all but `data`, `aescot`, `rapo` and `serve`,
which have files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.answers.readout_names import ReadoutName
from rapo.config.aescot import AesCoTConfig
from rapo.config.data import DataConfig
from rapo.config.engine import EngineConfig
from rapo.config.serving import ServeConfig
from rapo.config.training import RapoConfig
from rapo.config.types import (
    Amount,
    Fraction,
    MayChange,
    NodeLabels,
    Positive,
    Seconds,
    Section,
    StoredModel,
)


class RunConfig(Section):
    """The run as a whole. Every random choice derives from `seed`."""

    seed: int = 0


class ImageConfig(Section):
    """Limits of an image, checked before it is fully decoded."""

    max_bytes: Positive = 20 * 2**20
    max_pixels: Positive = 50_000_000
    min_side: Positive = 16
    max_frames: Positive = Field(1000, description="of an animation or a file of several pages; the first one is used")


class TinyModelConfig(Section):
    """The model that the project builds from random weights; about a million parameters by
    default."""

    hidden_size: Positive = 128
    text_layers: Positive = 3
    vision_layers: Positive = 2
    heads: Positive = 4
    vocabulary: Annotated[int, Field(ge=300)] = 1024
    pixels: Positive = 84 * 84


class PolicyConfig(Section):
    """The model in training. `model` is "embedded", or a folder with a vision-language model in the
    transformers format."""

    model: StoredModel = "embedded"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_pixels: Positive | None = Field(None, description="overrides the processor's own limit")
    min_pixels: Positive | None = None
    max_completion_tokens: Positive = 64
    embedded: TinyModelConfig = TinyModelConfig()


class ColdStartConfig(Section):
    """Supervised fine-tuning on the kept critiques, by Ray Train and DeepSpeed."""

    steps: Positive = 200
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    micro_batch_size: Positive = Field(64, description="rows of one forward pass on one worker")
    workers: Positive = 2
    cpus: Amount = 1.0
    gpus: Amount = 0.0
    labels: NodeLabels = Field({}, description="Ray labels that a node must have")
    threads: Positive = 1
    zero_stage: Literal[0, 1, 2, 3] = 2
    freeze_vision: bool = False
    cache_mib: Positive = Field(1024, description="rows are kept in memory between epochs up to this size")
    timeout_s: MayChange[Seconds] = 7 * 24 * 3600.0


class RolloutAutoscaleConfig(Section):
    """Autoscaling of rollout workers: more of them while the learner is idle, fewer while they are
    idle (`cluster/rollout/autoscale.py`)."""

    enabled: bool = False
    min_workers: Positive = 1
    learner_idle: Fraction = Field(
        0.2, description="share of time that the learner waits, above which a worker is added"
    )
    rollout_idle: Fraction = Field(0.4, description="share of time that the workers wait, above which one is removed")
    window: Positive = Field(3, description="steps over which both shares are averaged")
    out_cooldown_s: Amount = Field(30.0, description="least time from the last change to a step up")
    in_cooldown_s: Amount = Field(120.0, description="least time from the last change to a step down")


class RolloutConfig(Section):
    workers: MayChange[Positive] = 2
    max_workers: MayChange[Positive] = Field(
        8, description="limit of `rapo scale` and of autoscaling; at least `workers`"
    )
    cpus: Amount = 1.0
    gpus: Amount = 0.0
    labels: NodeLabels = Field({}, description="Ray labels that a node must have")
    threads: Positive = 1
    start_timeout_s: MayChange[Seconds] = 300.0
    generate_timeout_s: MayChange[Seconds] = 600.0
    load_timeout_s: MayChange[Seconds] = 300.0
    place_timeout_s: MayChange[Seconds] = Field(900.0, description="how long a run without any worker waits for one")
    heartbeat_s: MayChange[Seconds] = Field(5.0, description="time between two pings of a worker")
    hang_timeout_s: MayChange[Seconds] = Field(
        60.0, description="how long an answer may take before the worker is replaced"
    )
    max_groups: Positive | None = Field(
        None, description="groups in flight on one worker; default: as many as fill its engine"
    )
    autoscale: MayChange[RolloutAutoscaleConfig] = RolloutAutoscaleConfig()
    engine: EngineConfig = EngineConfig()

    @property
    def most(self) -> int:
        """The largest number of workers."""
        return max(self.workers, self.max_workers)


LoRATarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoRAConfig(Section):
    """Low-rank adapters on the text model's linear layers in RAPO: weight + (alpha / rank) * B @ A,
    where only A and B train.

    The merged weight is published, saved and exported under its plain name, so that only the
    learner knows of LoRA.
    """

    rank: Annotated[int, Field(ge=0)] = Field(0, description="0: off, every parameter trains")
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(32.0, description="twice the rank is usual")
    targets: tuple[LoRATarget, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="layers of the text model that get an adapter; the vision tower gets none and is not trained",
    )

    @model_validator(mode="after")
    def _something_trains(self) -> LoRAConfig:
        if not self.targets:
            raise ValueError("learner.lora.targets is empty, so nothing would train; name layers, or leave it out")
        return self


class LearnerConfig(Section):
    workers: MayChange[Positive] = 2
    cpus: Amount = 1.0
    gpus: Amount = 0.0
    labels: NodeLabels = Field({}, description="Ray labels that a node must have")
    threads: Positive = 1
    zero_stage: Literal[0, 1, 2, 3] = 2
    micro_batch_groups: Positive = 16
    packing: Literal["prefix", "rows"] = Field("prefix", description="prefix: completions share their image's prefix")
    gradient_checkpointing: bool = False
    freeze_vision: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    chunk_mib: Positive = Field(256, description="size of one chunk of a published weight version")
    lora: LoRAConfig = LoRAConfig()
    snapshot_every: MayChange[Positive] = Field(
        1, description="steps between two snapshots of the training state in the object store; later steps are repeated"
    )
    max_failures: MayChange[Annotated[int, Field(ge=0)]] = Field(
        3, description="how often the ranks are rebuilt within one step before the run fails"
    )
    hang_timeout_s: MayChange[Seconds] = Field(
        120.0, description="how long a rank may take to answer before it counts as hung"
    )
    start_timeout_s: MayChange[Seconds] = 300.0
    step_timeout_s: MayChange[Seconds] = 1800.0


class EvaluateConfig(Section):
    """Validation during RAPO and evaluation at its end."""

    readout: ReadoutName = Field("expected", description="how scores are taken; serve.readout should be the same")
    samples: Annotated[int, Field(ge=2)] = Field(8, description="of the readout `sampled`")
    max_images: Positive | None = Field(None, description="of test and of validation images, sampled by the seed")
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    interval_coverage: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9, description="share of human scores that the interval of a score is calibrated to hold"
    )


class TelemetryConfig(Section):
    """Backends for a run's figures, beside its folder, `rapo status` and the report. One that fails
    stops nothing."""

    tensorboard: bool = Field(True, description="event files in the run folder, rapo/tensorboard")
    prometheus: bool = Field(True, description="through Ray's own metrics endpoint on every node")
    wandb_project: str | None = Field(
        None, description="project of Weights & Biases; none: not used. Needs the extra rapo[wandb]"
    )
    wandb_mode: Literal["offline", "online"] = Field(
        "offline", description="offline: files only; WANDB_MODE in the environment overrides it"
    )
    trace_steps: Annotated[int, Field(ge=0)] = Field(
        5, description="number of steps in rapo/trace.json, from each start on"
    )


class RayConfig(Section):
    """Where Ray runs: a cluster at `address`, or a local instance with these logical resources."""

    address: str | None = None
    cpus: Positive | None = Field(None, description="logical CPUs of a local instance; default: enough for the roles")
    object_store_mib: Annotated[int, Field(ge=80)] = 512
    temp_dir: Path | None = None


class StorageConfig(Section):
    """Runs, models and data at URLs (docs/storage.md). Credentials come from the environment."""

    scratch: Path | None = Field(
        None, description="folder for what has to be on this machine; default: in the system's temporary folder"
    )
    every_s: Seconds = Field(30.0, description="how often what changed in a run is stored at its URL")


class Config(Section):
    """The whole configuration. `config.toml` in a run folder is this, resolved."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    policy: PolicyConfig = PolicyConfig()
    aescot: AesCoTConfig = AesCoTConfig()
    coldstart: ColdStartConfig = ColdStartConfig()
    rapo: RapoConfig = RapoConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: MayChange[ServeConfig] = ServeConfig()
    ray: MayChange[RayConfig] = RayConfig()
    storage: MayChange[StorageConfig] = StorageConfig()
    telemetry: MayChange[TelemetryConfig] = TelemetryConfig()
