"""TrainingAlerts: each kind on a curve of its own, once, again after a recovery, not on noise."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.files.jsonl import append_jsonl, read_jsonl
from rapo.algorithm.alert_kinds import COLLAPSE, Alert, Kind
from rapo.algorithm.alerts import TrainingAlerts
from rapo.config import Config, WatchConfig, load_config

SEEDS = range(200)


def train(watch: TrainingAlerts, key: str, values: Sequence[object], first: int = 1) -> list[Alert]:
    return [f for i, value in enumerate(values) for f in watch.step({"step": first + i, key: value})]


def validate(watch: TrainingAlerts, srccs: Sequence[object], n: int | None = 256, every: int = 20) -> list[Alert]:
    results = [{"srcc": srcc, "n": n} for srcc in srccs]
    return [f for i, result in enumerate(results) for f in watch.validation(i * every, result)]


def kinds(findings: Sequence[Alert]) -> list[str]:
    return [finding.kind for finding in findings]


def noise(seed: int, size: int, scale: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, scale, size)


# Each kind: where it begins, what it says, and that it is raised once until it has recovered.


def test_a_collapse_of_entropy_is_reported_once_and_early() -> None:
    watch = TrainingAlerts()
    curve = [0.5] * 30 + [0.05] * 30
    (finding,) = train(watch, "entropy", curve)
    assert finding.kind == "entropy_collapse"
    assert 31 <= finding.step <= 36
    assert finding.values["start"] == pytest.approx(0.5)
    assert finding.values["bound"] == pytest.approx(0.1)
    for part in ("per token", "0.5 at the start", "rapo.learning_rate", "rapo.loss.kl_beta"):
        assert part in finding.text


def test_entropy_is_judged_by_its_floor_too() -> None:
    config = WatchConfig(entropy_fraction=0.0, entropy_floor=0.1)
    assert kinds(train(TrainingAlerts(config), "entropy", [0.5] * 30 + [0.05] * 30)) == ["entropy_collapse"]
    assert (
        train(
            TrainingAlerts(WatchConfig(entropy_fraction=0.0, entropy_floor=0.01)), "entropy", [0.5] * 30 + [0.05] * 30
        )
        == []
    )


def test_entropy_that_hovers_at_its_bound_is_reported_once_and_again_after_it_recovered() -> None:
    watch = TrainingAlerts()
    hovering = ([0.11] * 10 + [0.09] * 10) * 5
    assert kinds(train(watch, "entropy", [0.5] * 10 + [0.09] * 10 + hovering)) == ["entropy_collapse"]
    assert kinds(train(watch, "entropy", [0.5] * 20 + [0.09] * 20, first=1000)) == ["entropy_collapse"]


def test_a_few_low_steps_are_no_collapse() -> None:
    watch = TrainingAlerts()
    curve = [0.5] * 20 + [0.0] * 4 + [0.5] * 20
    assert train(watch, "entropy", curve) == []
    assert train(TrainingAlerts(), "parse_rate", [0.9] * 20 + [0.0] * 4 + [0.9] * 20) == []


def test_entropy_that_sinks_as_in_a_healthy_run_is_no_collapse() -> None:
    curve = np.linspace(0.5, 0.15, 300) * (1 + noise(0, 300, 0.1))
    assert train(TrainingAlerts(), "entropy", curve.tolist()) == []


def test_a_parse_rate_that_drops_is_found_once_and_again_after_it_recovered() -> None:
    watch = TrainingAlerts()
    found = train(watch, "parse_rate", [0.9] * 10 + [0.98] * 20 + [0.85] * 30 + [0.97] * 20 + [0.7] * 20)
    assert kinds(found) == ["parse_loss", "parse_loss"]
    assert found[0].values == {"parse_rate": pytest.approx(0.85, abs=0.07), "best": 0.98, "floor": 0.05}
    assert "98.0% at best" in found[0].text
    assert "invalid/<reason>" in found[0].text


def test_weights_lost_at_the_first_update_are_found() -> None:
    """From a run with sixteen times the learning rate. No group has an advantage, so that loss and
    gradient are 0 and the learner's other figures are absent. The parse rate never had a best."""
    good = {"parse_rate": 0.89, "zero_spread": 0.0, "loss": 0.0, "grad_norm": 1.2, "entropy": 0.38, "mismatch_kl": 0.0}
    lost = {"parse_rate": 0.0, "zero_spread": 1.0, "loss": 0.0, "grad_norm": 0.0}
    found = TrainingAlerts().replay([{"step": 1, **good}, *({"step": step, **lost} for step in range(2, 42))])
    assert [(f.kind, f.step) for f in found] == [("parse_loss", 3), ("no_signal", 6)]
    assert "0.0% of the completions parse (median of 3 steps), fewer than 5%." in found[0].text


