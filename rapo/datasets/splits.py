"""Splits: assigns images to splits by a stable hash of seed and uid.

Adding or removing images never moves the others between training and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rapo.arrays import Floats
from rapo.datasets.labels import CHUNK, SPLITS
from rapo.errors import DataError

_TRAIN, _VALIDATION, _TEST = (SPLITS.index(split) for split in ("train", "validation", "test"))


def hash_fraction(seed: int, uid: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the arguments only and is the same on every machine
    (BLAKE2b)."""
    return float(hash_fractions(seed, [uid], purpose)[0])


def hash_fractions(seed: int, uids: Iterable[str], purpose: str) -> Floats:
    """`hash_fraction` of each uid."""
    start = hashlib.blake2b(f"{purpose}\0{seed}\0".encode(), digest_size=8)
    digests = bytearray()
    for uid in uids:
        one = start.copy()  # what all have in common is hashed once
        one.update(uid.encode("utf-8", "surrogateescape"))
        digests += one.digest()
    whole, fractions = np.frombuffer(digests, ">u8"), np.frombuffer(digests)  # the same bytes
    for first in range(0, len(whole), CHUNK):
        fractions[first : first + CHUNK] = whole[first : first + CHUNK].astype(np.float64) / 2**64
    return fractions


def hash_splits(
    uids: Iterable[str], *, seed: int, validation_fraction: float, test_fraction: float
) -> NDArray[np.int8]:
    """A split for each uid, as an index of `SPLITS`. With three images or more no split is empty.

    Raises `DataError` if the fractions leave nothing for training.
    """
    if validation_fraction + test_fraction >= 1.0:
        raise DataError(
            f"data.validation_fraction {validation_fraction} and data.test_fraction {test_fraction} leave nothing to "
            "train on: their sum must be below 1"
        )
    fractions = hash_fractions(seed, uids, "split")
    splits = np.full(len(fractions), _TRAIN, np.int8)
    splits[fractions < test_fraction + validation_fraction] = _VALIDATION
    splits[fractions < test_fraction] = _TEST
    if len(splits) >= 3:
        for split in (_TEST, _VALIDATION, _TRAIN):
            if not (splits == split).any():
                _fill_split(splits, fractions, split)
    return splits


def subsample(uids: Sequence[str], limit: int | None, seed: int) -> NDArray[np.int64]:
    """The indices, ascending, of up to `limit` uids, sampled by the hash; all without a limit."""
    if limit is None or limit >= len(uids):
        return np.arange(len(uids))
    return np.sort(np.argsort(hash_fractions(seed, uids, "subsample"), kind="stable")[:limit])


def carve_validation(uids: Iterable[str], *, seed: int, fraction: float) -> NDArray[np.bool_]:
    """Whether each training uid goes to validation: about `fraction` of them, at least one of two
    or more. Raises `DataError` if `fraction` leaves nothing for training."""
    if fraction >= 1.0:
        raise DataError(f"data.validation_fraction {fraction} leaves nothing to train on: it must be below 1")
    fractions = hash_fractions(seed, uids, "validation")
    chosen = fractions < fraction
    if len(chosen) >= 2 and not chosen.any():
        chosen[fractions.argmin()] = True
    if len(chosen) >= 2 and chosen.all():
        chosen[fractions.argmax()] = False
    return chosen


def _fill_split(splits: NDArray[np.int8], fractions: Floats, split: int) -> None:
    """Move one image of the fullest split to the empty `split`: the one with the highest fraction
    to train, the lowest to the others."""
    members = np.flatnonzero(splits == np.bincount(splits, minlength=len(SPLITS)).argmax())
    pick = fractions[members].argmax() if split == _TRAIN else fractions[members].argmin()
    splits[members[pick]] = split
