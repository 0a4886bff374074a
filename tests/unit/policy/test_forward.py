"""GroupPolicy: the shared prefix changes only the time, not the log-probs and gradients."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from builders import make_image

from rapo.policy import forward
from rapo.policy.batch import collate, pack_rows
from rapo.policy.forward import GroupPolicy
from rapo.policy.trainer import load_model

TEMPERATURE = 0.7
TOLERANCE = 1e-5
SAME_SIZE, OTHER_SIZES = ((84, 84), (84, 84)), ((84, 84), (56, 56), (112, 56))


@pytest.fixture(scope="module")
def model(tiny_model):
    """The tiny model with larger weights. With fresh weights attention is nearly uniform, so that
    positions hardly matter."""
    loaded = load_model(tiny_model, "float32")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 1.2 / math.sqrt(parameter[0].numel()), generator=generator)
    return loaded


def make_batch(processor, sizes, lengths, seed=0):
    """One image per size; `lengths[k]` tokens in the k-th completion of each (sampled from the
    first 40 plain tokens)."""
    rng = np.random.default_rng(seed)
    prepared = [processor.prepare(make_image(w, h, seed=i)) for i, (w, h) in enumerate(sizes)]
    completions = [[rng.integers(20, 60, n) for n in lengths] for _ in sizes]
    return collate(prepared, completions, processor.tokenizer.pad_token_id)


def run(model, processor, batch, packing):
    """Log-probs, entropy and all gradients of a weighted sum of the log-probs."""
    policy = GroupPolicy(model, processor.banned_token_ids, temperature=TEMPERATURE, packing=packing)
    model.zero_grad(set_to_none=True)
    log_probs, entropy, _ = policy(batch)
    (log_probs * torch.linspace(-1.0, 2.0, len(log_probs))).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return log_probs.detach(), entropy, gradients


def distance(one, other):
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [(SAME_SIZE, (5, 5)), (OTHER_SIZES, (1, 7, 4)), (OTHER_SIZES, (6,)), (OTHER_SIZES, (1, 1)), (((56, 84),), (3, 2))],
    ids=["same size", "padded", "one completion", "one token", "one image"],
)
def test_prefix_equals_rows_in_log_probs_and_gradients(model, processor, sizes, lengths):
    batch = make_batch(processor, sizes, lengths)
    assert bool((batch.prompt_mask == 0).any()) == (sizes is OTHER_SIZES)
    rows, rows_entropy, rows_gradients = run(model, processor, batch, "rows")
    prefix, prefix_entropy, prefix_gradients = run(model, processor, batch, "prefix")
    assert rows.shape == (len(sizes) * sum(lengths),)
    assert distance(prefix, rows) < TOLERANCE
    assert distance(prefix_entropy, rows_entropy) < TOLERANCE
    assert prefix_gradients.keys() == rows_gradients.keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in rows_gradients.items():
        assert gradient.abs().max() > 0, name
        # Single entries of a gradient may cancel to rounding; the tensor as a whole must agree.
        assert float((prefix_gradients[name] - gradient).norm() / gradient.norm()) < TOLERANCE, name


def test_gradient_checkpointing_changes_nothing_and_recomputes(model, processor, monkeypatch):
    batch = make_batch(processor, OTHER_SIZES, (1, 7, 4))
    plain = run(model, processor, batch, "prefix")
    calls = []
    layer = type(model.model.language_model.layers[0])
    ordinary = layer.forward

    def counted(self, *args, **kwargs):
        calls.append(1)
        return ordinary(self, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", counted)
    model.gradient_checkpointing_enable()
    model.train()
    try:
        again = run(model, processor, batch, "prefix")
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
    assert len(calls) == 2 * len(model.model.language_model.layers)
    assert distance(again[0], plain[0]) < TOLERANCE
    for name, gradient in plain[2].items():
        assert float((again[2][name] - gradient).norm() / gradient.norm()) < TOLERANCE, name


def test_a_model_that_cannot_share_falls_back_to_rows_and_says_why(tiny_model, processor):
    windowed = load_model(tiny_model, "float32")
    windowed.config.get_text_config().layer_types[0] = "sliding_attention"
    policy = GroupPolicy(windowed, [], packing="prefix")
    assert policy.packing == "rows"
    assert policy.fallback is not None
    assert "sliding_attention" in policy.fallback
    batch = make_batch(processor, SAME_SIZE, (3, 2))
    windowed.config.get_text_config().layer_types[0] = "full_attention"
    with torch.no_grad():
        assert distance(policy(batch)[0], GroupPolicy(windowed, [], packing="rows")(batch)[0]) < TOLERANCE
    assert GroupPolicy(windowed, [], packing="prefix").fallback is None


@pytest.mark.parametrize("packing", ["prefix", "rows"])
def test_a_group_does_not_depend_on_its_neighbours(model, processor, packing):
    """Padding and the other images' features must have no effect."""
    together = make_batch(processor, OTHER_SIZES, (4, 6))
    policy = GroupPolicy(model, [], packing=packing)
    with torch.no_grad():
        whole = policy(together)[0].split(10)
        for g, size in enumerate(OTHER_SIZES):
            mask = together.completion_mask[g]
            ids = [together.completion_ids[g, k][mask[k]].numpy() for k in range(2)]
            alone = collate([processor.prepare(make_image(*size, seed=g))], [ids], processor.tokenizer.pad_token_id)
            assert distance(policy(alone)[0], whole[g]) < TOLERANCE


