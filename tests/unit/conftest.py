"""Fixtures of the unit tests: a tiny model and a training world of one process.

torch is imported only where a test uses a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builders import CLAUSES
from hypothesis import settings

if TYPE_CHECKING:
    from rapo.policy.processing import PolicyProcessor

# On a busy machine a single example may take any time; pytest limits the whole test. A run finds
# what the run before found; new examples are looked for by hand, with RAPO_EXAMPLES.
settings.register_profile("rapo", deadline=None, derandomize="RAPO_EXAMPLES" not in os.environ)
settings.load_profile("rapo")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a Qwen2.5-VL of 370,000 parameters, from random weights."""
    import torch

    from rapo.config import TinyModelConfig
    from rapo.families.tiny_model import build_tiny_model

    torch.set_num_threads(1)  # for tensors this small a second thread costs more than it saves
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny_model(folder, TinyModelConfig(hidden_size=64, text_layers=2, vocabulary=384), 0, CLAUSES)
    return folder


@pytest.fixture(scope="session")
def joined_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose tokenizer writes the two decimals of an answer as one token."""
    from tests.tiny_families import build_tiny

    return build_tiny("joined", tmp_path_factory.mktemp("joined") / "model", CLAUSES)


@pytest.fixture(scope="session")
def processor(tiny_model: Path) -> PolicyProcessor:
    from rapo.policy.processing import PolicyProcessor

    return PolicyProcessor(tiny_model)


@pytest.fixture(scope="session")
def joined() -> Iterator[dict[str, str]]:
    """A process group of one, and its environment. There is one per session, because DeepSpeed
    keeps the groups that it has seen."""
    import torch

    from rapo.policy.distributed import Rank, join_world
    from rapo.policy.meeting import host, listen

    before = dict(os.environ)
    join_world(Rank(0, 1, threads=1, timeout_s=30.0), host(listen("127.0.0.1"), 30.0))
    environment = dict(os.environ)
    _restore(before)
    yield environment
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def world(joined: dict[str, str]) -> Iterator[None]:
    """A world of one for the training in a module. The environment and torch's settings are
    restored afterwards."""
    import torch

    from rapo.policy.distributed import prepare_process

    before, threads = dict(os.environ), torch.get_num_threads()
    os.environ.update(joined)
    prepare_process(threads=1)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
    _restore(before)


def _restore(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
