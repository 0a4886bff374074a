"""A real HTTP server that answers as an OpenAI-compatible endpoint does, or fails as one does.

It reads requests from plain sockets, so that it can break off in the middle of an answer.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server does with one request. `cut`: so many bytes of the body are sent, then the
    connection is closed; `silent_s`: it says nothing for so long first."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    silent_s: float = 0.0
    trickle_s: float = 0.0


def completion(text: str | None = "Soft light.", **more: object) -> Reply:
    """A well-formed answer of 1,000 prompt tokens and 100 completion tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return Reply(body=json.dumps({"choices": [choice], "usage": usage, "model": "served-1", **more}))


class ChatServer:
    """Answers each request by `behave(number, body)`; keeps the bodies and headers that it got. The
    body of a request without one is its path."""

    def __init__(self, behave: Callable[[int, dict[str, object]], Reply]) -> None:
        self.behave = behave
        self.bodies: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.address = ""

    @property
    def base_url(self) -> str:
        return f"http://{self.address}/v1"


@contextmanager
def chat_server(behave: Callable[[int, dict[str, object]], Reply]) -> Iterator[ChatServer]:
    server = ChatServer(behave)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if (request := self._read()) is None:
                return
            headers, body = request
            with server.lock:
                number = len(server.bodies)
                server.bodies.append(body)
                server.headers.append(headers)
                server.times.append(time.monotonic())
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                self._answer(server.behave(number, body))
            finally:
                with server.lock:
                    server.at_once -= 1

        def _read(self) -> tuple[dict[str, str], dict[str, object]] | None:
            first = self.rfile.readline().decode().split()
            if not first:
                return None
            headers = {}
            while (line := self.rfile.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if first[0] == "GET":
                return headers, {"get": first[1]}
            return headers, json.loads(self.rfile.read(int(headers["content-length"])))

        def _answer(self, reply: Reply) -> None:
            server.ended.wait(reply.silent_s)
            data = reply.body.encode()
            headers = {"content-type": "application/json", "content-length": str(len(data)), "connection": "close"}
            lines = [f"{name}: {value}" for name, value in {**headers, **reply.headers}.items()]
            head = f"HTTP/1.1 {reply.status} X\r\n" + "\r\n".join(lines) + "\r\n\r\n"
            self.wfile.write(head.encode())
            sent = data if reply.cut is None else data[: reply.cut]
            for at in range(len(sent)):
                if reply.trickle_s and server.ended.wait(reply.trickle_s):
                    return
                self.wfile.write(sent[at : at + 1])

        def finish(self) -> None:
            try:
                super().finish()
            except OSError:  # the client has given up
                return

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 100

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that gives up is expected."""

    with Threads(("127.0.0.1", 0), Handler) as listening:
        host, port = listening.server_address[:2]
        server.address = f"{host!s}:{port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            listening.shutdown()
            thread.join(10)
