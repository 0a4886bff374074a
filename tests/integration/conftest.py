"""Shared by the integration tests: a small configuration and a session-wide local Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ray_session import prepare_environment, ray_session
from rapo.config import Config, load_config

prepare_environment(load_config())  # before any test module imports ray

#: Small enough for a test, large enough that every role has work.
SMALL = (
    "data.scenes.train=96",
    "data.scenes.validation=16",
    "data.scenes.test=24",
    "aescot.images=64",
    "coldstart.steps=60",
    "rapo.steps=4",
    "rapo.images_per_step=8",
    "rapo.completions=4",
    "rapo.evaluate_every=2",
    "serve.port=0",
    "serve.demo_images=6",
)


def rapo(*arguments: str, cwd: Path | None = None, timeout: float = 540.0) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    environment = {**os.environ, "CI": "true"}
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def settings(*overrides: str) -> list[str]:
    """`--set` arguments for the small configuration and what differs from it."""
    return [part for item in (*SMALL, *overrides) for part in ("--set", item)]


@pytest.fixture(scope="module")
def small_config() -> Config:
    return load_config(None, SMALL)


@pytest.fixture(scope="module")
def local_ray(small_config: Config) -> Iterator[None]:
    with ray_session(small_config):
        yield
