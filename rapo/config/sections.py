"""Configuration sections: fields and defaults of those that have no file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.answers.readout_names import ReadoutName
from rapo.config.aescot import AesCoTConfig
from rapo.config.chat import GroundingJudgeConfig
from rapo.config.data import DataConfig
from rapo.config.engine import EngineConfig
from rapo.config.learning import ColdStartConfig, LearnerConfig
from rapo.config.serving import ServeConfig
from rapo.config.training import RapoConfig
from rapo.config.types import (
    Amount,
    EnvironmentRole,
    Fraction,
    MayChange,
    NodeLabels,
    Positive,
    Seconds,
    Section,
    StoredModel,
)
from rapo.util.devices import device_environment


class RunConfig(Section):
    """The run as a whole. Every random choice derives from `seed`."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


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
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="default where a role that holds the model has GPUs: bfloat16"
    )
    max_pixels: Positive | None = Field(None, description="overrides the processor's own limit")
    min_pixels: Positive | None = None
    max_completion_tokens: Positive = 64
    embedded: TinyModelConfig = TinyModelConfig()


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
    cpus: MayChange[Amount] = 1.0
    gpus: MayChange[Amount] = Field(0.0, description="of one worker; 0: on the CPU")
    labels: NodeLabels = Field({}, description="Ray labels that a node must have")
    placement: MayChange[Literal["apart", "colocate"]] = Field(
        "apart", description="colocate: each worker on GPUs of learner ranks, which the two sides have in turn"
    )
    threads: MayChange[Positive] = 1
    start_timeout_s: MayChange[Seconds] = 300.0
    generate_timeout_s: MayChange[Seconds] = 600.0
    load_timeout_s: MayChange[Seconds] = 300.0
    weight_transport: MayChange[Literal["object_store", "broadcast"]] = Field(
        "object_store",
        description="broadcast: from the ranks to all workers at once, NCCL on GPUs; late workers: store",
    )
    broadcast_timeout_s: MayChange[Seconds] = Field(
        60.0, description="how long a broadcast waits for a worker, which then takes the object store"
    )
    place_timeout_s: MayChange[Seconds] = Field(900.0, description="how long a run without any worker waits for one")
    heartbeat_s: MayChange[Seconds] = Field(
        5.0, description="time between two pings of a worker; longer where all together were more than 16 a second"
    )
    hang_timeout_s: MayChange[Seconds] = Field(
        60.0, description="how long an answer may take before the worker is replaced"
    )
    max_groups: MayChange[Positive | None] = Field(
        None, description="groups in flight on one worker; default: as many as fill its engine"
    )
    autoscale: MayChange[RolloutAutoscaleConfig] = RolloutAutoscaleConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _gpu_for_each_part(self) -> RolloutConfig:
        parts = self.engine.tensor_parallel_size
        if self.gpus and parts > 1 and self.gpus not in (1.0, float(parts)):
            raise ValueError(
                f"rollout.gpus = {self.gpus:g} does not fit rollout.engine.tensor_parallel_size = {parts}: give 1 (for each "
                f"part of the model) or {parts} (for the worker)"
            )
        return self

    @property
    def worker_gpus(self) -> float:
        """The GPUs of one worker: one for each part of a model that is split over several."""
        return _split_gpus(self.gpus, self.engine.tensor_parallel_size)


class EvaluateConfig(Section):
    """Validation during RAPO and evaluation at its end."""

    readout: ReadoutName = Field("expected", description="how scores are taken; serve.readout should be the same")
    samples: Annotated[int, Field(ge=2)] = Field(8, description="of the readout `sampled`")
    max_images: Positive | None = Field(None, description="of test and of validation images, sampled by the seed")
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    interval_coverage: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9, description="share of human scores that the interval of a score is calibrated to hold"
    )
    grounded_judge: GroundingJudgeConfig = GroundingJudgeConfig()


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
    working_dir: Path | None = Field(
        None,
        description="a checkout of rapo that is sent to the nodes of the cluster, which then need none of their own",
    )
    env: dict[EnvironmentRole, dict[str, str]] = Field(
        default={}, description="environment variables of the processes of all roles, or of one; NCCL's, for example"
    )

    def environment(self, role: EnvironmentRole, gpus: float) -> dict[str, str]:
        """The variables of a process of `role` that has `gpus` GPUs. What hides the GPUs of a node
        from a role without any overrules `env`."""
        return {**self.env.get("all", {}), **self.env.get(role, {}), **device_environment(gpus)}


class StorageConfig(Section):
    """Runs, models and data at URLs (docs/storage.md). Credentials come from the environment."""

    scratch: Path | None = Field(
        None, description="folder for what has to be on this machine; default: in the system's temporary folder"
    )
    every_s: Seconds = Field(30.0, description="how often what changed in a run is stored at its URL")


class Config(Section):
    """The whole configuration. `config.toml` in a run folder is this, resolved."""

    @model_validator(mode="before")
    @classmethod
    def _dtype_by_device(cls, data: object) -> object:
        """bfloat16 where a role that holds the model has GPUs, unless `policy.dtype` is given. In
        bfloat16 sampler and learner may differ by more."""
        if not isinstance(data, dict):
            return data
        holders = [data.get(name) for name in ("coldstart", "rollout", "learner", "serve")]
        on_gpus = any(isinstance(section, dict) and section.get("gpus") for section in holders)
        policy = data.get("policy", {})
        if on_gpus and isinstance(policy, dict) and "dtype" not in policy:
            policy = policy | {"dtype": "bfloat16"}
            data = data | {"policy": policy}
        rapo = data.get("rapo", {})
        watch = rapo.get("watch", {}) if isinstance(rapo, dict) else None
        if isinstance(policy, dict) and policy.get("dtype") == "bfloat16" and isinstance(watch, dict):
            return data | {"rapo": rapo | {"watch": {"mismatch_kl": 0.01} | watch}}
        return data

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

    @property
    def colocated(self) -> bool:
        """Whether each rollout worker shares GPUs with learner ranks, in turn with them."""
        return self.rollout.placement == "colocate"

    @property
    def most_workers(self) -> int:
        """The largest number of rollout workers."""
        if self.colocated:
            return max(1, self.learner.workers // self.rollout.engine.tensor_parallel_size)
        return max(self.rollout.workers, self.rollout.max_workers)

    @property
    def serve_gpus(self) -> float:
        """The GPUs of one scorer replica, whose engine is set by `rollout.engine`: one for each
        part of a model that is split over several."""
        return _split_gpus(self.serve.gpus, self.rollout.engine.tensor_parallel_size)


def _split_gpus(gpus: float, parts: int) -> float:
    return gpus if parts == 1 or not gpus else float(parts)
