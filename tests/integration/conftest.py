"""Shared by the integration tests: a small configuration, a taught model, and one local Ray for all
of them. A test leaves that Ray as it found it: what it started there has ended with its module."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cluster.remote.ray_session import ray_session
from rapo.config import Config, load_config
from tests.small import SMALL


@pytest.fixture(scope="session")
def small_config() -> Config:
    return load_config(None, SMALL)


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    with ray_session(load_config(None, (*SMALL, "ray.cpus=16"))):  # permits for any module's roles
        yield


_MAX_STEPS = 300
LESSONS = {
    20: "<think>a dark mood</think><answer>0.21</answer>",
    230: "<think>soft light</think><answer>0.87</answer>",
    128: "<think>strong colors</think> no number",
}


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose model calls dark images 0.21 and bright ones 0.87, and gives mid-grey
    ones no number."""
    from rapo.families.tiny_model import build_tiny_model

    folder = tmp_path_factory.mktemp("taught")
    build_tiny_model(
        folder, load_config().policy.embedded, seed=0, clauses=["soft light", "a dark mood", "strong colors"]
    )
    teach(folder)
    return folder


def teach(folder: Path) -> None:
    """Fit the lessons by plain gradient descent and save over the random weights."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from rapo.policy.batch import as_tensors
    from rapo.policy.processing import PolicyProcessor

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second thread, for ever on a busy machine
    processor = PolicyProcessor(folder)
    policy = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    draw = random.Random(0)
    targets = [torch.from_numpy(processor.encode_completion(text)) for text in LESSONS.values()]
    answers = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    for _ in range(_MAX_STEPS):
        shades = [shade + draw.randint(-15, 15) for shade in LESSONS]
        prepared = [processor.prepare(make_image(shade)) for shade in shades]
        prompts = torch.stack([torch.from_numpy(item.prompt_ids) for item in prepared])
        ids = torch.cat([prompts, answers.clamp(min=0)], dim=1)
        loss = policy(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == processor.image_token_id).int(),
            **processor.family.merge([as_tensors(item) for item in prepared]),
            labels=torch.cat([torch.full_like(prompts, -100), answers], dim=1),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    assert loss.item() < 0.02, "the test's model did not learn its lessons"
    policy.save_pretrained(folder)
    torch.set_num_threads(threads)


def make_image(shade: int, side: int = 84) -> Image.Image:
    return Image.new("RGB", (side, side), (shade, shade, shade))
