"""PolicyTrainer and SupervisedTrainer under DeepSpeed, in a world of one process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import gathered, group, make_image, png, scored

from rapo.algorithm.answer_path import path_moments
from rapo.algorithm.partition import Share
from rapo.answers.parse import format_completion
from rapo.answers.readout import SYMBOLS
from rapo.config import load_config
from rapo.families.inputs import Prepared
from rapo.policy.answers import answer_targets, listener_advantages
from rapo.policy.batch import collate, pack_rows
from rapo.policy.distributed import OptimizerSettings, learning_rate_factor
from rapo.policy.forward import GroupPolicy
from rapo.policy.loss import Normalizer, TokenTerms, policy_loss
from rapo.policy.processing import PolicyProcessor
from rapo.policy.sft import Example, SupervisedTrainer, endless
from rapo.policy.trainer import PolicyTrainer, load_model
from rapo.policy.weight_packing import unpack
from rapo.records import AnswerNodes

SIZES = {"a": (84, 84), "b": (56, 56), "c": (112, 56), "d": (84, 84)}
IMAGES = {uid: png(*size, seed=i) for i, (uid, size) in enumerate(SIZES.items())}
ADVANTAGES = {"a": (1.0, -1.0, 0.5), "b": (-0.5, 0.5, 2.0), "c": (0.0, -1.0, 1.0), "d": (0.3, 0.2, -0.5)}
FINE = ["rapo.warmup_steps=0", "rapo.schedule=constant", "learner.max_grad_norm=1e9", "rapo.learning_rate=1e-3"]


pytestmark = pytest.mark.usefixtures("world")


def batch_of_groups(uids="abcd"):
    """Groups with random tokens, and behaviour log-probs that leave some tokens inside and some
    outside the clip bounds."""
    rng = np.random.default_rng(0)
    groups = []
    for uid in uids:
        ids = [rng.integers(20, 60, n) for n in (4, 2, 6)]
        made = group(uid, token_ids=ids, logprobs=[-6.0 + rng.normal(0, 0.2, len(row)) for row in ids])
        groups.append(scored(made, ADVANTAGES[uid]))
    return groups


def share(groups, micro_batches, counted=None):
    counted = groups if counted is None else counted
    return Share(tuple(groups), micro_batches, 3 * len(counted), 12 * len(counted))


def trainer(tiny_model, *overrides):
    return PolicyTrainer(str(tiny_model), load_config(None, [*FINE, *overrides]), world=1)


def weights(made):
    return {name: p.detach().clone() for name, p in made.engine.module.model.named_parameters()}


def update(made, *shares):
    """The change of the weights over steps on `shares`, as one vector, and the last metrics."""
    before = weights(made)
    for one in shares:
        metrics = made.step(one, IMAGES)
    after = weights(made)
    return torch.cat([(after[name] - before[name]).flatten() for name in before]), metrics


@pytest.mark.parametrize("zero", [0, 2])
def test_micro_batches_change_nothing_and_the_loss_is_that_of_plain_autograd(tiny_model, zero):
    groups = batch_of_groups()
    whole, one = update(trainer(tiny_model, f"learner.zero_stage={zero}"), share(groups, 1))
    parts, two = update(trainer(tiny_model, f"learner.zero_stage={zero}"), share(groups, 2))
    assert whole.norm() > 0
    # Adam divides by |g|, which blows up rounding where g is tiny.
    assert float((whole - parts).norm() / whole.norm()) < 1e-2
    assert two == pytest.approx(one, rel=1e-4)
    loss, norm = plain_loss(tiny_model, groups)
    assert one["loss"] == pytest.approx(loss, rel=1e-4)
    if zero == 0:  # DeepSpeed has no norm there
        assert "grad_norm" not in one
    else:  # Adam hides a wrong scale of the gradient, its norm does not
        assert one["grad_norm"] == pytest.approx(norm, rel=1e-4)


def plain_loss(tiny_model, groups):
    """Loss and gradient norm by plain autograd, without DeepSpeed."""
    config = load_config(None, FINE)
    processor = PolicyProcessor(tiny_model)
    policy = GroupPolicy(load_model(tiny_model, "float32"), processor.banned_token_ids, packing="rows")
    prepared = [processor.prepare(make_image(*SIZES[g.group.image_uid], seed=i)) for i, g in enumerate(groups)]
    batch = collate(prepared, [g.group.token_ids for g in groups], processor.tokenizer.pad_token_id)
    lengths = batch.completion_mask.flatten(0, 1).sum(1)
    sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
    advantages = torch.tensor(np.concatenate([g.advantages for g in groups]), dtype=torch.float32)
    log_probs, _, _ = policy(batch)
    behaviour = pack_rows([g.group.logprobs for g in groups], batch.completion_mask)
    terms = TokenTerms(log_probs, behaviour, advantages[sequence], sequence, lengths)
    loss, _ = policy_loss(terms, config.rapo.loss, Normalizer(len(lengths), len(sequence), 64))
    loss.backward()
    return loss.item(), float(torch.stack([p.grad.norm() for p in policy.parameters()]).norm())


def test_a_rank_without_groups_moves_nothing(tiny_model):
    moved, metrics = update(trainer(tiny_model), share([], 2, counted=batch_of_groups()))
    assert not moved.any()
    assert metrics["loss"] == 0.0
    assert metrics["grad_norm"] == 0.0


def test_an_idle_micro_batch_adds_nothing(tiny_model):
    groups = batch_of_groups("a")
    alone, one = update(trainer(tiny_model), share(groups, 1))
    padded, three = update(trainer(tiny_model), share(groups, 3))
    assert torch.equal(alone, padded)
    assert three == pytest.approx(one)


def test_a_frozen_vision_tower_stays(tiny_model):
    made = trainer(tiny_model, "learner.freeze_vision=true")
    before = weights(made)
    made.step(share(batch_of_groups(), 1), IMAGES)
    after = weights(made)
    vision = {name for name in before if ".visual." in name}
    assert vision
    assert all(torch.equal(before[name], after[name]) for name in vision)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == before.keys() - vision


def test_truncated_completions_can_be_masked(tiny_model):
    groups = batch_of_groups("a")
    cut = [scored(group("a", token_ids=g.group.token_ids, logprobs=g.group.logprobs, finish=("length",) * 3), g.advantages)
           for g in groups]  # fmt: skip
    moved, _ = update(trainer(tiny_model, "rapo.loss.mask_truncated=true"), share(cut, 1))
    assert not moved.any()
    moved, _ = update(trainer(tiny_model), share(cut, 1))
    assert moved.any()


def with_answers(processor, uid, target, texts):
    """A scored group without advantages, whose completions are these answers behind a rationale."""
    ids = [processor.encode_completion(format_completion("the light is even; ", float(text))) for text in texts]
    made = group(uid, token_ids=ids, logprobs=[np.full(len(row), -1.0) for row in ids], target=target)
    tokens, answers = processor.answer_tokens, []
    for text, row in zip(texts, ids, strict=True):
        written = tokens.written(text)[:-1]
        start = next(i for i in range(len(row)) if row[i : i + len(written)].tolist() == written)
        answers.append(AnswerNodes(start, text, np.full((len(written), len(tokens.read)), -3.0, np.float32)))
    return scored(replace(made, answers=tuple(answers)), (0.0,) * len(texts))


@pytest.mark.parametrize("model", ["tiny_model", "joined_model"])
def test_soft_labels_move_the_expected_answer_towards_the_human_score(request, model):
    """Without any advantage, and although the sampled answers are far off."""
    made = trainer(request.getfixturevalue(model), "rapo.loss.kl_beta=0", "learner.zero_stage=0")
    groups = [with_answers(made.processor, uid, target, ("0.10", "0.95")) for uid, target in (("a", 0.9), ("b", 0.3))]

    def expected():
        chunk = made._batch(
            [made._preparation.prepare(IMAGES[g.group.image_uid]) for g in groups], [g.group.token_ids for g in groups]
        )
        tokens = made.processor.answer_tokens
        found = answer_targets(groups, 0.05, len(tokens.read))
        with torch.no_grad():
            symbols = made.engine(replace(chunk, answer_places=found.places))[2]
        rows = symbols.double().numpy().reshape(-1, tokens.length, len(tokens.read))
        heard = [replace(a, logprobs=row) for a, row in zip(found.answers, rows, strict=True)]
        return path_moments(heard)[0]

    before = expected()
    losses = [made.step(share(groups, 1), IMAGES)["loss"] for _ in range(30)]
    after = expected()
    assert losses[-1] < losses[0]
    assert np.abs(after - [0.9, 0.9, 0.3, 0.3]).mean() < np.abs(before - [0.9, 0.9, 0.3, 0.3]).mean() - 0.05


def test_the_listener_prefers_the_rationale_that_tells_the_score(tiny_model):
    made = trainer(tiny_model, "rapo.reward.weight_listener=1")
    one = with_answers(made.processor, "a", 0.9, ("0.90", "0.20"))
    found = answer_targets([one], 0.05, 12)
    assert found.owners.tolist() == [0, 1]
    rows = np.full((8, 12), -30.0, np.float32)
    for row, symbol in enumerate("0.90" + "0.20"):
        rows[row, SYMBOLS.index(symbol)] = 0.0
    high, low = listener_advantages([one], found, rows)
    assert high > 0 > low
    silent = scored(replace(one.group, answers=(one.group.answers[0], None)), (0.0, 0.0))
    assert listener_advantages([silent], answer_targets([silent], 0.05, 12), rows[:4])[1] < 0
    moved, _ = update(trainer(tiny_model, "rapo.reward.weight_listener=1", "rapo.loss.kl_beta=0"), share([one], 1))
    still, _ = update(trainer(tiny_model, "rapo.loss.kl_beta=0"), share([one], 1))
    assert not torch.equal(moved, still)


def test_kl_is_measured_from_the_start_of_training(tiny_model):
    made = trainer(tiny_model, "rapo.loss.kl_beta=0.1")
    groups = batch_of_groups("ab")
    assert made.step(share(groups, 1), IMAGES)["kl"] == pytest.approx(0.0, abs=1e-6)
    assert made.step(share(groups, 1), IMAGES)["kl"] > 1e-4
    assert made.version == 2


def test_published_weights_are_the_trained_ones(tiny_model):
    made = trainer(tiny_model, "learner.chunk_mib=1")
    made.step(share(batch_of_groups("a"), 1), IMAGES)
    *chunks, manifest = made.publish(1)
    published = dict(unpack(manifest, chunks))
    assert manifest.version == 1
    assert len(chunks) > 1
    assert all(torch.equal(published[name], tensor) for name, tensor in weights(made).items())
    assert published.keys() == weights(made).keys()


def test_the_cold_start_learns_its_examples(tiny_model):
    config = load_config(
        None,
        ["coldstart.batch_size=2", "coldstart.warmup_steps=0", "coldstart.freeze_vision=true", "coldstart.steps=12"],
    )
    made = SupervisedTrainer(str(tiny_model), config, world=1)
    examples = [made.example(IMAGES[uid], f"image {uid}", score) for uid, score in (("a", 0.2), ("b", 0.9))]
    assert made.processor.decode(examples[0].target) == format_completion("image a", 0.2)
    before = {name: tensor.clone() for name, tensor in gathered(made.tensors()).items()}
    losses = [made.step(examples) for _ in range(12)]
    assert losses[0] == pytest.approx(np.log(384), rel=0.05), "fresh weights know nothing"
    assert losses[-1] < 0.7 * losses[0]
    still = {name for name, tensor in made.tensors() if torch.equal(tensor, before[name])}
    assert still == {name for name in before if ".visual." in name}


def settings(schedule, steps=10, warmup=4):
    return OptimizerSettings(1e-3, 0.0, 1.0, 2, steps=steps, warmup_steps=warmup, schedule=schedule)


def test_learning_rates_warm_up_and_decay():
    for schedule, last in (("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)):
        factor = learning_rate_factor(settings(schedule))
        assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
        assert factor(4) == 1.0
        assert factor(10) == factor(99) == pytest.approx(last, abs=1e-6)
    assert learning_rate_factor(settings("linear"))(7) == pytest.approx(0.5)
    assert learning_rate_factor(settings("cosine"))(7) == pytest.approx(0.5)
    assert learning_rate_factor(settings("linear", warmup=0))(0) == 1.0


def examples(count, size=10):
    empty = np.zeros(0, dtype=np.int64)
    prepared = Prepared({"pixel_values": np.zeros(size, np.float32)}, empty)
    return [Example(prepared, np.array([i]), 0.5) for i in range(count)]


def test_small_sets_are_read_once_and_then_reshuffled():
    passes = []

    def epochs():
        while True:
            passes.append(1)
            yield iter(examples(6))

    stream = endless(epochs(), 2, 2**20, seed=0)
    read = [int(e.target[0]) for _ in range(9) for e in next(stream)]
    assert len(passes) == 1
    assert read[:6] == list(range(6))
    assert sorted(read[6:12]) == sorted(read[12:18]) == list(range(6))
    assert read[6:12] != read[12:18]


def test_large_sets_are_read_again_and_batches_span_passes():
    passes = []

    def epochs():
        while True:
            passes.append(1)
            yield iter(examples(5, size=1000))

    stream = endless(epochs(), 3, 6000, seed=0)
    read = [int(e.target[0]) for _ in range(5) for e in next(stream)]
    assert read == list(range(5)) * 3
    assert len(passes) == 3
