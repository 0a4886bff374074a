"""Splits: assigns images to splits by a stable hash of seed and uid.

Adding or removing images never moves the others between training and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import get_args

from rapo.errors import DataError
from rapo.records import Split


def hash_fraction(seed: int, uid: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the arguments only and is the same on every machine
    (BLAKE2b)."""
    digest = hashlib.blake2b(f"{purpose}\0{seed}\0{uid}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def hash_splits(uids: Iterable[str], *, seed: int, validation_fraction: float, test_fraction: float) -> list[Split]:
    """A split for each uid. With three images or more no split is empty.

    Raises `DataError` if the fractions leave nothing for training.
    """
    if validation_fraction + test_fraction >= 1.0:
        raise DataError(
            f"data.validation_fraction {validation_fraction} and data.test_fraction {test_fraction} leave nothing to "
            "train on: their sum must be below 1"
        )
    fractions = [hash_fraction(seed, uid, "split") for uid in uids]
    splits: list[Split] = [
        "test" if value < test_fraction else "validation" if value < test_fraction + validation_fraction else "train"
        for value in fractions
    ]
    if len(splits) >= 3:
        for split in ("test", "validation", "train"):
            if split not in splits:
                _fill_split(splits, fractions, split)
    return splits


def carve_validation(uids: Iterable[str], *, seed: int, fraction: float) -> list[bool]:
    """Whether each training uid goes to validation: about `fraction` of them, at least one of two
    or more. Raises `DataError` if `fraction` leaves nothing for training."""
    if fraction >= 1.0:
        raise DataError(f"data.validation_fraction {fraction} leaves nothing to train on: it must be below 1")
    fractions = [hash_fraction(seed, uid, "validation") for uid in uids]
    chosen = [value < fraction for value in fractions]
    if len(chosen) >= 2 and not any(chosen):
        chosen[min(range(len(chosen)), key=fractions.__getitem__)] = True
    if len(chosen) >= 2 and all(chosen):
        chosen[max(range(len(chosen)), key=fractions.__getitem__)] = False
    return chosen


def _fill_split(splits: list[Split], fractions: list[float], split: Split) -> None:
    """Move one image of the fullest split to the empty `split`: the one with the highest fraction
    to train, the lowest to the others."""
    fullest = max(get_args(Split), key=splits.count)
    members = [index for index, value in enumerate(splits) if value == fullest]
    pick = max if split == "train" else min
    splits[pick(members, key=fractions.__getitem__)] = split
