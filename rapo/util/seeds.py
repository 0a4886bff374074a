"""Seeds that depend on what is sampled, not on the process that samples it."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A 48-bit seed from the run seed, an image uid, a step, ...: the same on every machine and in
    every process."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")
