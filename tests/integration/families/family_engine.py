"""FamilyEngine: an engine and the learner's policy on one model folder, compared in one process.

Call `initialize`, then `compare` or `refusals`, in a child process, because vLLM needs an
environment of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from rapo.inference.readout_engine import ReadoutEngine

_SIZES = ((84, 84), (200, 60), (60, 150))
_TOKENS = 12


@dataclass(frozen=True)
class Agreement:
    """The largest difference of log-probs of `tokens` sampled tokens, of the folder's weights and
    after a load of others, `changed` by how much that load changed them. `passes` and `requests`
    are the mean answer by both ways to read a tree."""

    tokens: int
    fresh: float
    loaded: float
    changed: float
    passes: float
    requests: float


def initialize(packages: str) -> None:
    """`packages` is a folder with more packages for the process."""
    from rapo.inference.environment import set_engine_environment

    sys.path.append(packages)
    set_engine_environment(threads=1, kv_cache_gib=1.0)


def compare(folder: Path) -> Agreement:
    """Sample from the engine, and compute the same tokens with the learner's policy."""
    import torch

    from rapo.config import load_config
    from rapo.inference.readout_engine import ReadoutEngine
    from rapo.policy.batch import collate
    from rapo.policy.forward import GroupPolicy
    from rapo.policy.trainer import load_model
    from rapo.policy.weight_packing import model_tensors

    settings = load_config(None, ["rollout.engine.max_model_len=256"]).rollout.engine
    engine = ReadoutEngine(str(folder), settings, dtype="float32")
    processor, model = engine.processor, load_model(folder, "float32")
    policy = GroupPolicy(model, processor.banned_token_ids)
    images = [_noise(size, seed) for seed, size in enumerate(_SIZES)]
    prepared = [processor.prepare(image) for image in images]

    def learner(ids: Sequence[Sequence[NDArray[np.int32]]]) -> NDArray[np.float32]:
        with torch.no_grad():
            log_probs, _, _ = policy(collate(prepared, ids, processor.tokenizer.pad_token_id))
        return log_probs.numpy()

    ids, fresh = _sample(engine, images)
    before = learner(ids)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    engine.load(((name, tensor) for name, tensor in model_tensors(model) if tensor is not None), 1)
    again, loaded = _sample(engine, images)
    return Agreement(
        tokens=len(fresh),
        fresh=float(np.abs(before - fresh).max()),
        loaded=float(np.abs(learner(again) - loaded).max()),
        changed=float(np.abs(learner(ids) - before).max()),
        passes=_answer(engine, images[0], in_passes=True),
        requests=_answer(engine, images[0], in_passes=False),
    )


def refusals(folder: Path) -> list[str]:
    """What the scorer's engine and a teacher's say of a folder that they refuse."""
    from rapo.config import load_config
    from rapo.errors import ModelError
    from rapo.inference.chat_engine import VllmModel
    from rapo.inference.readout_engine import ReadoutEngine

    config = load_config(None, ["rollout.engine.max_model_len=256", "aescot.teacher.engine.max_model_len=512"])
    said = []
    for start in (
        lambda: ReadoutEngine(str(folder), config.rollout.engine, dtype="float32"),
        lambda: VllmModel(folder, config.aescot.teacher, config.image),
    ):
        try:
            start()
        except ModelError as error:
            said.append(str(error))
    return said


def _sample(
    engine: ReadoutEngine, images: Sequence[Image.Image]
) -> tuple[list[list[NDArray[np.int32]]], NDArray[np.float32]]:
    """Four completions of each image, and the log-probs of all their tokens."""
    from rapo.inference.types import ReadoutRequest, ReadoutResult, SamplingSpec

    for index, image in enumerate(images):
        encoded = engine.encode(np.array(image), f"image{index}")
        engine.add(str(index), encoded, ReadoutRequest(SamplingSpec(4, 1.0, _TOKENS)), index)
    found: dict[str, ReadoutResult] = {}
    while engine.busy:
        found |= dict(engine.step())
    groups = [found[str(index)].completions for index in range(len(images))]
    log_probs = [one.logprobs for group in groups for one in group if one.logprobs is not None]
    return [[one.token_ids for one in group] for group in groups], np.concatenate(log_probs)


def _answer(engine: ReadoutEngine, image: Image.Image, *, in_passes: bool) -> float:
    from rapo.inference.types import ReadoutRequest, ReadoutResult, SamplingSpec

    trees = engine._trees = engine._new_trees()
    if not in_passes:
        trees._read = None
    greedy = SamplingSpec(1, 0.0, _TOKENS, logprobs=False)
    engine.add("tree", engine.encode(np.array(image), "tree"), ReadoutRequest(greedy, tree=True, rationale=False), 0)
    found: dict[str, ReadoutResult] = {}
    while engine.busy:
        found |= dict(engine.step())
    tree = found["tree"].tree
    assert tree is not None
    return tree.expectation().mean


def _noise(size: tuple[int, int], seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)
