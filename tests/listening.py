"""Listening sockets of a process and all below it, as the kernel has them."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes connections at `address` and `port`, of a process with this name."""

    process: str
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def family(process: int) -> list[int]:
    """The process and all below it."""
    found = [process]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):  # it has ended
                found.extend(int(child) for child in children.read_text().split())
    return found


def listeners(process: int) -> list[Listener]:
    """What the process and all below it listen at, in the process's network namespace."""
    bound = {inode: (address, port) for inode, address, port in _bound(process)}
    found = []
    for one in family(process):
        with suppress(OSError):
            name = Path(f"/proc/{one}/comm").read_text().strip()
            for descriptor in os.listdir(f"/proc/{one}/fd"):
                with suppress(OSError):
                    target = os.readlink(f"/proc/{one}/fd/{descriptor}")
                    if (place := bound.get(target)) is not None:
                        found.append(Listener(name, *place))
    return sorted(set(found), key=lambda listener: (listener.process, listener.address, listener.port))


def _bound(process: int) -> Iterator[tuple[str, str, int]]:
    for table, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                yield f"socket:[{fields[9]}]", socket.inet_ntop(kind, _bytes(address)), int(port, 16)


def _bytes(address: str) -> bytes:
    """The kernel prints addresses as words of the machine's own order."""
    words = [address[at : at + 8] for at in range(0, len(address), 8)]
    return b"".join(int(word, 16).to_bytes(4, "little") for word in words)
