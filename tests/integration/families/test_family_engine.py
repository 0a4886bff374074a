"""Families on the real parts: sampler and learner of a tiny model of each compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.integration.families import family_engine
from tests.integration.families.family_engine import Agreement
from tests.limits import PATIENCE_S
from tests.tiny_families import build_tiny, with_num2words

pytestmark = pytest.mark.integration

_LONG = ("qwen2_vl", "qwen3_vl", "internvl", "idefics3", "joined")
_RELEASE = ("smolvlm", "llava", "llava_onevision")
#: float32 log-probs of vLLM's kernels and of the learner's.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """One process for all families, because vLLM needs an environment of its own."""
    packages = with_num2words(tmp_path_factory.mktemp("packages"))
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn, family_engine.initialize, (packages,)) as child:
        yield child


@pytest.fixture(scope="module")
def compare(child: ProcessPoolExecutor) -> Callable[[Path], Agreement]:
    return lambda folder: child.submit(family_engine.compare, folder).result(timeout=PATIENCE_S)


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=pytest.mark.long) for kind in _LONG),
        *(pytest.param(kind, marks=pytest.mark.release) for kind in _RELEASE),
    ],
)
def test_sampler_and_learner_compute_the_same(compare: Callable[[Path], Agreement], kind: str, tmp_path: Path) -> None:
    found = compare(build_tiny(kind, tmp_path / "model", ["the light is even; "]))
    assert found.tokens > 100
    assert found.fresh < TOLERANCE
    assert found.loaded < TOLERANCE, "weights by name, and no cache of the old ones"
    assert found.changed > 0.01, "the loaded weights are others"
    assert found.passes == pytest.approx(found.requests, abs=1e-6), "trees in one pass and node by node"


@pytest.mark.long
def test_scorer_and_teacher_refuse_weights_that_are_no_numbers(child: ProcessPoolExecutor, tmp_path: Path) -> None:
    folder = build_tiny("qwen2_vl", tmp_path / "model", ["the light is even; "])
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("norm.weight"))
    tensors[name][3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    scorer, teacher = child.submit(family_engine.refusals, folder).result(timeout=PATIENCE_S)
    assert "1 parameters hold NaN or infinity" in scorer
    assert teacher == scorer
