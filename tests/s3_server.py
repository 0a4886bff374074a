"""S3Server: moto's S3 server in a process of its own, and a line to it that fails on demand."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "bucket"

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    """What a process needs to reach the server at a port."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def s3_server() -> Iterator[int]:
    """A server with an empty `BUCKET`; yields its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MOTO_S3_CUSTOM_ENDPOINTS": ""},
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline, "moto's server did not start"
            assert process.poll() is None, "moto's server ended"
            time.sleep(0.1)
        from pyarrow import fs

        files = fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            region="us-east-1",
            access_key="test",
            secret_key="test",
            allow_bucket_creation=True,
        )
        files.create_dir(BUCKET)
        yield port
    finally:
        process.kill()
        process.wait(10)


class Line:
    """A TCP line to a port. Each new connection takes the first of `faults`, if any is left:

    - "503": one request is answered with 503 SlowDown;
    - "break": the connection is reset after 20 kB in either direction;
    - "slow": 100 kB arrive in a second;
    - "hang": nothing is ever answered.
    """

    def __init__(self, target: int) -> None:
        self.faults: list[str] = []
        self.met: list[str] = []
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close the connections that are open, so that the next request makes a new one."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            fault = self.faults.pop(0) if self.faults else ""
            self.met.append(fault)
            self._open.append(client)
        if fault == "503":
            with contextlib.suppress(OSError):
                client.recv(65536)
                head = f"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: {len(_SLOW_DOWN)}\r\n\r\n"
                client.sendall(head.encode() + _SLOW_DOWN)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            client.close()
            return
        if fault == "hang":
            time.sleep(60)
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        with self._lock:
            self._open.append(server)
        back = threading.Thread(target=self._pipe, args=(server, client, fault), daemon=True)
        back.start()
        self._pipe(client, server, fault)
        back.join(60)

    def _pipe(self, source: socket.socket, sink: socket.socket, fault: str) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(10_000 if fault else 65536):
                if fault == "slow":
                    time.sleep(0.1)
                if fault == "break" and passed > 20_000:
                    # Closing with this option sends a reset.
                    for end in (source, sink):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        end.close()
                    return
                sink.sendall(data)
                passed += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    line = Line(port)
    try:
        yield line
    finally:
        line.close()
