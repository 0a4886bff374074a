"""What the benchmark of scale looks at: its ledger, its stragglers, its threads' time."""

from __future__ import annotations

import json
import time
from threading import Event, Thread

import pytest

from bench.scale.__main__ import timing_of
from bench.scale.hosted import SLOWER
from bench.scale.ledger import check_ledger
from bench.scale.meter import Meter
from bench.scale.paper import FLEETS, MODELS, main, planned, write_model
from cluster.files.jsonl import append_jsonl
from cluster.training.controller import LEDGER
from rapo.plan.cards import CARDS
from rapo.plan.model_shape import ModelShape


def write(folder, *steps):
    for number, used in enumerate(steps):
        append_jsonl(folder / LEDGER, {"step": number + 1, "used": used})


def test_a_ledger_with_every_group_once_is_right(tmp_path):
    write(tmp_path, [0, 2, 1], [5, 3, 4])
    check_ledger(tmp_path, 6)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([[0, 1, 2], [3, 4, 2]], "1 used more than once, among them .2.; 1 not used, among them .5."),
        ([[0, 1, 2], [3, 4, 6]], "1 not used, among them .5.; 1 not of this run, among them .6."),
        ([], "6 not used"),
    ],
)
def test_a_ledger_that_is_wrong_is_named(tmp_path, steps, words):
    write(tmp_path, *steps)
    with pytest.raises(AssertionError, match=words):
        check_ledger(tmp_path, 6)


def test_one_worker_of_a_hundred_straggles():
    plain, straggling = (timing_of(scenario, 512, 150.0) for scenario in ("plain", "stragglers"))
    slow = [worker for worker in range(1, 513) if straggling.group_of(worker) > straggling.group]
    assert slow == [100, 200, 300, 400, 500]
    assert straggling.group_of(100) == SLOWER * plain.group_of(100) == SLOWER * plain.group


def test_over_a_slow_network_a_load_takes_as_long_as_a_group():
    plain, slow = (timing_of(scenario, 512, 150.0) for scenario in ("plain", "slow network"))
    assert (slow.load, slow.network, slow.group) == (plain.group, 10 * plain.network, plain.group)
    assert plain.load < plain.group / 100


def test_time_is_told_by_thread():
    def busy(seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    meter, done = Meter(), Event()
    busy(0.2)  # before the first step, so that it does not count
    meter.step({"step": 1})
    worked = Event()

    def work() -> None:
        busy(0.1)
        worked.set()
        done.wait(10.0)

    other = Thread(target=work)
    other.start()
    assert worked.wait(30.0)
    meter.step({"step": 2})
    done.set()
    other.join(10.0)
    assert 0.08 <= sum(meter.thread_seconds().values()) < 0.2


@pytest.mark.parametrize(("model", "billions"), [("3B", 3.7546), ("7B", 8.2922), ("32B", 33.45), ("72B", 73.41)])
def test_the_models_on_paper_have_the_published_sizes(model, billions, tmp_path):
    write_model(model, tmp_path)
    assert ModelShape.read(tmp_path).parameters / 1e9 == pytest.approx(billions, rel=5e-4)


@pytest.mark.parametrize("fleet", FLEETS[1:], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_half_of_the_gpus_train_on_paper_and_half_sample(fleet, model):
    found = planned(fleet, model, CARDS["H100-80"], 100.0)
    assert all(role.fits for role in found.memory)
    _, learner, rollout = found.memory
    assert learner.count == rollout.count * MODELS[model][-1] == fleet.gpus // 2
    assert found.nodes == fleet.gpus // 8


def test_the_tables_are_printed_and_kept(tmp_path, capsys):
    main(["--out", str(tmp_path), "--driver-ms", "2"])
    kept = json.loads((tmp_path / "scale_paper.json").read_text())["tables"]
    assert len(kept) == 6
    by_fleet = {(row["GPUs"], row["images"], row["weights by"]): row for row in kept["7B by number of GPUs"]}
    assert by_fleet[512, 4096, "broadcast"]["driver, s"] == pytest.approx(8.19)
    shown = capsys.readouterr().out
    assert all(title in shown for title in kept)
    assert "rapo check refuses a split engine" in shown
