"""PinnedCopies: memory that is used again, and never while somebody needs what is in it. The CPU
stands in for a GPU, with a stream that copies as late as one may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from test_trainer import IMAGES, batch_of_groups, share, trainer

from rapo.policy.host_memory.pinned_copies import PinnedCopies, pinned_memory
from rapo.policy.weight_packing import unpack

SETTINGS = [("learner.zero_stage=2", "policy.dtype=bfloat16"), ("learner.zero_stage=3",), ("learner.lora.rank=4",)]


class LateStream:
    def __init__(self) -> None:
        self.begun: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.most = 0

    def copy(self, host: torch.Tensor, tensor: torch.Tensor) -> None:
        self.begun.append((host, tensor))
        self.most = max(self.most, sum(tensor.nbytes for _, tensor in self.begun))

    def wait(self) -> None:
        for host, tensor in self.begun:
            host.copy_(tensor)
        self.begun.clear()


class Pinned(PinnedCopies):
    """Tells the sizes of all the memory that was ever allocated, which is filled with rubbish."""

    def __init__(self) -> None:
        self.allocated: list[int] = []
        self.late = LateStream()
        super().__init__(torch.device("cpu"), self._rubbish, self.late)

    def _rubbish(self, nbytes: int) -> torch.Tensor:
        self.allocated.append(nbytes)
        return torch.full((nbytes,), 0xA5, dtype=torch.uint8)

    def of(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [copied for _, copied in self.copied(enumerate(tensors), [tensor.nbytes for tensor in tensors])]


def like_a_gpu(made: Any) -> Pinned:
    made._pinned = Pinned()
    return made._pinned


def content(held: Any) -> bytes:
    return bytes(held) if isinstance(held, torch.UntypedStorage) else np.asarray(held).tobytes()


def step(made: Any) -> None:
    made.step(share(batch_of_groups(), 2), IMAGES)


def test_copies_are_those_of_the_tensors_and_share_nothing() -> None:
    tensors = [
        torch.arange(7.0),
        torch.arange(6, dtype=torch.bfloat16).view(2, 3).T,
        torch.zeros(0),
        torch.tensor(True),
    ]
    copies = Pinned().of(*tensors)
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(tensors, copies, strict=True))
    tensors[0] += 1
    assert copies[0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [copied.untyped_storage().nbytes() for copied in copies] == [28, 12, 0, 1]


@pytest.mark.parametrize(
    "part",
    [
        lambda copied: copied,
        lambda copied: copied[2:3],
        lambda copied: copied.view(torch.uint8).numpy()[4:8],
        lambda copied: copied.untyped_storage(),
    ],
    ids=["tensor", "view", "array", "storage"],
)
def test_memory_is_used_again_when_nothing_refers_to_it_and_not_before(part: Callable[[torch.Tensor], Any]) -> None:
    pinned = Pinned()
    held = part(pinned.of(torch.arange(5.0), torch.ones(3))[0])
    before = content(held)
    for _ in range(3):
        pinned.of(torch.full((5,), 9.0), torch.ones(3))
    assert len(pinned.allocated) == 2, "one is held, the other is used again"
    assert content(held) == before
    del held
    kept = [pinned.of(torch.ones(5), torch.ones(3)) for _ in range(2)]
    assert len(pinned.allocated) == 2
    kept.append(pinned.of(torch.ones(5), torch.ones(3)))
    assert len(pinned.allocated) == 3


def test_a_copy_of_another_size_gets_memory_of_its_own() -> None:
    pinned = Pinned()
    pinned.of(torch.ones(100))
    pinned.of(torch.ones(10))
    pinned.of(torch.ones(100))
    assert pinned.allocated == [448, 64]


def test_a_rank_without_a_share_takes_part_in_all_gathers() -> None:
    """Under ZeRO-3 the others would wait for it."""
    gathers = iter(range(3))
    assert Pinned().copied(((name, torch.ones(1)) for name in gathers if name > 2), []) == []
    assert next(gathers, None) is None


def test_few_bytes_are_under_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep what they copy from on the GPU."""
    monkeypatch.setattr("rapo.policy.host_memory.pinned_copies._UNDER_WAY", 1000)
    pinned = Pinned()
    copies = pinned.of(*(torch.full((100,), float(number)) for number in range(20)))
    assert [float(copied[-1]) for copied in copies] == list(range(20))
    assert pinned.late.most == 1200


def test_memory_that_cannot_be_pinned_serves_as_well(caplog: pytest.LogCaptureFixture) -> None:
    """No process pins memory without a GPU."""
    assert pinned_memory(10).numel() == 10
    assert "cannot be pinned" in caplog.text


@pytest.mark.usefixtures("world")
def test_a_version_that_is_being_published_is_not_overwritten_by_the_next_snapshots(tiny_model: Path) -> None:
    made = trainer(tiny_model, "learner.chunk_mib=1")
    pinned = like_a_gpu(made)
    made.snapshot(0)
    expected = {name: tensor.clone() for name, tensor in made.weights(0)}
    publication = made.publish(0)
    taken: list[Any] = [[data.copy() for data in next(publication)]]
    for version in (1, 2, 3):
        step(made)
        made.snapshot(version)
        newest = dict(made.weights(version))
        assert any(not torch.equal(newest[name], expected[name]) for name in newest)
    assert len(pinned.allocated) == 3, "the one that is published, the snapshot, and the one in the making"
    thread = Thread(target=lambda: taken.extend(publication))
    thread.start()
    thread.join(timeout=60)
    *chunks, manifest = taken
    published = dict(unpack(manifest, chunks))
    assert published.keys() == expected.keys()
    assert all(torch.equal(published[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("settings", SETTINGS)
def test_snapshots_are_those_without_pinned_memory(tiny_model: Path, settings: tuple[str, ...]) -> None:
    plain, other = trainer(tiny_model, *settings), trainer(tiny_model, *settings)
    pinned = like_a_gpu(other)
    for version in range(4):
        for made in (plain, other):
            made.snapshot(version)
        one, two = dict(plain.weights(version)), dict(other.weights(version))
        assert list(one) == list(two)
        assert all(torch.equal(one[name], two[name]) for name in one)
        del one, two
        for made in (plain, other):
            step(made)
    assert len(pinned.allocated) == 2


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_states_are_those_without_pinned_memory_whenever_they_are_packed(
    tiny_model: Path, settings: tuple[str, ...]
) -> None:
    plain, other = trainer(tiny_model, *settings), trainer(tiny_model, *settings)
    pinned = like_a_gpu(other)
    copies = []
    for _ in range(3):
        numbers = [made.copy_state() for made in (plain, other)]
        copies.append([(made, number) for made, number in zip((plain, other), numbers, strict=True)])
        for made in (plain, other):
            step(made)
    first = len(pinned.allocated)
    for pair in copies:
        one, two = (made.pack_state(number) for made, number in pair)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one)
    for _ in range(3):
        other.pack_state(other.copy_state())
    assert len(pinned.allocated) == first, "three copies were held at a time"
