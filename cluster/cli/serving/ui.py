"""Web page: started beside a scorer (`rapo serve --ui`), or for one that runs elsewhere (`rapo
ui`)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rapo.config import Config, ImageConfig
from rapo.errors import ConfigError
from rapo.models.folder import check_model_folder

if TYPE_CHECKING:
    from rapo.client.aio import AsyncScorerClient
    from services.app import ScorerServer
    from services.ui.server import PageServer


def check_ui_allowed(config: Config) -> None:
    """Raise `ConfigError` where the page could not reach the scorer beside it, because it has
    neither a token nor a certificate."""
    gateway = config.serve.gateway
    if gateway.certificate is not None or gateway.tokens is not None or gateway.client_ca is not None:
        raise ConfigError(
            "--ui works where the scorer asks for neither TLS nor tokens. For this one, start the page on its own: rapo ui "
            "--server HOST:PORT --ca FILE --token-file FILE."
        )


def ui_beside(config: Config, server: ScorerServer) -> PageServer:
    """The page for a scorer of this process."""
    from rapo.client.aio import AsyncScorerClient
    from rapo.images.model_view import ModelView
    from services.ui.server import PageServer, PageSettings

    return PageServer(
        PageSettings(
            client=lambda: AsyncScorerClient(server.address, config.serve.request_timeout_s),
            view=lambda: ModelView.of(server.versions[server.default]),
            limits=config.image,
            port=config.serve.ui_port,
        )
    )


def serve_ui_until_interrupted(
    client: Callable[[], AsyncScorerClient], model: Path | None, port: int, say: Callable[[str], None]
) -> None:
    """Serve the page until SIGINT or SIGTERM. With a `model` folder it shows images as the model
    sees them."""
    from rapo.images.model_view import ModelView
    from services.ui.server import PageServer, PageSettings

    view = None
    if model is not None:
        check_model_folder(model)
        ModelView.of(model)  # a folder that cannot be shown is an error now, not at the first image
        view = partial(ModelView.of, model)
    stop = threading.Event()
    with PageServer(PageSettings(client=client, view=view, limits=ImageConfig(), port=port)) as page:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        say(f"the web page is {page.address}; Ctrl-C stops it")
        while not stop.wait(timeout=1.0):
            pass
