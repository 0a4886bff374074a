"""Weights for the processes of a split engine: in parts through shared memory, errors as words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rapo.errors import WeightError
from rapo.inference import split_weights
from rapo.inference.split_weights import load_in_parts, mapped

TENSORS = [
    ("a", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
    ("b", torch.ones(5, dtype=torch.bfloat16)),
    ("c", torch.arange(4, dtype=torch.int64)),
]


class Engine:
    """Two workers that keep what they are given; `refuses` is what the second one says."""

    def __init__(self, refuses: dict[str, str] | None = None) -> None:
        self.refuses = refuses or {}
        self.calls: list[str] = []
        self.loaded: dict[str, torch.Tensor] = {}

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[str | None]:
        self.calls.append(method)
        if method == "rapo_load_part":
            self.loaded |= dict(mapped(*args))
        return [None, self.refuses.get(method)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(split_weights, "PART_BYTES", 30)


def test_every_tensor_arrives_and_outlives_its_file():
    engine: Any = Engine()
    load_in_parts(engine, iter(TENSORS))
    assert engine.calls == ["rapo_begin_weights", "rapo_load_part", "rapo_load_part", "rapo_finish_weights"]
    assert engine.loaded.keys() == {name for name, _ in TENSORS}
    assert all(torch.equal(engine.loaded[name], tensor) for name, tensor in TENSORS)
    assert all(engine.loaded[name].dtype == tensor.dtype for name, tensor in TENSORS)


@pytest.mark.parametrize("method", ["rapo_load_part", "rapo_finish_weights"])
def test_what_one_worker_refuses_all_give_up(method):
    engine: Any = Engine({method: "the engine does not take b"})
    with pytest.raises(WeightError, match="does not take b"):
        load_in_parts(engine, iter(TENSORS))
    assert engine.calls[-1] == "rapo_abandon_weights"


def test_weights_that_do_not_verify_are_given_up():
    def damaged():
        yield TENSORS[0]
        yield TENSORS[1]
        raise WeightError("version 2: c does not match its checksum")

    engine: Any = Engine()
    with pytest.raises(WeightError, match="c does not match"):
        load_in_parts(engine, damaged())
    assert engine.calls[-1] == "rapo_abandon_weights"
    assert "rapo_finish_weights" not in engine.calls