def test_a_policy_without_entropy_from_the_start_is_found() -> None:
    (finding,) = train(TrainingAlerts(), "entropy", [0.001] * 30)
    assert (finding.kind, finding.step) == ("entropy_collapse", 3)
    assert "(median of 3 steps), and the bound is 0.01" in finding.text


def test_a_few_lucky_steps_are_no_best() -> None:
    assert train(TrainingAlerts(), "parse_rate", [0.92] * 4 + [0.78] * 40) == []


def test_a_parse_rate_with_the_noise_of_few_completions_is_not_reported() -> None:
    rng = np.random.default_rng(0)
    alarms = [kinds(train(TrainingAlerts(), "parse_rate", (rng.binomial(64, 0.9, 300) / 64).tolist())) for _ in SEEDS]
    assert sum(bool(alarm) for alarm in alarms) <= 2


def test_a_reward_that_rises_while_srcc_falls_is_reported() -> None:
    watch = TrainingAlerts()
    found = _hack(watch, noise(0, 400, 0.02))
    assert kinds(found) == ["reward_up_srcc_down"]
    assert {"srcc", "srcc_before", "step_before", "allowed", "reward", "reward_before"} == found[0].values.keys()
    assert found[0].values["reward"] > found[0].values["reward_before"]
    assert found[0].step % 20 == 0
    assert "rapo.loss.kl_beta" in found[0].text


def _hack(watch: TrainingAlerts, jitter: np.ndarray, slope: float = 0.002) -> list[Alert]:
    found = []
    for step in range(1, 401):
        found += watch.step({"step": step, "reward_mean": 1.5 + slope * step + jitter[step - 1]})
        if step % 20 == 0:
            found += watch.validation(step, {"srcc": 0.8 - max(0, step - 200) / 1000, "n": 256})
    return found


def test_srcc_that_falls_while_the_reward_does_not_rise_is_reported_as_below_its_best() -> None:
    assert kinds(_hack(TrainingAlerts(), noise(0, 400, 0.02), slope=0.0)) == ["srcc_below_best"]
    assert kinds(_hack(TrainingAlerts(), noise(0, 400, 0.02), slope=-0.001)) == ["srcc_below_best"]


def test_rewards_are_compared_only_far_enough_apart() -> None:
    found = _hack(TrainingAlerts(WatchConfig(srcc_apart=1000)), noise(0, 400, 0.02))
    assert kinds(found) == ["srcc_below_best"]


def test_srcc_below_its_best_is_reported_once_and_again_after_it_recovered() -> None:
    curve = [0.6, 0.7, 0.8, 0.82, 0.81, 0.6, 0.6, 0.62, 0.6, 0.8, 0.81, 0.8, 0.5, 0.5, 0.5]
    found = validate(TrainingAlerts(), curve)
    assert kinds(found) == ["srcc_below_best"] * 2
    assert [finding.step for finding in found] == [100, 240]
    assert found[0].values["srcc"] == pytest.approx(0.705)
    assert found[0].values["srcc_before"] == pytest.approx(0.81)
    assert found[0].values["step_before"] == 60


