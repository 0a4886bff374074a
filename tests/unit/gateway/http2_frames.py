"""Frames of HTTP/2, for what no gRPC client would send."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as the server sent it."""

    kind: int
    flags: int
    stream: int
    body: bytes


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """A frame to send."""
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def half_sent(method: str, stream: int) -> bytes:
    """A call's headers, and 20 of the 1,000 bytes that its message is to have."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "127.0.0.1",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode() for name, value in fields.items()
    )
    part = b"\0" + struct.pack(">I", 1000) + b"x" * 20
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 0, stream, part)


class Connection:
    """A connection whose beginning was sent."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))

    def send(self, frames: bytes) -> None:
        self._socket.sendall(frames)

    def frames(self, limit_s: float) -> Iterator[Frame]:
        """What the server sends, until it closes the connection. Raises `TimeoutError` after
        `limit_s` seconds."""
        deadline, buffer = time.monotonic() + limit_s, b""
        while True:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                got = self._socket.recv(65536)
            except ConnectionResetError:
                return
            if not got:
                return
            buffer += got
            while len(buffer) >= 9 and len(buffer) >= (size := 9 + int.from_bytes(buffer[:3], "big")):
                yield Frame(buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), buffer[9:size])
                buffer = buffer[size:]


@contextmanager
def connected(port: int) -> Iterator[Connection]:
    """A connection to this port of 127.0.0.1."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as opened:
        yield Connection(opened)
