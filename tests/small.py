"""A small run of the real parts through the command line, shared by the integration and the chaos
tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from rapo.config import dump_config, load_config
from tests.limits import PATIENCE_S

#: The same on one GPU, for the tests with the mark `gpu`: sampler and learner share it.
ON_ONE_GPU = (
    "policy.dtype=float32",
    "coldstart.workers=1",
    "coldstart.gpus=1",
    "rollout.workers=1",
    "rollout.max_workers=1",
    "rollout.gpus=0.45",
    "rollout.start_timeout_s=600",
    "rollout.engine.gpu_memory_utilization=0.3",
    "learner.workers=1",
    "learner.gpus=0.45",
    "serve.gpus=0.45",
    "serve.start_timeout_s=600",
)
#: Small enough for a test, large enough that every role has work, and that half of what the model
#: writes after its cold start parses. A run of it can be repeated bit by bit.
SMALL = (
    "data.scenes.train=96",
    "data.scenes.validation=16",
    "data.scenes.test=24",
    "aescot.images=64",
    "aescot.refill=0",
    "coldstart.steps=60",
    "coldstart.batch_size=32",
    "rapo.steps=7",
    "rapo.images_per_step=8",
    "rapo.completions=4",
    "rapo.learning_rate=3e-4",
    "rapo.max_staleness=0",
    "rapo.checkpoint_every=2",
    "rapo.evaluate_every=3",
    "rapo.select=last",
    "evaluate.interval_coverage=0.5",
    "serve.port=0",
    "serve.threads=1",
    "serve.demo_images=6",
    *(ON_ONE_GPU if os.environ.get("RAPO_TEST_GPUS") else ()),
)

#: One process of each role, for tests that need no second one: starts take most of their time.
ALONE = ("coldstart.workers=1", "rollout.workers=1", "learner.workers=1")


def rapo(*arguments: str, cwd: Path | None = None, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    environment = {**os.environ, "CI": "true"}
    command = [sys.executable, "-m", "rapo", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def settings(*overrides: str) -> list[str]:
    """`--set` arguments for the small configuration and what differs from it."""
    return [part for item in (*SMALL, *overrides) for part in ("--set", item)]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run from nothing to a served scorer. One for all workers of pytest-xdist, and for all
    sessions that have the same folder in RAPO_TEST_RUNS."""
    base = tmp_path_factory.getbasetemp()
    home = Path(os.environ.get("RAPO_TEST_RUNS") or (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base))
    out = home / "finished" / "out"
    with FileLock(home / "finished.lock", timeout=PATIENCE_S):
        if not (out / "report.html").exists():
            shutil.rmtree(out, ignore_errors=True)
            _run_elsewhere(out, tmp_path_factory.mktemp("elsewhere"))
    return out


def _run_elsewhere(out: Path, elsewhere: Path) -> None:
    for name in ("actors", "cluster", "services"):  # another project's, which no process may take for the system's
        (elsewhere / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')\n")
    done = rapo("run", "--out", str(out), *settings(), cwd=elsewhere)
    assert done.returncode == 0, done.stderr + (out / "driver.log").read_text()[-3000:]
    assert "Where the time went" in done.stdout


@pytest.fixture(scope="session")
def started(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run up to its cold start, to be taken further by `branch`."""
    out = tmp_path_factory.mktemp("started") / "base"
    out.mkdir()
    for stage in ("data", "aescot", "coldstart"):
        shutil.copytree(finished / stage, out / stage)
    for file in finished.iterdir():
        if file.is_file() and not file.name.startswith("report"):
            shutil.copy(file, out)
    return out


def branch(started: Path, out: Path, *overrides: str) -> Path:
    """A copy of a started run under other settings, of which none concerns a stage that is behind
    it."""
    shutil.copytree(started, out)
    (out / "config.toml").write_text(dump_config(load_config(None, (*SMALL, *overrides))))
    return out
