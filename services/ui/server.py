"""PageServer: the page for people. It ranks and explains images, compares two, and shows what the
model saw.

- It listens on loopback only, and calls the scorer like any other client.
- A page elsewhere on the web cannot use it through a visitor's browser (`services.ui.guard`).
- Images are held in memory until they are answered, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rapo.answers.readout_names import READOUTS
from rapo.client import AsyncScorerClient, CallError, Outcome, ScoreOptions
from rapo.config import ImageConfig
from rapo.errors import ImageError, RapoError, ResourceError
from rapo.images.model_view import ModelView
from services.ui.guard import Guard

STATIC = Path(__file__).parent / "static"

_BODY_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_START_LIMIT_S = 30.0
_AT_ONCE = 16  # requests in flight; the page itself sends fewer
_STATUS = {"INVALID_ARGUMENT": 422, "FAILED_PRECONDITION": 422, "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503,
           "DEADLINE_EXCEEDED": 504}  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageSettings:
    """`client` makes the client of the scorer. `view` returns how the default model sees images,
    which a roll-out may change; it is None without a model folder. `port` 0 takes any."""

    client: Callable[[], AsyncScorerClient]
    view: Callable[[], ModelView] | None = None
    limits: ImageConfig = field(default_factory=ImageConfig)
    port: int = 0


class TooLarge(RapoError):
    """An upload beyond the limit."""


def build_page(settings: PageSettings, port: int) -> Starlette:
    """The page's application, for a server on loopback at `port`."""
    client = settings.client()
    room, decoder = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(1)
    limits = settings.limits

    async def index(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def model(request: Request) -> Response:
        info = await client.model()
        known = [name for name in info.readouts if name in READOUTS]
        here = {"readouts": known, "max_image_bytes": limits.max_bytes, "view": settings.view is not None}
        return JSONResponse({**asdict(info), **here})

    async def explain(request: Request) -> Response:
        async with room:
            image = await _body(request, limits.max_bytes)
        return StreamingResponse(_events(client, room, image, _options(request)), media_type="text/event-stream")

    async def compare(request: Request) -> Response:
        async with room:
            body = await _body(request, 2 * limits.max_bytes)
            first = _number(request.query_params.get("first", ""))
            if not 0 < first < len(body):
                raise ImageError("two images are needed: `first` is the size of the first one", reason="missing")
            images = [body[:first], body[first:]]
            ranking = await client.rank(images, readout=_options(request).get("readout"))
            outcomes: list[Outcome] = sorted(ranking.order, key=lambda outcome: outcome.index)
            for outcome in outcomes:
                if outcome.error is not None:
                    raise outcome.error
            return JSONResponse(
                {
                    "preference": ranking.preference[0][1],
                    "scores": [outcome.result.score for outcome in outcomes if outcome.result is not None],
                }
            )

    async def seen(request: Request) -> Response:
        if settings.view is None:
            return _problem(404, "the model's folder is not at hand here", "no_view")
        async with room:
            image = await _body(request, limits.max_bytes)
            async with decoder:  # each may take most of a gigabyte
                shown = await asyncio.to_thread(settings.view().render, image, limits)
        sizes = {"X-Size": "x".join(map(str, shown.size)), "X-Original": "x".join(map(str, shown.original))}
        return Response(shown.png, media_type="image/png", headers=sizes)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        yield
        await client.close()

    app = Starlette(
        routes=[
            Route("/", index),
            Route("/api/model", model),
            Route("/api/explain", explain, methods=["POST"]),
            Route("/api/compare", compare, methods=["POST"]),
            Route("/api/seen", seen, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={RapoError: _answer_error},
        lifespan=lifespan,
    )
    app.add_middleware(Guard, port=port)
    return app


class PageServer:
    """The page in a thread of its own; use it as a context manager. Raises `ResourceError` if the
    port is taken."""

    def __init__(self, settings: PageSettings) -> None:
        self._settings = settings
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._run, name="rapo-page", daemon=True)
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self.port = 0

    @property
    def address(self) -> str:
        """The page's URL."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", self._settings.port))
            self._socket.listen()  # a browser that comes while the server starts waits instead of being refused
        except OSError as error:
            self._socket.close()
            raise ResourceError(
                f"the page for people cannot listen on port {self._settings.port}: {error.strerror or error}. Free the port, or "
                "choose another with --set serve.ui_port=..."
            ) from error
        self.port = self._socket.getsockname()[1]
        self._thread.start()
        if not self._ready.wait(_START_LIMIT_S) or self._server is None:
            raise ResourceError("the page for people did not start; see the log")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(_STOP_LIMIT_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, RuntimeError, SystemExit):
            logger.exception("the page for people failed")
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        config = uvicorn.Config(
            build_page(self._settings, self.port),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(_STOP_LIMIT_S / 2),
        )
        self._server = uvicorn.Server(config)
        self._ready.set()
        await self._server.serve(sockets=[self._socket])


def _options(request: Request) -> ScoreOptions:
    readout = request.query_params.get("readout")
    return {"readout": readout} if readout else {}


async def _events(
    client: AsyncScorerClient, room: asyncio.Semaphore, image: bytes, options: ScoreOptions
) -> AsyncGenerator[bytes, None]:
    """Server-sent events: `piece`s of the rationale, then one `result` or one `error`."""
    try:
        async with room, aclosing(client.explain(image, **options)) as parts:
            async for part in parts:
                yield _event("piece", part) if isinstance(part, str) else _event("result", asdict(part))
    except RapoError as error:
        yield _event("error", {"error": str(error), "code": _code(error), "reason": _reason(error)})


def _number(text: str) -> int:
    """A size in bytes; 0 for what is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()


async def _body(request: Request, limit: int) -> bytes:
    declared = _number(request.headers.get("content-length", ""))
    if declared > limit:
        raise TooLarge(f"the image has {declared:,} bytes; {limit:,} are allowed")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_LIMIT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"the image has more than the {limit:,} bytes that are allowed")
    except (TimeoutError, ClientDisconnect) as error:
        raise ImageError("the image did not arrive whole", reason="truncated") from error
    if not body:
        raise ImageError("the request holds no image", reason="empty")
    return bytes(body)


def _code(error: Exception) -> str | None:
    return error.code if isinstance(error, CallError) else None


def _reason(error: Exception) -> str | None:
    return error.reason if isinstance(error, CallError | ImageError) else None


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, TooLarge):
        return _problem(413, str(error), "too_many_bytes")
    status = 422 if isinstance(error, ImageError) else _STATUS.get(_code(error) or "", 502)
    return _problem(status, str(error), _reason(error))


def _problem(status: int, words: str, reason: str | None) -> Response:
    return JSONResponse({"error": words, "reason": reason}, status_code=status)