@pytest.mark.parametrize("packing", ["prefix", "rows"])
def test_log_probs_are_those_of_the_plain_model(model, processor, packing):
    """Against transformers' own forward pass with logits, one completion behind its prompt."""
    batch = make_batch(processor, ((84, 56),), (6,))
    ids = torch.cat([batch.prompt_ids, batch.completion_ids[:, 0]], dim=1)
    banned = processor.banned_token_ids
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            **processor.family.merge(batch.images),
            mm_token_type_ids=(ids == processor.image_token_id).int(),
        ).logits[0, batch.prompt_ids.shape[1] - 1 : -1]
        logits[:, banned] -= 100.0
        all_log_probs = torch.log_softmax(logits / TEMPERATURE, dim=-1)
        expected = all_log_probs.gather(-1, batch.completion_ids[0, 0][:, None])[:, 0]
        policy = GroupPolicy(model, banned, temperature=TEMPERATURE, packing=packing)
        log_probs, entropy, _ = policy(batch)
    assert distance(log_probs, expected) < TOLERANCE
    assert distance(entropy, -(all_log_probs.exp() * all_log_probs).sum(-1)) < TOLERANCE


def test_a_wrong_position_changes_the_log_probs(model, processor, monkeypatch):
    """The comparison above must be able to fail: with positions off by one the log-probs differ."""
    batch = make_batch(processor, OTHER_SIZES, (5, 5))
    rows, _, _ = run(model, processor, batch, "rows")
    ordinary = forward.pack_groups

    def shifted(*args):
        packed = ordinary(*args)
        positions = packed.positions.clone()
        positions[:, packed.layout.prefix_tokens :] += 1
        return dataclasses.replace(packed, positions=positions)

    monkeypatch.setattr(forward, "pack_groups", shifted)
    prefix, _, _ = run(model, processor, batch, "prefix")
    assert distance(prefix, rows) > 1000 * TOLERANCE


def test_completions_see_the_image(model, processor):
    batch = make_batch(processor, ((84, 84),), (5,))
    other = processor.prepare(make_image(seed=9))
    changed = collate([other], [[batch.completion_ids[0, 0].numpy()]], processor.tokenizer.pad_token_id)
    policy = GroupPolicy(model, [])
    with torch.no_grad():
        assert distance(policy(changed)[0], policy(batch)[0]) > 1000 * TOLERANCE


def test_a_flat_head_has_the_entropy_of_the_allowed_tokens(tiny_model, processor):
    flat = load_model(tiny_model, "float32")
    torch.nn.init.zeros_(flat.lm_head.weight)
    banned = processor.banned_token_ids
    batch = make_batch(processor, ((56, 56),), (3, 2))
    log_probs, entropy, _ = GroupPolicy(flat, banned, temperature=TEMPERATURE)(batch)
    allowed = math.log(flat.config.text_config.vocab_size - len(banned))
    torch.testing.assert_close(entropy, torch.full((5,), allowed), rtol=1e-5, atol=0)
    torch.testing.assert_close(log_probs, torch.full((5,), -allowed), rtol=1e-5, atol=0)
    assert not entropy.requires_grad
    assert log_probs.requires_grad


def test_banned_tokens_have_no_probability(model, processor):
    stop = np.asarray([processor.stop_token_ids[0], processor.image_token_id, 30])
    batch = collate([processor.prepare(make_image())], [[stop]], processor.tokenizer.pad_token_id)
    log_probs, _, _ = GroupPolicy(model, processor.banned_token_ids)(batch)
    assert log_probs[1] < -80
    assert log_probs[0] > -20
    assert log_probs[2] > -20


def test_logits_in_pieces_are_the_same(model, processor, monkeypatch):
    batch = make_batch(processor, SAME_SIZE, (5, 4))
    whole = run(model, processor, batch, "prefix")
    monkeypatch.setattr(forward, "_LOGIT_ELEMENTS", 4 * model.config.text_config.vocab_size)
    pieces = run(model, processor, batch, "prefix")
    assert distance(pieces[0], whole[0]) < TOLERANCE
    assert distance(pieces[1], whole[1]) < TOLERANCE
    for name, gradient in whole[2].items():
        assert float((pieces[2][name] - gradient).norm() / gradient.norm()) < TOLERANCE, name


def test_collate_pads_prompts_left_and_completions_right(processor):
    small, large = (processor.prepare(make_image(side, side)) for side in (56, 84))
    ids = [[np.array([30, 31, 32]), np.array([33])], [np.array([34]), np.array([35, 36])]]
    batch = collate([small, large], ids, pad=0)
    short = len(small.prompt_ids)
    assert batch.prompt_ids.shape == (2, len(large.prompt_ids))
    assert batch.prompt_ids[0, -short:].tolist() == small.prompt_ids.tolist()
    assert batch.prompt_mask.sum(1).tolist() == [short, len(large.prompt_ids)]
    assert batch.prompt_mask[0, :-short].sum() == 0
    assert batch.completion_ids.tolist() == [[[30, 31, 32], [33, 0, 0]], [[34, 0, 0], [35, 36, 0]]]
    assert batch.completion_ids[batch.completion_mask].tolist() == list(range(30, 37))
    for image in batch.images:
        assert len(image["patches"]) == int(image["image_grid_thw"].prod())


def test_per_token_values_follow_the_mask(processor):
    ids = [[np.array([30, 31]), np.array([32])], [np.array([33]), np.array([34, 35])]]
    batch = collate([processor.prepare(make_image(seed=i)) for i in range(2)], ids, pad=0)
    packed = pack_rows([[row / 10 for row in group] for group in ids], batch.completion_mask)
    torch.testing.assert_close(packed, batch.completion_ids[batch.completion_mask].float() / 10)
    with pytest.raises(ValueError, match="2 per-token values for 6 completion tokens"):
        pack_rows([[np.array([0.1, 0.2])]], batch.completion_mask)
