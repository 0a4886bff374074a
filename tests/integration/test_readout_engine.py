"""The reader on a real engine: its images, the tree of answers against plain transformers,
cancelling, and company."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

from rapo.answers.readout import ANSWERS, TEXTS
from rapo.config import Config, load_config
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LIMIT = 120.0


class Laboratory:
    """An actor with a reader in it, because vLLM wants an environment of its own."""

    def __init__(self, folder: str, config: Config) -> None:
        from rapo.inference.readout_engine import ReadoutEngine
        from rapo.inference.types import ReadoutRequest, SamplingSpec

        self._folder = folder
        self._reader = ReadoutEngine(folder, config.rollout.engine, dtype="float32")
        self._greedy = SamplingSpec(1, 0.0, 48, logprobs=False)
        self._ask = ReadoutRequest
        self._number = 0

    def encoded_images(self, images: list[bytes]) -> list[bool]:
        """For each image whether what the reader makes of it is what vLLM makes of it itself."""
        from vllm.multimodal.inputs import MultiModalKwargsItem

        from rapo.inference.image_inputs import features_of

        reader, engine, same = self._reader, self._reader._engine, []
        for number, data in enumerate(images):
            image = _open(data)
            own = reader.encode(image, f"image{number}")
            (feature,) = features_of(own, reader.processor.image_token_id)
            theirs = engine.input_processor.process_inputs(
                f"t{number}",
                {"prompt_token_ids": reader.processor.prompt_token_ids, "multi_modal_data": {"image": image}},
                reader._parameters(self._greedy, 0),
                supported_tasks=engine.get_supported_tasks(),
            )
            (other,) = theirs.mm_features
            assert isinstance(other.data, MultiModalKwargsItem)
            same.append(
                theirs.prompt_token_ids == own.prompt_ids
                and other.mm_position == feature.mm_position
                and other.data.keys() == feature.data.keys()
                and all(other.data[key] == feature.data[key] for key in other.data)
                and other.data["pixel_values"].data.dtype == feature.data["pixel_values"].data.dtype
            )
        return same

    def read(self, images: list[bytes], *, together: bool, **ask: Any) -> list[tuple[str, float, int]]:
        """`(text, mean, nodes)` of each image's tree."""
        reader, found, names = self._reader, {}, []
        for data in images:
            self._number += 1
            name = str(self._number)
            names.append(name)
            reader.add(name, reader.encode(_open(data), name), self._ask(self._greedy, tree=True, **ask), 0)
            while not together and reader.busy:
                found |= dict(reader.step())
        while reader.busy:
            found |= dict(reader.step())
        return [
            (reader.text(one.completions[0].token_ids), one.tree.expectation().mean, one.nodes)
            for one in (found[name] for name in names)
        ]

    def sampled(self, data: bytes, samples: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of so many answers of one request, and of as many requests of one answer, each
        with its own seed."""
        from rapo.inference.types import SamplingSpec

        reader, encoded = self._reader, self._reader.encode(_open(data), "sampled")
        reader.add("several", encoded, self._ask(SamplingSpec(samples, 1.5, 24, logprobs=False)), seed)
        for number in range(samples):
            reader.add(f"alone{number}", encoded, self._ask(SamplingSpec(1, 1.5, 24, logprobs=False)), seed + number)
        found = {}
        while reader.busy:
            found |= dict(reader.step())
        alone = [found[f"alone{number}"].completions[0].token_ids.tolist() for number in range(samples)]
        return [one.token_ids.tolist() for one in found["several"].completions], alone

    def brute_force(self, data: bytes, before: str) -> np.ndarray:
        """Probability of each of the 101 answers after `before`, by one plain forward pass per
        answer."""
        import torch
        from transformers import Qwen2_5_VLForConditionalGeneration

        processor = self._reader.processor
        policy = Qwen2_5_VLForConditionalGeneration.from_pretrained(self._folder, dtype=torch.float32)
        prepared = processor.prepare(_open(data))
        banned = torch.zeros(policy.config.text_config.vocab_size)
        banned[processor.banned_token_ids] = -100.0
        start = processor.tokenizer(before, add_special_tokens=False)["input_ids"]
        logs = []
        for text in TEXTS:
            answer = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prepared.prompt_ids.tolist(), *start, *answer]])
            with torch.no_grad():
                logits = policy(
                    input_ids=ids,
                    mm_token_type_ids=(ids == processor.image_token_id).int(),
                    pixel_values=torch.from_numpy(prepared.pixels),
                    image_grid_thw=torch.from_numpy(prepared.grid)[None],
                ).logits[0]
            told = torch.log_softmax(logits + banned, dim=-1)[-len(answer) - 1 : -1]
            logs.append(float(told.gather(1, torch.tensor(answer)[:, None]).sum()))
        return np.exp(np.array(logs))

    def cancel(self, images: list[bytes]) -> tuple[int, int, bool]:
        """Cancel all but the first in the midst of it: requests left in vLLM right after, blocks in
        use at the end, and whether the first was answered."""
        reader, names = self._reader, [f"c{number}" for number in range(len(images))]
        for name, data in zip(names, images, strict=True):
            reader.add(name, reader.encode(_open(data), name), self._ask(self._greedy, tree=True), 0)
        for _ in range(3):
            reader.step()
        for name in names[1:]:
            reader.cancel(name)
        scheduler = reader._engine.engine_core.engine_core.scheduler
        left = scheduler.get_num_unfinished_requests()
        found = {}
        while reader.busy:
            found |= dict(reader.step())
        reader._core.step()
        used = scheduler.kv_cache_manager.block_pool
        return left, used.num_gpu_blocks - 1 - used.get_num_free_blocks(), set(found) == {names[0]}


def _open(data: bytes) -> Image.Image:
    from rapo.images.decode import decode_image

    return decode_image(data)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    made = []
    for seed, (width, height) in enumerate([(84, 84), (300, 200), (64, 500), (40, 41), (84, 84), (120, 90)]):
        shade = (20, 230)[seed % 2] + np.random.default_rng(seed).integers(-15, 15, (height, width, 3))
        buffer = io.BytesIO()
        Image.fromarray(shade.astype(np.uint8)).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


@pytest.fixture(scope="module")
def laboratory(taught_model: Path, local_ray: None) -> Iterator[Any]:
    from rapo.inference.environment import engine_environment

    config = load_config(None, SMALL)
    options = {"num_cpus": 1, "runtime_env": {"env_vars": engine_environment(1, 1.0)}}
    actor = ray.remote(**options)(Laboratory).remote(str(taught_model), config)
    yield actor
    ray.kill(actor)


def test_images_are_what_vllm_makes_of_them(laboratory: Any, images: list[bytes]) -> None:
    assert ray.get(laboratory.encoded_images.remote(images), timeout=LIMIT) == [True] * len(images)


@pytest.mark.parametrize("rationale", [True, False])
def test_the_tree_is_that_of_plain_transformers(laboratory: Any, images: list[bytes], rationale: bool) -> None:
    for data in images[:2]:
        ((text, mean, _),) = ray.get(laboratory.read.remote([data], together=True, rationale=rationale), timeout=LIMIT)
        before = text.partition("<answer>")[0] + "<answer>" if rationale else "<think></think><answer>"
        assert before.startswith("<think>")
        p = ray.get(laboratory.brute_force.remote(data, before), timeout=LIMIT)
        assert mean == pytest.approx(float(p @ ANSWERS / p.sum()), abs=1e-6)


def test_company_and_repetition_change_nothing(laboratory: Any, images: list[bytes]) -> None:
    together = ray.get(laboratory.read.remote(images * 4, together=True), timeout=LIMIT)
    alone = ray.get(laboratory.read.remote(images, together=False), timeout=LIMIT)
    assert together == alone * 4
    assert len({mean for _, mean, _ in alone}) > 1


def test_each_sampled_answer_is_that_of_its_own_seed(laboratory: Any, images: list[bytes]) -> None:
    several, alone = ray.get(laboratory.sampled.remote(images[0], 4, 40), timeout=LIMIT)
    assert several == alone
    assert len({tuple(ids) for ids in several}) > 1


def test_what_is_cancelled_leaves_nothing_behind(laboratory: Any, images: list[bytes]) -> None:
    left, blocks, answered = ray.get(laboratory.cancel.remote(images), timeout=LIMIT)
    assert answered
    assert left == 1
    assert blocks == 0
