"""StartCheck: what rounding explains passes, and what it does not ends the run with the family's
name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.training.start_check import check_start
from rapo.config import load_config
from rapo.errors import ModelError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    return tmp_path


@pytest.mark.parametrize(("dtype", "rounding", "bug"), [("float32", 1e-6, 6e-6), ("bfloat16", 0.01, 0.1)])
def test_the_bound_follows_the_dtype(model: Path, dtype: str, rounding: float, bug: float) -> None:
    config = load_config(None, [f"policy.dtype={dtype}"])
    check_start(config, model, 0, {"mismatch_kl": rounding})
    with pytest.raises(ModelError, match=f"this 'gemma3'.*{bug:.1e} nats.*rounding in {dtype}.*learner.packing"):
        check_start(config, model, 0, {"mismatch_kl": bug})


def test_only_the_first_step_is_judged_and_only_by_what_is_known(model: Path) -> None:
    config = load_config(None, [])
    check_start(config, model, 1, {"mismatch_kl": 9.0})
    check_start(config, model, 0, {})
    check_start(config, model, 0, {"mismatch_kl": float("nan")})


@pytest.mark.parametrize("setting", ["rapo.watch.start_mismatch_kl=10", "rapo.watch.enabled=false"])
def test_the_bound_can_be_raised(model: Path, setting: str) -> None:
    check_start(load_config(None, [setting]), model, 0, {"mismatch_kl": 9.0})
