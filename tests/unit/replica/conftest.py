"""The deployment on a scripted engine."""

import pytest
from scripted_scorer import FakeEngine, ScorerWithoutVllm

from rapo.config import Config


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def scorer(engine: FakeEngine) -> ScorerWithoutVllm:
    return ScorerWithoutVllm(engine, Config())
