"""DnsServer: a name server on loopback whose answers a test changes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_A, _IN = 1, 1


class DnsServer:
    """Answers for `name` with the IPv4 `addresses`, which nobody may keep; else with none."""

    def __init__(self, name: str, *addresses: str) -> None:
        self.name = name
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    @contextmanager
    def running(self) -> Iterator[DnsServer]:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):  # it is not connected, and is woken all the same
                self._socket.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(4096)
                if not query:
                    return
                self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind, end = struct.unpack("!H", query[at + 1 : at + 3])[0], at + 5
        found: tuple[str, ...] = ()
        if ".".join(labels) == self.name and kind == _A:
            found = self.addresses
        head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, len(found), 0, 0)
        records = [b"\xc0\x0c" + struct.pack("!HHIH", _A, _IN, 0, 4) + socket.inet_aton(one) for one in found]
        return head + query[12:end] + b"".join(records)
