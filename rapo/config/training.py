"""Configuration section `rapo`: the training loop, its reward, its loss and its alerts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.config.chat import GroundingJudgeConfig
from rapo.config.types import Amount, Fraction, MayChange, Positive, Section


class RewardSettings(Section):
    """RAPO's reward. Defaults follow the paper's formulas without upstream's defects
    (docs/reward.md).

    The preset "upstream" reproduces the released code and fixes every other field to that code's
    values.
    """

    sigma: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        default=0.1, description="width of the absolute term; a table gives one per data set"
    )
    sigma_unit: Literal["score", "spread"] = Field("score", description="spread: a fraction of the data set's label sd")
    gamma: Annotated[float, Field(gt=0)] = 1e-6
    ties: Literal["half", "win", "drop", "soft"] = Field("half", description="soft: preference from the labels' std")
    weight_absolute: Annotated[float, Field(ge=0)] = 1.0
    weight_relative: Annotated[float, Field(ge=0)] = 1.0
    weight_format: Annotated[float, Field(ge=0)] = 1.0
    weight_grounded: Annotated[float, Field(ge=0)] = Field(0.0, description="of how well the rationale fits the image")
    grounded_judge: GroundingJudgeConfig = GroundingJudgeConfig()
    weight_listener: Annotated[float, Field(ge=0)] = Field(
        0.0, description="of how well the cold-start model tells the score from the rationale, normalised by group"
    )
    score: Literal["expected", "sampled"] = Field(
        "expected", description="a completion's score: the expected answer given its rationale, or the sampled one"
    )
    advantage: Literal["std", "mean"] = "std"
    advantage_eps: Annotated[float, Field(ge=0)] = 1e-4
    preset: Literal["rapo", "upstream"] = "rapo"

    @model_validator(mode="before")
    @classmethod
    def _upstream_is_fixed(cls, data: object) -> object:
        if not isinstance(data, dict) or data.get("preset") != "upstream":
            return data
        # No judge is asked, because the weight of its term is fixed at 0.
        free = ("preset", "grounded_judge")
        fixed = {name: info.default for name, info in cls.model_fields.items() if name not in free} | {
            "ties": "win",
            "score": "sampled",
        }
        other = [name for name, value in fixed.items() if data.get(name, value) != value]
        if other:
            raise ValueError(
                f"preset 'upstream' fixes {other[0]} = {fixed[other[0]]!r}; set it so, or leave {', '.join(other)} out"
            )
        return data | fixed


class SamplingConfig(Section):
    """How completions are sampled in training. The learner applies the same temperature and the
    same token mask."""

    temperature: Annotated[float, Field(gt=0)] = 1.0


class LossConfig(Section):
    clip_low: Annotated[float, Field(gt=0)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    kl_beta: Annotated[float, Field(ge=0)] = Field(0.01, description="of the KL term to the cold start; 0: none")
    answer: Literal["soft_label", "policy_gradient"] = Field(
        "soft_label", description="how the answer's tokens are trained; the rationale's: always by policy gradient"
    )
    answer_weight: Annotated[float, Field(gt=0)] = Field(0.3, description="of the loss soft_label")
    answer_std: Annotated[float, Field(gt=0)] = Field(0.05, description="width of the soft label, as a score")
    importance_correction: bool = Field(True, description="false: act as if sampler and learner were the same policy")
    importance_cap: Annotated[float, Field(gt=0)] = 2.0
    normalization: Literal["sequence", "token", "constant"] = "sequence"
    mask_truncated: bool = Field(False, description="completions cut at the token limit add nothing to the loss")
    mask_invalid: bool = Field(False, description="completions without a score add nothing to the loss")


class WatchConfig(Section):
    """The bounds beyond which a run has an alert (`rapo.watch`, docs/training.md)."""

    enabled: bool = True
    on_collapse: Literal["warn", "stop"] = Field(
        "warn", description="stop: end the loop at entropy_collapse, parse_loss or not_finite; the best model is kept"
    )
    window: Positive = Field(10, description="steps over which entropy, parse rate and reward are smoothed")
    entropy_fraction: Fraction = Field(0.2, description="share of the entropy at the start; less is a collapse")
    entropy_floor: Amount = Field(0.01, description="nats per token; less is a collapse whatever the start was")
    parse_drop: Fraction = Field(0.1, description="how far the parse rate may fall below its best")
    parse_floor: Fraction = Field(0.05, description="a lower parse rate is an alert whatever the best was")
    srcc_errors: Annotated[float, Field(gt=0.0)] = Field(
        3.0, description="standard errors by which the validation SRCC may fall below its best"
    )
    srcc_apart: Positive = Field(20, description="steps between the validations whose rewards are compared")
    mismatch_kl: Amount = Field(
        1e-3, description="nats per token between sampler and learner; more is an alert; default in bfloat16: .01"
    )
    start_mismatch_kl: Amount | None = Field(
        None,
        description="the same in the first step that has it; more ends the run; without a value 2e-6, in bfloat16 .05",
    )
    zero_spread: Fraction = Field(0.95, description="share of groups without a spread of rewards")
    zero_spread_steps: Positive = Field(5, description="steps in a row above zero_spread that are an alert")
    grounding_fall: Fraction = Field(
        0.1, description="how far the mean grounding of explanations may fall below that of the cold start"
    )
    spread_floor: Fraction = Field(0.5, description="spread of the scores as a share of the human scores'")
    scores_fraction: Fraction = Field(0.4, description="share of the cold start's number of different scores")


class RapoConfig(Section):
    """The training loop of Relative-Absolute Policy Optimization."""

    steps: Positive = 200
    images_per_step: Positive = 32
    completions: Annotated[int, Field(ge=2)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    updates_per_batch: Positive = 1
    max_staleness: Annotated[int, Field(ge=0)] = Field(
        1, description="optimiser steps that a group may be behind; 0: sampler and learner alternate, reproducibly"
    )
    in_flight: Literal["finish", "continue"] = Field(
        "finish", description="groups in flight at a weight update: finish on their version, or continue on the new one"
    )
    mix_datasets: bool = Field(False, description="a batch may hold images of several data sets")
    evaluate_every: Positive = 25
    checkpoint_every: MayChange[Positive] = Field(25, description="steps between two states of the run on disk")
    keep_checkpoints: MayChange[Positive] = Field(2, description="how many states of the run are kept")
    select: Literal["best", "last"] = Field("best", description="best: by validation SRCC")
    sampling: SamplingConfig = SamplingConfig()
    loss: LossConfig = LossConfig()
    reward: RewardSettings = RewardSettings()
    watch: MayChange[WatchConfig] = WatchConfig()

    @model_validator(mode="after")
    def _answer_is_trained(self) -> RapoConfig:
        if self.loss.answer == "policy_gradient" and self.reward.score == "expected":
            raise ValueError(
                "rapo.loss.answer = 'policy_gradient' needs rapo.reward.score = 'sampled': the expected answer is the "
                "same whatever answer was sampled, so that its tokens would learn nothing"
            )
        return self

    @property
    def reads_answers(self) -> bool:
        """Whether groups hold the log-probs along their answers."""
        return self.reward.score == "expected" or self.loss.answer == "soft_label" or self.reward.weight_listener > 0.0

    @property
    def asks_grounding_judge(self) -> bool:
        """Whether a judge model gives the grounded term."""
        return self.reward.weight_grounded > 0.0 and self.reward.grounded_judge.kind == "openai"

    @property
    def measures_images(self) -> bool:
        """Whether groups hold the measures of their images, for the grounded term."""
        return self.reward.weight_grounded > 0.0 and self.reward.grounded_judge.kind == "measures"

    @property
    def flat_groups_teach(self) -> bool:
        """Whether a group whose completions all earn the same still has a gradient."""
        return self.needs_reference or self.loss.answer == "soft_label"

    @property
    def needs_reference(self) -> bool:
        """Whether the learner holds the frozen cold-start model beside the policy."""
        return self.loss.kl_beta > 0.0 or self.reward.weight_listener > 0.0
