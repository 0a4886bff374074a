"""Configuration sections `coldstart` and `learner`: the training of the policy's weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.config.types import Amount, MayChange, NodeLabels, Positive, Seconds, Section, Strategy

#: What lies in the host's memory instead of the GPU's.
Offload = Literal["none", "optimizer"]


class ColdStartConfig(Section):
    """Supervised fine-tuning on the kept critiques, by Ray Train and DeepSpeed."""

    steps: Positive = 200
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    micro_batch_size: MayChange[Positive] = Field(64, description="rows of one forward pass on one worker")
    micro_batch_tokens: MayChange[Positive | None] = Field(
        None, description="most padded tokens of one forward pass, beside micro_batch_size"
    )
    gradient_checkpointing: MayChange[bool] = Field(False, description="less memory for a third more time")
    offload: MayChange[Offload] = Field("none", description="optimizer: its state in the host's memory")
    workers: Positive = 2
    cpus: MayChange[Amount] = 1.0
    gpus: MayChange[Amount] = Field(0.0, description="of one worker; 0: on the CPU")
    labels: NodeLabels = Field({}, description="Ray labels that a node must have")
    threads: MayChange[Positive] = 1
    zero_stage: MayChange[Literal[0, 1, 2, 3]] = 2
    freeze_vision: bool = False
    answer: Literal["exact", "soft_label"] = Field(
        "exact", description="target of the answer's tokens: the score to two decimals, or scores around it"
    )
    answer_std: Annotated[float, Field(gt=0)] = Field(0.05, description="width of the soft label, as a score")
    cache_mib: MayChange[Positive] = Field(1024, description="rows are kept in memory between epochs up to this size")
    place_timeout_s: MayChange[Seconds] = Field(900.0, description="how long the workers may wait for room")
    timeout_s: MayChange[Seconds] = 7 * 24 * 3600.0
    packing: Literal["prefix", "rows"] = Field("rows", description="prefix: without padding")

    @model_validator(mode="after")
    def _offload_under_zero(self) -> ColdStartConfig:
        _check_offload("coldstart", self.zero_stage, self.offload)
        return self


LoRATarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoRAConfig(Section):
    """Low-rank adapters on the text model's linear layers in RAPO: weight + (alpha / rank) * B @ A,
    where only A and B train.

    The merged weight is published, saved and exported under its plain name, so that only the
    learner knows of LoRA.
    """

    rank: Annotated[int, Field(ge=0)] = Field(0, description="0: off, every parameter trains")
    alpha: Annotated[float, Field(gt=0)] = Field(32.0, description="twice the rank is usual")
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
    """The ranks that train the policy in RAPO."""

    workers: MayChange[Positive] = 2
    min_workers: MayChange[Positive | None] = Field(
        None, description="fewest ranks to go on with where the cluster has lost the room for all; default: all of them"
    )
    cpus: MayChange[Amount] = 1.0
    gpus: MayChange[Amount] = Field(0.0, description="of one rank; 0: on the CPU")
    labels: NodeLabels = Field({}, description="Ray labels that a node must have")
    placement: MayChange[Strategy] = Field(
        "pack",
        description="of the ranks on the nodes: few nodes, one (strict_pack), many, or one each (strict_spread)",
    )
    threads: MayChange[Positive] = 1
    zero_stage: MayChange[Literal[0, 1, 2, 3]] = 2
    micro_batch_groups: MayChange[Positive] = Field(16, description="most groups of one forward pass")
    micro_batch_tokens: MayChange[Positive | None] = Field(
        None, description="most tokens of one forward pass, beside micro_batch_groups"
    )
    offload: MayChange[Offload] = Field("none", description="optimizer: its state in the host's memory")
    packing: Literal["prefix", "rows"] = Field("prefix", description="prefix: completions share their image's prefix")
    gradient_checkpointing: MayChange[bool] = Field(False, description="less memory for a third more time")
    freeze_vision: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    chunk_mib: MayChange[Positive] = Field(256, description="size of one chunk of a published weight version")
    lora: LoRAConfig = LoRAConfig()
    snapshot_every: MayChange[Positive | None] = Field(
        None, description="steps between two snapshots of the training state; default: 1 while a rank's is small"
    )
    snapshot_seconds: MayChange[Seconds] = Field(
        300.0, description="time between two snapshots where `snapshot_every` is not given and a rank's state is large"
    )
    snapshot_buddy: MayChange[bool] = Field(
        True, description="where ranks have several nodes, each snapshot lies on the next of them as well"
    )
    max_failures: MayChange[Annotated[int, Field(ge=0)]] = Field(
        3, description="how often the ranks are rebuilt within one step before the run fails"
    )
    hang_timeout_s: MayChange[Seconds] = Field(
        120.0, description="how long a rank may take to answer before it counts as hung"
    )
    place_timeout_s: MayChange[Seconds] = Field(900.0, description="how long the ranks may wait for room")
    start_timeout_s: MayChange[Seconds] = 300.0
    step_timeout_s: MayChange[Seconds] = 1800.0
    progress_timeout_s: MayChange[Seconds] = Field(
        900.0, description="how long a rank may spend on one micro-batch before it counts as hung"
    )

    @model_validator(mode="after")
    def _offload_under_zero(self) -> LearnerConfig:
        _check_offload("learner", self.zero_stage, self.offload)
        return self

    @model_validator(mode="after")
    def _fewest_ranks(self) -> LearnerConfig:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"learner.min_workers = {self.min_workers} is above learner.workers = {self.workers}")
        return self


def _check_offload(section: str, zero_stage: int, offload: Offload) -> None:
    if offload != "none" and zero_stage == 0:
        raise ValueError(f"{section}.offload = '{offload}' needs {section}.zero_stage of 1 or more")
