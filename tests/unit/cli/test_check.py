"""What is found wrong with a configuration before anything starts."""

from __future__ import annotations

import socket

import pytest

from cluster.cli.check import problems, warnings
from rapo.config import load_config
from rapo.datasets.check import DataCheck


def found(*overrides: str, stages: tuple[str, ...] = ("rapo", "serve")) -> list[str]:
    return problems(load_config(None, ("serve.port=0", *overrides)), stages)


def test_nothing_is_wrong_with_the_defaults():
    assert found() == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("rapo.images_per_step=1", "learner.workers=2"), "rapo.images_per_step = 1"),
        (("coldstart.batch_size=1", "coldstart.workers=2"), "coldstart.batch_size = 1"),
        (("policy.max_completion_tokens=4096",), "rollout.engine.max_model_len"),
        (("policy.model=nowhere/at/all",), "nowhere/at/all"),
        (("serve.host=0.0.0.0",), "without TLS and a token file or client CA"),
        (("serve.gateway.tokens=no-such-file.toml",), "no-such-file.toml"),
    ],
)
def test_what_is_wrong_is_named(overrides, words):
    (line,) = found(*overrides)
    assert words in line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("serve.readout=greedy",), "evaluate.readout = 'expected' and served by serve.readout = 'greedy'"),
        (("aescot.teacher.kind=vllm", "aescot.teacher.model=m"), "rapo.reward.weight_grounded"),
        (("policy.model=m",), "suit the embedded policy"),
        (("aescot.teacher.actors=5",), "110 images make 2 shards"),
        (("aescot.batch_size=128",), "more than aescot.shard_rows = 64"),
    ],
)
def test_what_is_probably_not_intended_is_named(overrides, words):
    config = load_config(None, overrides)
    (line,) = warnings(config, DataCheck())
    assert words in line
    assert warnings(load_config(None), DataCheck()) == []


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (line,) = found(f"serve.port={port}")
        assert f"port {port} on 127.0.0.1 is in use" in line
        assert found(f"serve.port={port}", stages=("rapo",)) == [], "who does not serve needs no port"


def test_what_only_the_service_needs_is_not_asked_of_a_run_without_it():
    assert found("serve.host=0.0.0.0", stages=("rapo",)) == []
    assert found("serve.host=0.0.0.0", stages=()) == []
