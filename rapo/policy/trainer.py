"""PolicyTrainer: one rank of the RAPO learner, with scored groups in and weights out. No Ray."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from rapo.algorithm.partition import Share
from rapo.config import Config, LossConfig
from rapo.errors import WeightError
from rapo.families.inputs import Prepared
from rapo.models.completeness import check_finite, model_class, quiet_loading, read_config, refuse_incomplete
from rapo.policy.answers import AnswerTargets, answer_targets, listener_advantages
from rapo.policy.batch import GroupBatch, collate, pack_rows
from rapo.policy.device_memory import device_memory_named
from rapo.policy.distributed import (
    OptimizerSettings,
    accumulate,
    checkpoint_activations,
    device,
    freeze_vision,
    frozen,
    torch_dtype,
    wrap,
)
from rapo.policy.forward import GroupPolicy
from rapo.policy.host_memory.parking import Parking, scratch_tensors, training_tensors
from rapo.policy.host_memory.pinned_copies import PinnedCopies
from rapo.policy.lora import add_lora, dense_parameters, without_adapters
from rapo.policy.loss import AnswerTerms, Normalizer, TokenTerms, policy_loss
from rapo.policy.preparation import Preparation, StepImages
from rapo.policy.processing import PolicyProcessor
from rapo.policy.state import HostState, StateFiles, copy_state, load_state, pack_state, unpack_state
from rapo.policy.weight_packing import chunk_count, divide, model_tensors, pack
from rapo.records import MAX_SENDERS, Group, ScoredGroup
from rapo.util.progress import Progress
from rapo.util.seeds import derive_seed


def load_model(folder: str | Path, dtype: str) -> PreTrainedModel:
    """The model of a local folder in `dtype`, without a key-value cache. Raises `ModelError` unless
    every parameter came from the folder, and is finite."""
    config = read_config(folder)
    with quiet_loading():
        model, info = model_class(config).from_pretrained(
            folder,
            dtype=torch_dtype(dtype),
            attn_implementation="sdpa",
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    refuse_incomplete(folder, info)
    check_finite(folder, model.named_parameters())
    model.config.use_cache = False
    return model


class PolicyTrainer:
    """Trains the policy of `model_dir` under DeepSpeed, as one of `world` ranks.

    The process group must exist. `version` counts the steps. Each micro-batch is computed in
    `splits` parts. `progress` tells of the micro-batch at hand.
    """

    def __init__(
        self, model_dir: str, config: Config, *, world: int, splits: int = 1, progress: Progress | None = None
    ) -> None:
        self._config = config
        self._world = world
        self._splits = splits
        self._progress = progress or Progress()
        self.version = 0
        self._snapshots: dict[int, list[tuple[str, torch.Tensor]]] = {}
        self._copies: dict[int, HostState] = {}
        self._copy_numbers = itertools.count()
        self._first_update = True
        self.processor = PolicyProcessor(model_dir)
        self._symbols = self.processor.answer_tokens.read if config.rapo.reads_answers else []
        self._preparation = Preparation(self.processor, config)
        policy = self._policy(model_dir)
        self._lora = config.learner.lora.rank > 0
        if self._lora:
            add_lora(policy.model, config.learner.lora, seed=derive_seed(config.run.seed, "lora"))
        if config.learner.freeze_vision:
            freeze_vision(policy)
        if config.learner.gradient_checkpointing:
            checkpoint_activations(policy)
        rapo = config.rapo
        settings = OptimizerSettings(
            learning_rate=rapo.learning_rate,
            weight_decay=config.learner.weight_decay,
            max_grad_norm=config.learner.max_grad_norm,
            zero_stage=config.learner.zero_stage,
            steps=rapo.steps * rapo.updates_per_batch,
            warmup_steps=rapo.warmup_steps,
            schedule=rapo.schedule,
            beta2=config.learner.adam_beta2,
            offload=config.learner.offload,
        )
        self.engine = wrap(policy.to(device()), settings, dtype=config.policy.dtype)
        self._reference = None
        # With LoRA the model without its adapters is the reference.
        if rapo.needs_reference and not self._lora:
            self._reference = frozen(self._policy(model_dir).to(device()), settings, dtype=config.policy.dtype)
        self._parking = Parking(device())
        self._pinned = PinnedCopies(device()) if device().type == "cuda" else None
        self._published = self._share_of_weights()

    def _share_of_weights(self) -> dict[str, int]:
        """The tensors of a version that this rank publishes, by name, and their sizes in bytes."""
        dense = dense_parameters(self.engine.module.model)
        sizes = {name: getattr(p, "ds_numel", p.numel()) * p.element_size() for name, p, _ in dense}
        broadcast = self._config.rollout.weight_transport == "broadcast"
        shares = min(self._world, MAX_SENDERS) if broadcast else self._world
        owners = divide(list(sizes.values()), self._chunk_bytes, shares)
        # Where there are fewer shares than ranks, those that have one are spread over the nodes.
        own = torch.distributed.get_rank()
        return {
            name: size
            for (name, size), owner in zip(sizes.items(), owners, strict=True)
            if owner * self._world // shares == own
        }

    @property
    def _chunk_bytes(self) -> int:
        return self._config.learner.chunk_mib * 2**20

    def park(self) -> None:
        """Move all tensors to the host's memory, so that the device is free for others. They come
        back with the next call that needs them."""
        self._parking.leave(training_tensors(self.engine, self._reference), scratch_tensors(self.engine))

    def _policy(self, model_dir: str) -> GroupPolicy:
        return GroupPolicy(
            load_model(model_dir, self._config.policy.dtype),
            self.processor.banned_token_ids,
            temperature=self._config.rapo.sampling.temperature,
            packing=self._config.learner.packing,
            symbols=self._symbols,
        )

    def step(self, share: Share, images: dict[str, bytes]) -> dict[str, float]:
        """One step: `updates_per_batch` updates on this rank's groups.

        `images` are the encoded images of the groups, by uid. Returns sums for metrics, to be added
        up over the ranks, and `learning_rate`, `skipped` and `grad_norm` (missing under ZeRO-0),
        which are the same on all ranks. `skipped` counts the updates that DeepSpeed left out
        because the gradient was not finite: their version has the weights of the one before.

        Raises `RoleError` (`FaultKind.OUT_OF_MEMORY`) where a smaller micro-batch may fit into the
        device's memory; this rank and its peers are of no use then. Raises `ResourceError` where
        the micro-batch is a single group.
        """
        with self._progress.working(), device_memory_named(share, self._splits):
            self._parking.come_back()
            return self._step(share, images)

    def _step(self, share: Share, images: dict[str, bytes]) -> dict[str, float]:
        parts = share.parts(self._splits)
        self._agree_on_head_calls(parts)
        totals: dict[str, float] = {}
        # Read now, because the scheduler changes it at the step's end.
        learning_rate, skipped = float(self.engine.optimizer.param_groups[0]["lr"]), self.engine.skipped_steps
        order = [scored.group.image_uid for part in parts for scored in part]
        with self._preparation.ahead(images, order) as prepared:
            for update in range(self._config.rapo.updates_per_batch):
                self._first_update = update == 0
                losses = [partial(self._loss, part, prepared, share, totals) for part in parts]
                values = accumulate(self.engine, losses, self._progress.advance)
                loss = sum(values) / self._world / self._config.rapo.updates_per_batch
                totals["loss"] = totals.get("loss", 0.0) + loss
        self.version += 1
        norm = self.engine.get_global_grad_norm()
        if norm is not None:  # ZeRO-0 has none
            totals["grad_norm"] = float(norm)
        totals["learning_rate"] = learning_rate
        totals["skipped"] = float(self.engine.skipped_steps - skipped)
        return totals

    def _agree_on_head_calls(self, parts: Sequence[Sequence[ScoredGroup]]) -> None:
        """Have all micro-batches of all ranks call the head as often."""
        tokens = max(sum(len(ids) for scored in part for ids in scored.group.token_ids) for part in parts)
        calls = self.engine.module.agreed_head_calls(tokens)
        for policy in (self.engine, self._reference):
            if policy is not None:
                (policy if isinstance(policy, GroupPolicy) else policy.module).head_calls = calls

    def _loss(
        self,
        chunk: Sequence[ScoredGroup],
        prepared: StepImages,
        share: Share,
        totals: dict[str, float],
    ) -> torch.Tensor:
        """The loss of a micro-batch; its sums for metrics are added to `totals`."""
        settings = self._config.rapo.loss
        if not chunk:
            return self._idle_loss()
        batch = self._batch([prepared[g.group.image_uid] for g in chunk], [g.group.token_ids for g in chunk])
        terms, entropy = self._terms(chunk, batch, settings)
        normalizer = Normalizer(
            share.completions, share.tokens, self._config.policy.max_completion_tokens, scale=float(self._world)
        )
        loss, sums = policy_loss(terms, settings, normalizer)
        for key, value in {**sums, "entropy": float(entropy.sum())}.items():
            totals[key] = totals.get(key, 0.0) + value
        return loss

    def _terms(
        self, chunk: Sequence[ScoredGroup], batch: GroupBatch, settings: LossConfig
    ) -> tuple[TokenTerms, torch.Tensor]:
        """The loss's inputs for a micro-batch, and the entropy `(tokens,)`."""
        where = device()
        mask = batch.completion_mask.flatten(0, 1)
        lengths = mask.sum(1)
        sequence = torch.arange(len(lengths), device=where).repeat_interleave(lengths)
        advantages = torch.tensor(np.concatenate([g.advantages for g in chunk]), dtype=torch.float32)
        behaviour = pack_rows([g.group.logprobs for g in chunk], batch.completion_mask)
        fresh = torch.from_numpy(np.concatenate([_fresh(g.group, self.version) for g in chunk]))
        answers = None
        if self._config.rapo.reads_answers:
            answers = answer_targets(chunk, settings.answer_std, len(self._symbols))
        if answers is not None:
            batch = replace(batch, answer_places=answers.places.to(where))
        reference, heard = self._reference_log_probs(batch)
        weight = self._config.rapo.reward.weight_listener
        if weight and answers is not None and heard is not None:
            advantages += weight * torch.from_numpy(listener_advantages(chunk, answers, heard.cpu().numpy())).float()
        advantages[torch.from_numpy(_masked(chunk, settings))] = 0.0
        log_probs, entropy, symbols = self.engine(batch)
        terms = TokenTerms(
            log_probs,
            behaviour.to(where),
            advantages.to(where)[sequence],
            sequence,
            lengths.to(where),
            reference,
            fresh.to(where) if self._first_update else torch.zeros_like(fresh).to(where),
            self._answer_terms(answers, symbols),
        )
        return terms, entropy

    def _answer_terms(self, answers: AnswerTargets | None, symbols: torch.Tensor | None) -> AnswerTerms | None:
        if answers is None or symbols is None or self._config.rapo.loss.answer != "soft_label":
            return None
        return AnswerTerms(answers.places.to(symbols.device), symbols, answers.labels.to(symbols.device))

    def _reference_log_probs(self, batch: GroupBatch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The reference policy's log-probs of the completion tokens, and those of the characters at
        the answers' places; None where they are not needed."""
        if not self._config.rapo.needs_reference:
            return None, None
        with torch.no_grad():
            if self._reference is not None:
                chosen, _, symbols = self._reference(batch)
            else:
                with without_adapters(self.engine.module):
                    chosen, _, symbols = self.engine(batch)
        return chosen, symbols

    def _batch(self, prepared: Sequence[Prepared], completions: Sequence[Sequence[NDArray[np.integer]]]) -> GroupBatch:
        batch = collate(prepared, completions, self.processor.tokenizer.pad_token_id)
        return batch.to(device(), torch_dtype(self._config.policy.dtype))

    def _idle_loss(self) -> torch.Tensor:
        """A forward pass whose loss is zero, for the collective calls of a micro-batch without
        groups."""
        from PIL import Image

        blank = self.processor.prepare(Image.new("RGB", (56, 56)))
        stop = [np.asarray(self.processor.stop_token_ids[:1], dtype=np.int64)]
        batch = self._batch([blank], [stop])
        if self._config.rapo.reads_answers:
            batch = replace(batch, answer_places=torch.zeros(0, dtype=torch.int64, device=device()))
        self._reference_log_probs(batch)  # its calls are collective too, under ZeRO-3 with LoRA
        log_probs, _, symbols = self.engine(batch)
        return (log_probs.sum() + (0.0 if symbols is None else symbols.sum())) * 0.0

    @property
    def packing_fallback(self) -> str | None:
        """Why the configured packing cannot be used; None where it is used."""
        return self.engine.module.fallback

    @property
    def published_chunks(self) -> int:
        """The number of chunks that `publish` makes. It depends only on the parameters' sizes and
        the number of ranks."""
        return chunk_count(self._published.values(), self._chunk_bytes)

    @property
    def published_tensors(self) -> int:
        """The number of tensors in this rank's share of a version."""
        return len(self._published)

    @property
    def state_bytes(self) -> int:
        """About the size of this rank's training state: a float32 copy and two moments of what
        trains."""
        trained = sum(getattr(p, "ds_numel", p.numel()) for p in self.engine.module.parameters() if p.requires_grad)
        return 12 * trained // self._world

    def load_state(self, folder: Path, *, universal: bool = False) -> None:
        """Continue from a state. Call it on all ranks together."""
        self._parking.come_back()
        self.version = load_state(self.engine, folder, universal=universal)

    def copy_state(self) -> int:
        """Copy this rank's training state to the host's memory; the copy's number. Call it on all
        ranks together."""
        self._parking.come_back()
        number = next(self._copy_numbers)
        self._copies[number] = copy_state(self.engine, version=self.version, pinned=self._pinned)
        return number

    def pack_state(self, number: int) -> StateFiles:
        """A copied state as bytes (`rapo.policy.state`), from any thread; the copy is gone then."""
        return pack_state(self._copies.pop(number))

    def unpack_state(self, *parts: StateFiles) -> None:
        """Continue from the bytes of this rank's state and, on other ranks than 0, of rank 0's."""
        self._parking.come_back()
        self.version = unpack_state(self.engine, *parts)

    def snapshot(self, version: int) -> None:
        """Copy this rank's share of the weights, so that `publish` can stream them from another
        thread while the next step changes them. Call it on all ranks together."""
        if self._published or self._config.learner.zero_stage == 3:
            pinned = self._pinned
            tensors = model_tensors(
                self.engine.module.model, names=self._published, copies=pinned is None, on_host=pinned is None
            )
            own = ((name, tensor) for name, tensor in tensors if tensor is not None)
            self._snapshots = {version: list(own) if pinned is None else pinned.copied(own, self._published.values())}

    def publish(self, version: int) -> Iterator[Any]:
        """The chunks, then the manifest, of this rank's share of a version (see
        `rapo.policy.weight_packing.pack`), whose tensors are `weights(version)`."""
        yield from pack(self.weights(version), version, self._chunk_bytes)

    def weights(self, version: int, *, on_host: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's share of the tensors of a version, by name.

        They come from the snapshot of `version`, or without one from the current weights, which
        stay on the device without `on_host`; under ZeRO-3 call it on all ranks then. Raises
        `WeightError` for a version before the current one without a snapshot.
        """
        if version in self._snapshots:
            yield from self._snapshots[version]
            return
        if version < self.version:
            raise WeightError(f"weight version {version} is gone, this learner is at {self.version}")
        self._parking.come_back()
        for name, tensor in model_tensors(self.engine.module.model, names=self._published, on_host=on_host):
            self._progress.advance()
            if tensor is not None:
                yield name, tensor


def _masked(chunk: Sequence[ScoredGroup], settings: LossConfig) -> NDArray[np.bool_]:
    """The completions `(completions,)` that the policy gradient leaves out."""
    masked = np.zeros(sum(len(g.advantages) for g in chunk), dtype=bool)
    if settings.mask_truncated:
        masked |= [reason == "length" for g in chunk for reason in g.group.finish_reasons]
    if settings.mask_invalid:
        masked |= np.isnan(np.concatenate([g.scores for g in chunk]))
    return masked


def _fresh(group: Group, version: int) -> NDArray[np.bool_]:
    """Whether each token of a group `(tokens,)`, its completions one after the other, was sampled
    from weight version `version`."""
    if group.token_versions is None:
        return np.full(sum(len(ids) for ids in group.token_ids), group.weight_version == version)
    return np.concatenate(group.token_versions) == version
