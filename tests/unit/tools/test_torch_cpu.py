from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from tools.installer import Outcome, SetupError
from tools.pip_settings import PipSettings
from tools.torch_cpu import ROOT, install_cpu_torch, pinned

OK, MISSING = Outcome(0, ""), Outcome(1, "error: no such version")
UNREACHABLE = Outcome(2, "error: dns error")


def installer(
    users: Outcome,
    pytorchs: Outcome,
    calls: list[tuple[str, ...]],
    options: Mapping[str, str] | None = None,
    no_uv: str = "",
) -> Any:
    """An installer whose sources give these outcomes."""

    def install(*packages: str) -> Outcome:
        calls.append(("users", *packages))
        return users

    def install_from_pytorch(*packages: str) -> Outcome:
        calls.append(("pytorchs", *packages))
        return pytorchs

    return SimpleNamespace(
        install=install,
        install_from_pytorch=install_from_pytorch,
        sources=["/wheels", "PyPI"],
        settings=PipSettings(options or {}),
        no_uv=no_uv,
    )


TORCH, TORCHVISION = pinned("torch") + "+cpu", pinned("torchvision")


def test_the_users_sources_come_first_and_are_enough():
    calls: list[tuple[str, ...]] = []
    install_cpu_torch(installer(OK, OK, calls))
    assert calls == [("users", TORCH)]


def test_pytorchs_index_is_asked_where_they_have_none():
    calls: list[tuple[str, ...]] = []
    install_cpu_torch(installer(MISSING, OK, calls))
    assert calls == [("users", TORCH), ("pytorchs", TORCH, TORCHVISION)]


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        ({}, ["PyTorch's own index:", "dns error"]),
        ({"no_uv": "pip could not install uv"}, ["not PyTorch's own index", "pip could not install uv"]),
        ({"options": {"no-index": "1"}}, ["not PyTorch's own index", "no-index"]),
    ],
)
def test_a_failure_names_the_package_what_was_asked_and_what_to_do(differs, words):
    calls: list[tuple[str, ...]] = []
    with pytest.raises(SetupError) as raised:
        install_cpu_torch(installer(MISSING, UNREACHABLE, calls, **differs))
    assert len(calls) == (1 if differs else 2)
    for part in (TORCH, "/wheels, PyPI", "no such version", "What to do:", "find-links", *words):
        assert part in str(raised.value)


def test_the_constraints_hold_the_same_build():
    lines = (ROOT / "constraints" / "cpu.txt").read_text().splitlines()
    assert TORCH in lines
    assert TORCHVISION in lines
