"""Waits: a stage that has done nothing yet says what it waits for, and what the cluster lacks."""

from __future__ import annotations

import io
import time

import pytest
import ray

from cluster.pipeline.waits import waits_said
from cluster.remote.needs import needs_of
from cluster.terminal.console import Console
from rapo.config import load_config


def said(monkeypatch: pytest.MonkeyPatch, *overrides: str, cpus: float, gpus: float, works: bool = False) -> str:
    """What a stage of 0.3 s prints on a cluster with these resources."""
    resources = {"CPU": cpus, "GPU": gpus}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    stream = io.StringIO()
    needs = needs_of(load_config(None, overrides))["rapo"]
    with Console(stderr=stream, stdout=stream).stage("rapo") as handle:
        if works:
            handle.update(1)
        with waits_said(handle, needs, first_s=0.05):
            time.sleep(0.3)
    return stream.getvalue()


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    text = said(monkeypatch, "rollout.gpus=1", "learner.gpus=1", cpus=8, gpus=0)
    assert (
        "rapo: waits for 2 rollout workers (1 CPU, 1 GPU each) and 2 learner ranks (1 CPU, 1 GPU each) and 1 reward actor"
        in text
    )
    assert "8 CPUs, 1 of them free; 0 GPUs, 0 of them free, 4 are needed: add nodes, or lower the workers" in text


def test_what_is_there_is_said_without_advice(monkeypatch):
    text = said(monkeypatch, cpus=8, gpus=0)
    assert "the cluster has 8 CPUs, 1 of them free" in text
    assert "add nodes" not in text
    assert 1 <= text.count("waits for") <= 3, "each line takes twice as long to come"


def test_a_stage_that_works_says_nothing(monkeypatch):
    assert "waits" not in said(monkeypatch, cpus=8, gpus=0, works=True)
