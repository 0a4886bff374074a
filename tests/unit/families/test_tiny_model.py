"""Tiny model: the same bytes for the same arguments, its size and its tokenizer."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from builders import CLAUSES

from rapo.aescot.writer import phrases
from rapo.config import TinyModelConfig
from rapo.families.tiny_model import build_tiny_model
from rapo.families.tiny_prompt import PATCH, SPECIAL_TOKENS
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default") / "model"
    build_tiny_model(folder, TinyModelConfig(), 0, phrases())
    return folder


def test_the_same_arguments_give_the_same_bytes(tiny_model, tmp_path):
    settings = TinyModelConfig(hidden_size=64, text_layers=2, vocabulary=384)
    build_tiny_model(tmp_path / "same", settings, 0, CLAUSES)
    build_tiny_model(tmp_path / "other", settings, 1, CLAUSES)
    assert digests(tmp_path / "same") == digests(tiny_model)
    different = {name for name, digest in digests(tmp_path / "other").items() if digest != digests(tiny_model)[name]}
    assert different == {"model.safetensors"}


def test_building_leaves_the_random_state_alone(tmp_path):
    state = torch.random.get_rng_state()
    build_tiny_model(tmp_path, TinyModelConfig(hidden_size=64, text_layers=1, vocabulary=384), 5, CLAUSES)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_default_is_a_qwen_of_about_a_million_parameters(default):
    model = load_model(default, "float32")
    text = model.config.text_config
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.8e6
    assert model.config.model_type == "qwen2_5_vl"
    head = text.hidden_size // text.num_attention_heads
    assert head == 32, "vLLM's CPU attention takes heads of 32 and more"
    assert sum(text.rope_parameters["mrope_section"]) == head // 2
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert len(model.lm_head.weight) == text.vocab_size


def test_the_patch_embedding_answers_to_all_frequencies_of_an_image_alike(default):
    """The amplitude of an image's frequencies falls as 1/f."""
    model = load_model(default, "float32")
    embed = model.model.visual.patch_embed
    waves = torch.arange(PATCH)
    places = math.pi * (2 * waves + 1) / (2 * PATCH)
    answers = []
    for frequency in (1, 3, 6, 12):
        pattern = torch.cos(frequency * places).outer(torch.cos(frequency * places)) / frequency
        patch = pattern.expand(3, 2, PATCH, PATCH).reshape(1, -1)
        answers.append(embed(patch).detach().square().mean().sqrt().item())
    assert max(answers) < 1.6 * min(answers), answers


def test_special_tokens_have_the_first_ids(default):
    tokenizer = PolicyProcessor(default).tokenizer
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))


def test_a_score_is_four_tokens_and_a_clause_few(default):
    processor = PolicyProcessor(default)
    frame = processor.encode_completion("<think></think><answer>0.42</answer>")
    assert [processor.decode(ids[None]) for ids in frame[:-1]] == [
        "<think>", "</think>", "<answer>", "0", ".", "4", "2", "</answer>",
    ]  # fmt: skip
    clauses = [clause for clause in phrases() if clause.strip()]
    lengths = [len(processor.encode_completion(clause)) - 1 for clause in clauses]
    assert sum(lengths) / len(lengths) < 4


def test_any_text_survives_the_tokenizer(processor):
    text = "Ein schöner Abend – 日本の夕焼け 🌅 </think> 0.10"
    assert processor.decode(processor.encode_completion(text)) == text
