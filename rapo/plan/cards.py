"""Cards: memory and speed of GPUs, from NVIDIA's data sheets (dense bfloat16, SXM where there is
one)."""

from __future__ import annotations

from dataclasses import dataclass

from rapo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Card:
    """`memory` in bytes; `flops` in bfloat16 per second; bytes per second from its own memory, to
    the other GPUs of the node (one direction) and to the host."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    host_link: float


CARDS = {
    card.name: card
    for card in (
        Card("A100-80", 85.5e9, 312e12, 2.04e12, 300e9, 25e9),
        Card("H100-80", 85.5e9, 989e12, 3.35e12, 450e9, 50e9),
        Card("H200", 150.1e9, 989e12, 4.80e12, 450e9, 50e9),
        Card("L40S", 48.3e9, 362e12, 0.86e12, 25e9, 25e9),
        Card("L4", 24.1e9, 121e12, 0.30e12, 12e9, 12e9),
    )
}


def card_named(name: str) -> Card:
    """Raises `ConfigError` for one that is not known."""
    if name not in CARDS:
        raise ConfigError(f"no figures for a GPU {name!r}; there are some for {', '.join(CARDS)}")
    return CARDS[name]
