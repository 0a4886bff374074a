"""Broadcast: a weight version from its senders, one share after the other, to all receivers.

- A bucket is a header and the bytes of some tensors: at most `learner.chunk_mib`, or one larger
  tensor. Beside the model each member holds one bucket, on its device. A sender fills its first one
  while it waits for its turn.
- A receiver has the version when it has the shares of all senders of the meeting, each to its end.
- Each bucket's fingerprint is computed on the device of either side, and compared before a tensor
  is used.
- Names, dtypes and bytes are those that the object store would carry
  (`rapo.policy.weight_packing`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TypedDict

import torch

from rapo.errors import WeightError
from rapo.policy.broadcast.weight_group import WeightGroup
from rapo.records import Meeting

#: torch views bytes as another dtype only where they begin at a multiple of its size.
_ALIGN = 64
#: Words of 32 bits in a row of the table that a fingerprint sums, and rows that are summed at once.
_ROW, _ROWS = 1024, 1024


class _Slot(TypedDict):
    """Where a tensor lies in its bucket, in bytes."""

    name: str
    dtype: str
    shape: list[int]
    offset: int
    nbytes: int


class _Header(TypedDict):
    slots: list[_Slot]
    nbytes: int
    fingerprint: list[int]


def send(
    group: WeightGroup,
    meeting: Meeting,
    member: int,
    version: int,
    tensors: Iterable[tuple[str, torch.Tensor]],
    bucket_bytes: int,
) -> None:
    """Send `tensors` as the share of `version` of this member to the receivers of `meeting`, after
    the senders before it. Raises `WeightError` where a member is missing or lost, and what
    `tensors` raises."""
    group.meet(meeting, member, version)
    try:
        for bucket in _buckets(tensors, bucket_bytes):
            slots, nbytes = _layout(bucket)
            data = torch.zeros(nbytes, dtype=torch.uint8, device=group.device)
            for slot, (_, tensor) in zip(slots, bucket, strict=True):
                data[slot["offset"] :][: slot["nbytes"]].copy_(tensor.reshape(-1).view(torch.uint8))
            header: _Header = {"slots": slots, "nbytes": nbytes, "fingerprint": fingerprint(data)}
            _send_bytes(group, member, json.dumps(header).encode())
            group.broadcast(data, member)
        _send_bytes(group, member, b"")
        group.pass_turn()
    except BaseException:
        group.leave()
        raise


def receive(group: WeightGroup, meeting: Meeting, member: int, version: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The `(name, tensor)` pairs of `version`, verified, on the group's device.

    Returns once all members are there, so that a member that is missing costs the receiver nothing
    that it holds. Raises `WeightError` then; the iterator raises it where a member is lost
    meanwhile, or bytes do not match their fingerprint.
    """
    group.meet(meeting, member, version)
    return _received(group, meeting.senders, version)


def _received(group: WeightGroup, senders: int, version: int) -> Iterator[tuple[str, torch.Tensor]]:
    complete = False
    try:
        for sender in range(senders):
            yield from _share(group, sender, version)
        complete = True
    finally:
        if not complete:  # the others must not wait for this member
            group.leave()


def _share(group: WeightGroup, sender: int, version: int) -> Iterator[tuple[str, torch.Tensor]]:
    while text := _receive_bytes(group, sender):
        header: _Header = json.loads(text)
        data = torch.empty(header["nbytes"], dtype=torch.uint8, device=group.device)
        group.broadcast(data, sender)
        if fingerprint(data) != header["fingerprint"]:
            first = header["slots"][0]["name"]
            raise WeightError(
                f"weight version {version}: {first} and what follows do not match their fingerprint; damaged on the way"
            )
        for slot in header["slots"]:
            own = data[slot["offset"] :][: slot["nbytes"]]
            yield slot["name"], own.view(getattr(torch, slot["dtype"])).reshape(slot["shape"])


def fingerprint(data: torch.Tensor) -> list[int]:
    """Two sums of the 32-bit words of `data` (`uint8`, a multiple of 4 KiB long), weighted by row
    and by column of a table.

    Any one word that changes changes both sums. Any two words that change places change one of
    them: weights and differences are too small for a product to vanish modulo 2**64.
    """
    table = data.view(torch.int32).reshape(-1, _ROW)
    sums = torch.zeros(2, dtype=torch.int64, device=data.device)
    columns = torch.arange(1, _ROW + 1, device=data.device)
    for start in range(0, len(table), _ROWS):
        part = table[start : start + _ROWS]
        rows = torch.arange(start + 1, start + len(part) + 1, device=data.device)
        sums[0] += (part.sum(1, dtype=torch.int64) * rows).sum()
        sums[1] += (part.sum(0, dtype=torch.int64) * columns).sum()
    return [int(value) for value in sums.tolist()]


def _buckets(
    tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    bucket: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in tensors:
        if bucket and size + tensor.nbytes > bucket_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += tensor.nbytes
    if bucket:
        yield bucket


def _layout(bucket: list[tuple[str, torch.Tensor]]) -> tuple[list[_Slot], int]:
    """The slots of the tensors, and the bytes of the bucket."""
    slots: list[_Slot] = []
    offset = 0
    for name, tensor in bucket:
        dtype = str(tensor.dtype).removeprefix("torch.")
        slots.append(_Slot(name=name, dtype=dtype, shape=list(tensor.shape), offset=offset, nbytes=tensor.nbytes))
        offset += -(-tensor.nbytes // _ALIGN) * _ALIGN
    row = 4 * _ROW
    return slots, -(-offset // row) * row


def _send_bytes(group: WeightGroup, sender: int, data: bytes) -> None:
    """Length, then bytes."""
    group.broadcast(torch.tensor([len(data)], device=group.device), sender)
    if data:
        group.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8).to(group.device), sender)


def _receive_bytes(group: WeightGroup, sender: int) -> bytes:
    length = torch.zeros(1, dtype=torch.int64, device=group.device)
    group.broadcast(length, sender)
    data = torch.empty(int(length), dtype=torch.uint8, device=group.device)
    if len(data):
        group.broadcast(data, sender)
    return data.cpu().numpy().tobytes()
