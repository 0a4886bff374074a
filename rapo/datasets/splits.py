"""Splits by a stable hash: which split an image falls into depends on the seed and its uid, not on
its neighbours.

Adding or removing images therefore never moves the others between training and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import get_args

from rapo.errors import DataError
from rapo.records import Split


def hash_fraction(seed: int, uid: str, purpose: str) -> float:
    """A number in [0, 1) that depends on nothing but the arguments, the same on every machine
    (BLAKE2b)."""
    digest = hashlib.blake2b(f"{purpose}\0{seed}\0{uid}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def hash_splits(uids: Sequence[str], *, seed: int, validation_fraction: float, test_fraction: float) -> list[Split]:
    """A split for each uid. Where there are three images or more, no split is left empty.

    Raises `DataError` if the fractions leave nothing for training.
    """
    if validation_fraction + test_fraction >= 1.0:
        raise DataError(
            f"data.validation_fraction {validation_fraction} and data.test_fraction {test_fraction} leave nothing to "
            "train on: their sum must be below 1"
        )
    draws = [hash_fraction(seed, uid, "split") for uid in uids]
    splits: list[Split] = [
        "test" if draw < test_fraction else "validation" if draw < test_fraction + validation_fraction else "train"
        for draw in draws
    ]
    if len(uids) >= 3:
        for split in ("test", "validation", "train"):
            if split not in splits:
                _take_one(splits, draws, split)
    return splits


def carve_validation(uids: Sequence[str], *, seed: int, fraction: float) -> list[bool]:
    """Which of the training uids are to validate on: about `fraction`, at least one where there are
    two or more."""
    if fraction >= 1.0:
        raise DataError(f"data.validation_fraction {fraction} leaves nothing to train on: it must be below 1")
    draws = [hash_fraction(seed, uid, "validation") for uid in uids]
    chosen = [draw < fraction for draw in draws]
    if len(uids) >= 2 and not any(chosen):
        chosen[min(range(len(uids)), key=draws.__getitem__)] = True
    if len(uids) >= 2 and all(chosen):
        chosen[max(range(len(uids)), key=draws.__getitem__)] = False
    return chosen


def _take_one(splits: list[Split], draws: list[float], split: Split) -> None:
    """Move the image of the fullest split whose draw is nearest to where `split` lies (test lowest,
    train highest)."""
    fullest = max(get_args(Split), key=splits.count)
    members = [index for index, value in enumerate(splits) if value == fullest]
    pick = max if split == "train" else min
    splits[pick(members, key=draws.__getitem__)] = split
