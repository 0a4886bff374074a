"""Assigned elements: a layer that got one shard of a fused parameter is no whole one, whatever
buffers it has."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from rapo.inference.assigned import in_part

FUSED, SHARD = 3 * 4 * 4, 4 * 4
UNCOUNTED = {"_expert_map"}


@dataclass
class Load:
    """vLLM's record of a layer whose buffer `positions` is in no file."""

    load_numel: int
    load_numel_total: int | None
    kernel_non_persistent_buffers: set[str]
    loaded_weights: list[tuple[str, object]] = field(default_factory=list)


def layer_of(*buffers: str) -> torch.nn.Module:
    layer = torch.nn.Module()
    layer.register_parameter("qkv", torch.nn.Parameter(torch.zeros(12, 4)))
    for name in buffers:
        layer.register_buffer(name, torch.zeros(SHARD), persistent=False)
    return layer


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_buffer_that_no_file_holds_stands_for_no_shard(shards: int) -> None:
    load = Load(shards * SHARD, FUSED + SHARD, {"positions"})
    assert in_part(layer_of("positions"), load, UNCOUNTED) == (shards < 3)


@pytest.mark.parametrize(
    ("buffer", "live"),
    [
        pytest.param("alias", [], id="an alias of a parameter, which vLLM took away"),
        pytest.param("_expert_map", ["_expert_map"], id="a buffer that vLLM does not count"),
    ],
)
def test_a_buffer_outside_the_count_hides_no_missing_shard(buffer: str, live: list[str]) -> None:
    assert in_part(layer_of(*live), Load(2 * SHARD, FUSED, {buffer}), UNCOUNTED)
    assert not in_part(layer_of(*live), Load(FUSED, FUSED, {buffer}), UNCOUNTED)


def test_a_buffer_that_was_loaded_hides_no_missing_shard() -> None:
    load = Load(3 * SHARD, FUSED + SHARD, {"positions"}, [("qkv", None), ("positions", None)])
    assert in_part(layer_of("positions"), load, UNCOUNTED)


def test_a_layer_that_is_whole_or_got_nothing_is_not_one_in_part() -> None:
    assert not in_part(layer_of(), Load(0, None, set()), UNCOUNTED)
    assert not in_part(layer_of(), Load(0, FUSED, set()), UNCOUNTED)
