"""Weights: packing and unpacking bit for bit, without copies, with every damage found."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
import xxhash
from builders import gathered
from hypothesis import given
from hypothesis import strategies as st

from rapo.errors import WeightError
from rapo.policy.trainer import load_model
from rapo.policy.weight_packing import checksum, chunk_count, divide, model_tensors, pack, unpack
from rapo.records import WeightManifest


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (7, 5), "a.bias": (3,), "scale": (), "b.weight": (40, 9), "c": (1, 1, 2)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def packed(chunk_bytes=512, **kwargs):
    *chunks, manifest = pack(tensors(**kwargs).items(), 7, chunk_bytes)
    return [[part.copy() for part in chunk] for chunk in chunks], manifest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("chunk_bytes", [1, 64, 300, 512, 1500, 2**20])
def test_packed_tensors_unpack_bit_for_bit(dtype, chunk_bytes):
    wanted = tensors(dtype)
    chunks, manifest = packed(chunk_bytes, dtype=dtype)
    got = dict(unpack(manifest, chunks))
    assert list(got) == list(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == dtype
        assert got[name].shape == tensor.shape
        assert torch.equal(got[name], tensor)
    assert manifest.version == 7
    assert manifest.chunks == len(chunks)
    assert manifest.nbytes == sum(t.numel() * t.element_size() for t in wanted.values())


def test_chunks_are_small_unless_one_tensor_is_large():
    chunks, manifest = packed(512)
    assert len(chunks) > 1
    for index, chunk in enumerate(chunks):
        held = [spec for spec in manifest.tensors if spec.chunk == index]
        assert sum(map(len, chunk)) <= 512 or len(held) == 1
        assert [len(part) for part in chunk] == [spec.nbytes for spec in held]
    assert len(packed(2**20)[0]) == 1


@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 1000), st.integers(1, 8))
def test_ranks_have_whole_chunks_in_order_and_about_as_many_bytes(sizes, chunk_bytes, ranks):
    owners = divide(sizes, chunk_bytes, ranks)
    assert owners == sorted(owners)
    assert owners[0] == 0
    assert owners[-1] < ranks
    wanted = [(str(index), torch.zeros(size, dtype=torch.uint8)) for index, size in enumerate(sizes)]
    *_, whole = pack(wanted, 1, chunk_bytes)
    shares = [[item for item, owner in zip(wanted, owners, strict=True) if owner == rank] for rank in range(ranks)]
    manifests = [list(pack(share, 1, chunk_bytes))[-1] for share in shares if share]
    assert WeightManifest.joined(manifests) == whole
    most = max(sum(spec.nbytes for spec in whole.tensors if spec.chunk == chunk) for chunk in range(whole.chunks))
    for share in shares:
        assert sum(tensor.nbytes for _, tensor in share) <= sum(sizes) / ranks + most
    assert [chunk_count([tensor.nbytes for _, tensor in share], chunk_bytes) for share in shares if share] == [
        manifest.chunks for manifest in manifests
    ]


def test_parts_of_several_versions_or_with_a_tensor_twice_make_no_version():
    one, other = (list(pack(tensors().items(), version, 2**20))[-1] for version in (1, 2))
    assert WeightManifest.joined([one]) == one
    for parts in ([one, other], [one, one]):
        with pytest.raises(WeightError, match="do not make one version"):
            WeightManifest.joined(parts)


def test_a_tensor_that_is_not_contiguous_is_packed_as_it_reads():
    wanted = torch.arange(12.0).reshape(3, 4).T
    *chunks, manifest = pack([("t", wanted)], 0, 2**20)
    assert torch.equal(dict(unpack(manifest, chunks))["t"], wanted)


def test_tensors_can_be_written_without_touching_the_chunks():
    """The object store maps one copy of a chunk into every process of a node, read-only."""
    chunks, manifest = packed()
    before = [part.copy() for chunk in chunks for part in chunk]
    for _, tensor in unpack(manifest, chunks):
        tensor.zero_()
    for part, old in zip((part for chunk in chunks for part in chunk), before, strict=True):
        np.testing.assert_array_equal(part, old)


def test_views_share_the_chunks_memory_except_the_last_of_each():
    chunks, manifest = packed()
    last = {spec.chunk: spec.name for spec in manifest.tensors}
    for spec, (name, tensor) in zip(manifest.tensors, unpack(manifest, chunks, views=True), strict=True):
        shared = np.shares_memory(tensor.numpy(), chunks[spec.chunk][spec.place])
        assert shared == (last[spec.chunk] != name)


def test_packing_copies_nothing():
    wanted = tensors()
    *chunks, manifest = pack(wanted.items(), 0, 512)
    for spec in manifest.tensors:
        assert np.shares_memory(chunks[spec.chunk][spec.place], wanted[spec.name].numpy())


@pytest.mark.parametrize("views", [False, True])
def test_a_chunk_is_released_before_the_next_is_fetched(views):
    *wanted, manifest = pack(tensors().items(), 7, 512)
    assert len(wanted) == 3
    alive: set[tuple[int, int]] = set()

    def fetch():
        for number, chunk in enumerate(wanted):
            assert not alive, f"chunk {alive} is held while {number} is fetched"
            parts = [part.copy() for part in chunk]
            for place, part in enumerate(parts):
                alive.add((number, place))
                weakref.finalize(part, alive.discard, (number, place))
            del part
            yield parts
            del parts

    # A receiver holds the tensor that it was given last while it asks for the next.
    assert [name for name, tensor in unpack(manifest, fetch(), views=views)] == list(tensors())


@pytest.mark.parametrize("index", range(5))
def test_a_flipped_bit_is_found_in_every_tensor(index):
    chunks, manifest = packed(2**20)
    spec = manifest.tensors[index]
    chunks[spec.chunk][spec.place][spec.nbytes // 2] ^= 1
    with pytest.raises(WeightError, match=f"weight version 7: {spec.name} does not match its checksum"):
        list(unpack(manifest, chunks))


def test_nothing_is_yielded_after_damage():
    chunks, manifest = packed(2**20)
    chunks[0][2][0] ^= 1
    stream = unpack(manifest, chunks)
    assert [next(stream)[0], next(stream)[0]] == ["a.weight", "a.bias"]
    with pytest.raises(WeightError):
        next(stream)


@pytest.mark.parametrize("index", range(3))
def test_a_missing_chunk_is_found(index):
    chunks, manifest = packed(512)
    assert len(chunks) == 3
    del chunks[index]
    with pytest.raises(WeightError, match=r"incomplete|checksum"):
        list(unpack(manifest, chunks))


def test_no_chunk_at_all_is_incomplete():
    _, manifest = packed()
    with pytest.raises(WeightError, match=r"version 7 is incomplete: a\.weight and what follows"):
        list(unpack(manifest, []))


def test_a_truncated_or_exchanged_chunk_is_found():
    chunks, manifest = packed(512)
    with pytest.raises(WeightError, match="checksum"):
        list(unpack(manifest, [chunks[0], chunks[1][:-1], *chunks[2:]]))
    with pytest.raises(WeightError, match="checksum"):
        list(unpack(manifest, [chunks[1], chunks[0], *chunks[2:]]))


def test_the_checksum_is_xxh3_128():
    data = np.arange(100, dtype=np.uint8)
    assert checksum(data) == xxhash.xxh3_128(data.tobytes()).hexdigest()


def test_tied_parameters_travel_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    found = gathered(model_tensors(model))
    assert list(found) == ["0.weight"]
    assert not found["0.weight"].requires_grad


def test_a_copy_shares_no_memory_with_the_parameters_and_what_is_only_read_does(tiny_model):
    model = load_model(tiny_model, "float32")
    own = {name: p.untyped_storage().data_ptr() for name, p in model.named_parameters()}
    shared = {name: t.untyped_storage().data_ptr() for name, t in gathered(model_tensors(model)).items()}
    copies = {name: t.untyped_storage().data_ptr() for name, t in gathered(model_tensors(model, copies=True)).items()}
    assert shared == own
    assert not set(copies.values()) & set(own.values())
