"""ReadoutEngine on real vLLM: its images and its tree of answers against plain transformers,
cancelling, and requests side by side."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from PIL import Image

from rapo.answers.readout import ANSWERS, CLOSED, NUMBERS, TEXTS
from rapo.config import Config, load_config
from rapo.inference.image_inputs import features_of
from tests.limits import PATIENCE_S
from tests.small import SMALL

if TYPE_CHECKING:
    from rapo.inference.types import ReadoutResult

pytestmark = [pytest.mark.integration]

LIMIT = PATIENCE_S


class Laboratory:
    """An actor that holds the engine, because vLLM needs an environment of its own."""

    def __init__(self, folder: str, config: Config) -> None:
        from rapo.inference.readout_engine import ReadoutEngine
        from rapo.inference.types import ReadoutRequest, SamplingSpec

        self._folder = folder
        self._engine = ReadoutEngine(folder, config.rollout.engine, dtype="float32")
        self._greedy = SamplingSpec(1, 0.0, 48, logprobs=False)
        self._request = ReadoutRequest
        self._number = 0

    def encoded_images(self, images: list[bytes]) -> list[bool]:
        """Whether each encoded image equals what vLLM itself makes of it."""
        from vllm.multimodal.inputs import MultiModalKwargsItem

        engine, vllm, same = self._engine, self._engine._engine, []
        for number, data in enumerate(images):
            image = _open(data)
            own = engine.encode(np.array(image), f"image{number}")
            (feature,) = features_of(own, engine.processor)
            theirs = vllm.input_processor.process_inputs(
                f"t{number}",
                {"prompt_token_ids": engine.processor.prompt_token_ids, "multi_modal_data": {"image": image}},
                engine._parameters(self._greedy, 0),
                supported_tasks=vllm.get_supported_tasks(),
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

    def read(self, images: list[bytes], *, together: bool, rationale: bool = True) -> list[tuple[str, float, int]]:
        """`(text, mean, nodes)` of each image's tree."""
        engine, names = self._engine, []
        found: dict[str, ReadoutResult] = {}
        for data in images:
            self._number += 1
            name = str(self._number)
            names.append(name)
            engine.add(
                name, engine.encode(_pixels(data), name), self._request(self._greedy, tree=True, rationale=rationale), 0
            )
            while not together and engine.busy:
                found |= dict(engine.step())
        while engine.busy:
            found |= dict(engine.step())
        read = []
        for name in names:
            one = found[name]
            assert one.tree is not None
            text = "".join(engine.text(completion.token_ids) for completion in one.completions)
            read.append((text, one.tree.expectation().mean, one.nodes))
        return read

    def trees(self, data: bytes, lengths: list[int], *, in_passes: bool) -> tuple[list[list[float]], int]:
        """The 101 probabilities after prefixes of so many tokens, all read together, and the number
        of requests that they took. Without `in_passes` each node is a request."""
        engine, encoded = self._engine, self._engine.encode(_pixels(data), "trees")
        features = features_of(encoded, engine.processor)
        words = engine._tokenized("<think>good light, clear shadow; " + "rich color; " * 40)
        trees, found = engine._trees or engine._new_trees(), dict[str, Any]()
        read, trees._read = trees._read, trees._read if in_passes else None
        for length in lengths:
            trees.add(f"{length}", [*encoded.prompt_ids, *words[:length]], features)
        while len(found) < len(lengths):
            for output in engine._core.step():
                assert trees.take(output)
            found |= {tree.name: tree for tree in trees.finish(len(lengths))}
        trees._read = read
        ordered = [found[f"{length}"] for length in lengths]
        return [one.tree.probabilities().tolist() for one in ordered], sum(one.requests for one in ordered)

    def sampled(self, data: bytes, samples: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of `samples` completions of one request, and of as many requests of one
        completion, each with its own seed."""
        from rapo.inference.types import SamplingSpec

        engine, encoded = self._engine, self._engine.encode(_pixels(data), "sampled")
        engine.add("several", encoded, self._request(SamplingSpec(samples, 1.5, 24, logprobs=False)), seed)
        for number in range(samples):
            engine.add(
                f"alone{number}", encoded, self._request(SamplingSpec(1, 1.5, 24, logprobs=False)), seed + number
            )
        found: dict[str, ReadoutResult] = {}
        while engine.busy:
            found |= dict(engine.step())
        alone = [found[f"alone{number}"].completions[0].token_ids.tolist() for number in range(samples)]
        return [one.token_ids.tolist() for one in found["several"].completions], alone

    def brute_force(self, data: bytes, before: str) -> np.ndarray:
        """Probability of each of the 101 answers after `before`, by one plain forward pass for each
        way to write one."""
        import torch
        from transformers import Qwen2_5_VLForConditionalGeneration

        from rapo.policy.batch import as_tensors

        processor = self._engine.processor
        policy = Qwen2_5_VLForConditionalGeneration.from_pretrained(self._folder, dtype=torch.float32)
        prepared = processor.prepare(_open(data))
        banned = torch.zeros(policy.config.text_config.vocab_size)
        banned[processor.banned_token_ids] = -100.0
        start = processor.tokenizer(before, add_special_tokens=False)["input_ids"]
        mass = np.zeros(len(TEXTS))
        for text in (*TEXTS, *(number + CLOSED for number in NUMBERS)):
            answer = self._engine._tokens.ids(text)
            ids = torch.tensor([[*prepared.prompt_ids.tolist(), *start, *answer]])
            with torch.no_grad():
                logits = policy(
                    input_ids=ids,
                    mm_token_type_ids=(ids == processor.image_token_id).int(),
                    **processor.family.merge([as_tensors(prepared)]),
                ).logits[0]
            logprobs = torch.log_softmax(logits + banned, dim=-1)[-len(answer) - 1 : -1]
            chance = float(logprobs.gather(1, torch.tensor(answer)[:, None]).sum().exp())
            mass[round(100 * float(text.removesuffix(CLOSED)))] += chance
        return mass

    def cancel(self, images: list[bytes]) -> tuple[int, int, bool]:
        """Cancel all readouts but the first after three steps: requests left in vLLM right after,
        blocks in use at the end, and whether the first ended."""
        engine, names = self._engine, [f"c{number}" for number in range(len(images))]
        for name, data in zip(names, images, strict=True):
            engine.add(name, engine.encode(_pixels(data), name), self._request(self._greedy, tree=True), 0)
        for _ in range(3):
            engine.step()
        for name in names[1:]:
            engine.cancel(name)
        scheduler = engine._engine.engine_core.engine_core.scheduler
        left = scheduler.get_num_unfinished_requests()
        found: dict[str, ReadoutResult] = {}
        while engine.busy:
            found |= dict(engine.step())
        engine._core.step()
        used = scheduler.kv_cache_manager.block_pool
        return left, used.num_gpu_blocks - 1 - used.get_num_free_blocks(), set(found) == {names[0]}


def _open(data: bytes) -> Image.Image:
    from rapo.images.decode import decode_image

    return decode_image(data)


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.array(_open(data))


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
    environment = {"env_vars": engine_environment(1, 1.0)}
    actor: Any = ray.remote(num_cpus=1, runtime_env=environment)(Laboratory).remote(str(taught_model), config)
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


def test_trees_read_in_passes_are_those_of_their_nodes(laboratory: Any, images: list[bytes]) -> None:
    # Every place in a block of 32 tokens, and more trees than one pass takes.
    lengths = list(range(1, 41))
    found, requests = ray.get(laboratory.trees.remote(images[0], lengths, in_passes=True), timeout=LIMIT)
    by_nodes, many = ray.get(laboratory.trees.remote(images[0], lengths, in_passes=False), timeout=LIMIT)
    # A node by itself is left out where the model hardly ever reaches it.
    assert np.array(found) == pytest.approx(np.array(by_nodes), abs=1e-6)
    assert len({tuple(row) for row in found}) == len(lengths)
    assert requests == len(lengths)
    assert many > 5 * requests
    one_by_one = [
        ray.get(laboratory.trees.remote(images[0], [n], in_passes=True), timeout=LIMIT)[0][0] for n in (7, 30)
    ]
    assert one_by_one == [found[6], found[29]]


def test_neighbours_and_repetition_change_nothing(laboratory: Any, images: list[bytes]) -> None:
    together = ray.get(laboratory.read.remote(images * 4, together=True), timeout=LIMIT)
    alone = ray.get(laboratory.read.remote(images, together=False), timeout=LIMIT)
    assert together == alone * 4
    assert len({mean for _, mean, _ in alone}) > 1


def test_each_sampled_answer_is_that_of_its_own_seed(laboratory: Any, images: list[bytes]) -> None:
    several, alone = ray.get(laboratory.sampled.remote(images[0], 4, 40), timeout=LIMIT)
    assert several == alone
    assert len({tuple(ids) for ids in several}) > 1


def test_a_cancelled_readout_leaves_nothing_behind(laboratory: Any, images: list[bytes]) -> None:
    left, blocks, answered = ray.get(laboratory.cancel.remote(images), timeout=LIMIT)
    assert answered
    assert left == 1
    assert blocks == 0