def test_a_model_that_is_worse_than_the_cold_start_is_found_at_the_second_validation_that_says_so() -> None:
    """From a run with four times the learning rate."""
    (finding,) = validate(TrainingAlerts(), [0.629, 0.227, 0.153, 0.463, 0.45, 0.456, 0.449, 0.447, 0.419], every=10)
    assert (finding.kind, finding.step) == ("srcc_below_best", 20)
    assert "0.190 over the last two, against 0.629 at step 0" in finding.text


def test_one_validation_below_the_best_is_not_enough() -> None:
    assert validate(TrainingAlerts(), [0.8, 0.8, 0.8, 0.7, 0.8, 0.8]) == []


def test_fewer_images_allow_a_larger_fall() -> None:
    curve = [0.8, 0.8, 0.8, 0.7, 0.7, 0.7]
    assert kinds(validate(TrainingAlerts(), curve, n=512)) == ["srcc_below_best"]
    assert validate(TrainingAlerts(), curve, n=64) == []
    assert validate(TrainingAlerts(), curve, n=None) == []


def test_only_images_with_a_valid_prediction_count() -> None:
    watch = TrainingAlerts()
    found = [watch.validation(i, {"srcc": s, "n": 512, "n_valid": 30}) for i, s in enumerate([0.8] * 3 + [0.7] * 3)]
    assert found == [[]] * 6


def test_a_mismatch_is_reported_when_it_stays() -> None:
    watch = TrainingAlerts()
    assert train(watch, "mismatch_kl", [1e-9, 0.5, 1e-9, 0.5, 0.5, 1e-9]) == []
    found = train(watch, "mismatch_kl", [2e-3] * 10 + [5e-4, 2e-3, 2e-3, 2e-3] * 5, first=7)
    assert kinds(found) == ["mismatch"]
    assert "2.00e-03" in found[0].text
    assert "rapo.max_staleness" not in found[0].text
    assert kinds(train(watch, "mismatch_kl", [5e-4] * 3 + [2e-3] * 3, first=100)) == ["mismatch"]


def test_a_mismatch_of_stale_groups_says_so() -> None:
    watch = TrainingAlerts()
    found = [f for s in range(5) for f in watch.step({"step": s, "mismatch_kl": 0.1, "staleness_mean": 1.5})]
    assert kinds(found) == ["mismatch"]
    assert "1.5 steps old" in found[0].text
    assert "rapo.max_staleness" in found[0].text


def test_steps_without_signal_are_reported_when_they_stay() -> None:
    watch = TrainingAlerts()
    found = train(watch, "zero_spread", [0.3] * 5 + [1.0] * 4 + [0.5] + [0.97] * 20 + [0.9, 0.97] * 9)
    assert kinds(found) == ["no_signal"]
    assert found[0].step == 15
    assert kinds(train(watch, "zero_spread", [0.3] * 5 + [1.0] * 5, first=100)) == ["no_signal"]
    strict = WatchConfig(zero_spread=1.0)
    assert kinds(train(TrainingAlerts(strict), "zero_spread", [1.0] * 5)) == ["no_signal"]
    assert train(TrainingAlerts(strict), "zero_spread", [0.99] * 5) == []


