"""Asking a live run for another number of rollout workers."""

from __future__ import annotations

import fcntl

import pytest

from cluster.cli.scale import scale_run
from cluster.rollout import scale_requests as scaling
from cluster.rollout.scale_requests import ScaleRequests, ask_for
from rapo.config import dump_config, load_config
from rapo.errors import ConfigError, RunFolderError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(scaling, "_LOOK_S", 0.0)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.toml").write_text(dump_config(load_config(None, ["rollout.max_workers=4"])))
    (tmp_path / "rapo").mkdir()
    return tmp_path


@pytest.fixture
def live(run):
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield run


def test_each_request_is_taken_once_and_old_ones_are_nobodys(live):
    ask_for(live / "rapo", 7)
    requests = ScaleRequests(live / "rapo")
    assert requests.take() is None, "it was asked of the run before"
    assert "asked for 3" in scale_run(live, 3)
    assert requests.take() == 3
    assert requests.take() is None
    scale_run(live, 3)
    assert requests.take() == 3


def test_what_somebody_else_wrote_there_is_ignored(live):
    requests = ScaleRequests(live / "rapo")
    (live / "rapo" / "scale.json").write_text("{not json")
    assert requests.take() is None
    (live / "rapo" / "scale.json").write_text('{"rollouts": "many"}')
    assert requests.take() is None
    scale_run(live, 2)
    assert requests.take() == 2


def test_what_cannot_be_asked_for_is_refused_with_a_way_out(run, tmp_path_factory):
    with pytest.raises(RunFolderError, match="is no run folder"):
        scale_run(tmp_path_factory.mktemp("empty"), 2)
    with pytest.raises(RunFolderError, match=r"no run is working in .* --set rollout.workers=2"):
        scale_run(run, 2)
    with pytest.raises(ConfigError, match="at least one"):
        ask_for(run / "rapo", 0)


def test_more_than_the_run_allows_is_refused(live):
    with pytest.raises(ConfigError, match=r"more than the 4 .* rollout.max_workers=5"):
        scale_run(live, 5)
    assert not (live / "rapo" / "scale.json").exists()


def test_before_its_rapo_stage_a_run_has_nothing_to_scale(live):
    (live / "rapo").rmdir()
    with pytest.raises(RunFolderError, match="has not reached its RAPO stage"):
        scale_run(live, 2)


def test_a_colocated_run_has_no_more_workers_than_ranks(live):
    shared = ["rollout.max_workers=4", "rollout.placement=colocate", "learner.workers=2"]
    (live / "config.toml").write_text(dump_config(load_config(None, shared)))
    assert "asked for 2" in scale_run(live, 2)
    with pytest.raises(ConfigError, match=r"more than the 2 .* --set learner.workers=3"):
        scale_run(live, 3)
