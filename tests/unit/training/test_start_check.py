"""StartCheck: what rounding explains passes, and what it does not ends the run with the family's
name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.training.metrics_file import METRICS
from cluster.training.start_check import StartCheck
from rapo.config import load_config
from rapo.errors import ModelError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    return tmp_path


@pytest.mark.parametrize(("dtype", "rounding", "bug"), [("float32", 1e-6, 6e-6), ("bfloat16", 0.01, 0.1)])
def test_the_bound_follows_the_dtype(model: Path, dtype: str, rounding: float, bug: float) -> None:
    config = load_config(None, [f"policy.dtype={dtype}"])
    StartCheck(config, model, model)(0, {"mismatch_kl": rounding})
    with pytest.raises(ModelError, match=f"this 'gemma3'.*{bug:.1e} nats.*rounding in {dtype}.*learner.packing"):
        StartCheck(config, model, model)(0, {"mismatch_kl": bug})


def test_only_the_first_measurement_of_a_run_is_judged(model: Path) -> None:
    check = StartCheck(load_config(None, []), model, model)
    check(0, {"mismatch_kl": 1e-9})
    check(1, {"mismatch_kl": 9.0})
    (model / METRICS).write_text('{"step": 1, "mismatch_kl": 1e-9}\n')
    resumed = StartCheck(load_config(None, []), model, model)
    resumed(1, {"mismatch_kl": 9.0})
    StartCheck(load_config(None, []), model, model)(0, {"mismatch_kl": float("nan")})


def test_steps_without_a_measurement_are_passed_over(model: Path) -> None:
    """Where all groups of a step are flat, no rank computes a log-prob."""
    check = StartCheck(load_config(None, []), model, model)
    check(0, {})
    check(1, {"grad_norm": 0.0})
    with pytest.raises(ModelError, match="in step 3, the first that tells"):
        check(2, {"mismatch_kl": 9.0})


@pytest.mark.parametrize("setting", ["rapo.watch.start_mismatch_kl=10", "rapo.watch.enabled=false"])
def test_the_bound_can_be_raised(model: Path, setting: str) -> None:
    StartCheck(load_config(None, [setting]), model, model)(0, {"mismatch_kl": 9.0})


def test_a_run_that_is_continued_before_its_first_measurement_is_checked(model: Path) -> None:
    (model / METRICS).write_text('{"step": 1, "grad_norm": 0.0}\n')
    with pytest.raises(ModelError, match="in step 2, the first that tells"):
        StartCheck(load_config(None, []), model, model)(1, {"mismatch_kl": 9.0})