@pytest.mark.parametrize("key", ["loss", "grad_norm", "entropy", "kl", "mismatch_kl"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_a_loss_that_is_not_finite_is_its_own_kind(key: str, bad: float | None) -> None:
    watch, good = TrainingAlerts(), 1e-5 if key == "mismatch_kl" else 0.05
    found = train(watch, key, [good] * 5 + [bad] * 5 + [good, bad] * 3)
    assert kinds(found) == ["not_finite"]
    assert found[0].step == 6
    assert key in found[0].text
    assert kinds(train(watch, key, [good] * 10 + [bad], first=100)) == ["not_finite"]


@pytest.mark.parametrize("key", ["entropy", "parse_rate", "mismatch_kl", "zero_spread", "reward_mean"])
@pytest.mark.parametrize("absent", [math.nan, -math.inf, None, "0.0", 10**400])
def test_missing_values_are_no_collapse(key: str, absent: object) -> None:
    found = train(TrainingAlerts(), key, [0.5 if key != "mismatch_kl" else 0.0] * 20 + [absent] * 40)
    assert kinds(found) == (["not_finite"] if key in ("entropy", "mismatch_kl") else [])
    assert TrainingAlerts().replay([{"step": step, "loss": 0.1} for step in range(40)]) == []


def test_an_undefined_srcc_is_ignored() -> None:
    assert validate(TrainingAlerts(), [0.8, 0.8, 1.7, 1.7, 0.8, 0.8, 0.8]) == []
    assert validate(TrainingAlerts(), [0.8, 0.8, None, math.nan, 0.8, 0.8, None, 0.79]) == []


# Order, configuration and replay.


def test_a_step_counts_once() -> None:
    watch = TrainingAlerts()
    assert train(watch, "zero_spread", [1.0] * 4) == []
    assert train(watch, "zero_spread", [1.0] * 4) == []
    assert kinds(train(watch, "zero_spread", [1.0], first=5)) == ["no_signal"]
    assert watch.step({"zero_spread": 1.0}) == watch.step({"step": math.nan, "loss": math.nan}) == []
    assert validate(watch, [0.8] * 5) == []
    assert validate(watch, [0.1] * 5) == []
    assert kinds(watch.validation(100, {"srcc": 0.1, "n": 256})) == ["srcc_below_best"]


def test_a_replayed_run_ends_in_the_same_state(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(1, 201):
        rows.append({"step": step, "reward_mean": 1 + step / 100, "entropy": 0.5 if step < 90 else 0.01, "loss": 0.1})
        if step % 20 == 0:
            rows.append({"step": step, "validation": {"srcc": 0.8 if step < 100 else 0.6, "n": 256}, "seconds": {}})
    rows[120]["loss"] = math.nan
    for row in rows:
        append_jsonl(tmp_path / "metrics.jsonl", row)
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    whole = TrainingAlerts().replay(rows)
    assert [f.row() | {"values": {}} for f in TrainingAlerts().replay(lines)] == [
        f.row() | {"values": {}} for f in whole
    ]
    assert kinds(whole) == ["entropy_collapse", "reward_up_srcc_down", "not_finite"]
    for cut in (0, 50, 101, 115, len(rows)):
        resumed = TrainingAlerts()
        before = resumed.replay(rows[:cut])
        assert kinds(before + resumed.replay(rows[cut:])) == kinds(whole)


def test_stop_makes_a_collapse_fatal_and_nothing_else() -> None:
    for choice in ("warn", "stop"):
        watch = TrainingAlerts(WatchConfig(on_collapse=choice))
        found = train(watch, "loss", [math.nan]) + train(watch, "zero_spread", [1.0] * 9, first=2)
        assert [(f.kind, f.fatal) for f in found] == [("not_finite", choice == "stop"), ("no_signal", False)]
    assert {"not_finite", "entropy_collapse", "parse_loss"} == COLLAPSE


def test_it_can_be_switched_off() -> None:
    watch = TrainingAlerts(WatchConfig(enabled=False))
    assert train(watch, "loss", [math.nan] * 9) == _hack(watch, noise(0, 400, 0.02)) == []


def test_the_section_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[rapo.watch]\non_collapse = "stop"\nparse_drop = 0.2\n')
    assert load_config(path).rapo.watch == WatchConfig(on_collapse="stop", parse_drop=0.2)


def test_every_kind_is_documented_and_names_settings_that_exist() -> None:
    watch = TrainingAlerts()
    found = [
        *train(TrainingAlerts(), "loss", [math.nan]),
        *train(TrainingAlerts(), "entropy", [0.5] * 10 + [0.0] * 10),
        *train(TrainingAlerts(), "parse_rate", [0.9] * 10 + [0.0] * 10),
        *(
            f
            for s in range(3)
            for f in TrainingAlerts().replay([{"step": i, "mismatch_kl": 1, "staleness_mean": s} for i in range(3)])
        ),
        *train(TrainingAlerts(), "zero_spread", [1.0] * 5),
        *_hack(TrainingAlerts(), noise(0, 400, 0.02)),
        *_hack(TrainingAlerts(), noise(0, 400, 0.02), slope=0.0),
        *(
            f
            for step, level in enumerate((1.0, 0.1, 0.1))
            for f in watch.validation(
                step, {"n": 256, "grounding": level, "spread": level, "distinct_scores": 50 * level}
            )
        ),
    ]
    assert set(kinds(found)) == set(get_args(Kind))
    docs = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"`{kind}`" in docs for kind in get_args(Kind))
    assert all(f"`{field}`" in docs or f"{field} =" in docs or field in ("enabled", "mismatch_kl", "zero_spread")
               for field in WatchConfig.model_fields)  # fmt: skip
    for text in [finding.text for finding in found] + [docs]:
        for key in re.findall(r"\b(?:rapo|policy|learner)(?:\.[a-z_]+)+\b(?!\()", text):
            assert key.endswith((".md", ".py")) or _exists(key), key


def _exists(key: str) -> bool:
    node: object = Config()
    for part in key.split("."):
        node = getattr(node, part, None)
    return node is not None


ANYTHING = st.one_of(
    st.floats(), st.floats(0, 1), st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.just(10**400)
)
ROWS = st.dictionaries(
    st.sampled_from(["step", "reward_mean", "parse_rate", "entropy", "mismatch_kl", "grad_norm", "loss", "zero_spread",
                     "staleness_mean"]), ANYTHING,
)  # fmt: skip
RESULTS = st.dictionaries(st.sampled_from(["srcc", "n", "n_valid", "grounding", "spread", "distinct_scores"]), ANYTHING)
WATCHES = st.builds(
    WatchConfig, window=st.integers(1, 4), zero_spread_steps=st.integers(1, 3), srcc_apart=st.just(1),
    entropy_fraction=st.floats(0, 1), zero_spread=st.floats(0, 1), on_collapse=st.sampled_from(["warn", "stop"]),
)  # fmt: skip


@settings(max_examples=300)
@given(WATCHES, st.lists(st.tuples(ROWS, RESULTS, st.booleans()), max_size=25))
def test_no_input_raises_an_exception(config: WatchConfig, rounds: list[tuple[dict, dict, bool]]) -> None:
    watch = TrainingAlerts(config)
    steps: list[int] = []
    for step, (row, result, odd) in enumerate(rounds):
        found = watch.step(row if odd else {**row, "step": step})
        found += watch.validation(row.get("step", math.nan) if odd else step, result)
        found += watch.replay([{**row, "validation": result}]) if odd else []
        assert len(found) == len({finding.kind for finding in found}) or odd
        for finding in found:
            assert finding.text.strip() == finding.text != ""
            json.dumps(finding.row())
        steps += [finding.step for finding in found if not odd]
    if all(not odd for *_, odd in rounds):
        assert steps == sorted(steps)


@settings(max_examples=200)
@given(st.sampled_from(["entropy", "parse_rate", "zero_spread", "mismatch_kl"]), st.lists(st.floats(0, 1), max_size=80))
def test_a_kind_recovers_between_two_of_its_alerts(key: str, values: list[float]) -> None:
    """No kind is raised in two successive steps, and a curve that never leaves the bad side is
    reported once."""
    found = train(TrainingAlerts(WatchConfig(window=2, zero_spread_steps=2)), key, values)
    assert all(b.step - a.step > 1 for a, b in zip(found, found[1:], strict=False))
    bad = 0.0 if key in ("entropy", "parse_rate") else 1.0
    watch = TrainingAlerts(WatchConfig(window=2, zero_spread_steps=2))
    good = [1.0 - bad] * 4
    assert len(train(watch, key, good + [bad] * (len(values) + 4))) == 1
