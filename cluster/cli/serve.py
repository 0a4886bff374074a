"""`rapo serve`: a scorer that runs until it is interrupted."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.served_models import Models, roll_out, watch_models
from cluster.cli.ui import check_page, page_of
from cluster.remote.exit_watchdog import exit_watchdog
from cluster.remote.ray_session import logical_cpus, ray_session
from cluster.terminal.console import Console
from cluster.terminal.stdio_redirect import noise_to
from rapo.config import Config
from rapo.errors import RapoError
from rapo.models.card import read_card
from rapo.models.folder import check_model_folder

if TYPE_CHECKING:
    from services.app import ScorerServer

_LOOK_S = 1.0

logger = logging.getLogger(__name__)


def serve_until_interrupted(
    config: Config, model: Path | None, models: Path | None = None, *, page: bool = False
) -> None:
    """Serve `model`, or what the file `models` names while it may change, until SIGINT or SIGTERM;
    then drain and stop.

    `page` adds the page for people, on loopback at `serve.ui_port`.
    """
    from services.app import ScorerServer, check_address

    if page:
        check_page(config)

    watched = None if models is None else watch_models(models)
    wanted = _single(model) if watched is None else watched.value
    check_address(config.serve)
    config = _with_room(config, len(wanted.folders))
    stop = threading.Event()
    log = Path(tempfile.gettempdir()) / f"rapo-serve-{os.getpid()}.log"
    words = (
        "error: the service ended without a word: its process was killed, or the Ray node that it ran on is gone. What "
        f"libraries printed is in {log}."
    )
    with noise_to(log) as (out, err), exit_watchdog(words, err):
        _log_calls()
        console = Console(stdout=out, stderr=err)
        with ExitStack() as stack:
            with console.stage("start"):
                stack.enter_context(ray_session(config))
                server = stack.enter_context(ScorerServer(config, wanted.folders[wanted.default], wanted.default))
                roll_out(server, wanted)
                if page:
                    people = stack.enter_context(page_of(config, server))
            # After the start: until here Ctrl-C ends it at once, and Ray installs handlers of its
            # own.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            console.note(f"model {_named(wanted)} answers at {server.address}; Ctrl-C stops it. Library output: {log}")
            if page:
                console.note(f"the page for people is {people.address}")
            while not stop.wait(timeout=_LOOK_S):
                if watched is not None and watched.refresh():
                    _follow(server, watched.value, console)
            console.note("stopping")


def _log_calls() -> None:
    """A line per call, and what the service says of itself, to the log of the libraries' output."""
    logging.basicConfig(format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s")
    for name in ("rapo", "services"):
        logging.getLogger(name).setLevel(logging.INFO)


def _single(model: Path | None) -> Models:
    if model is None:
        raise ValueError("neither a model nor a file of models was given")
    check_model_folder(model)
    version = read_card(model).version
    return Models(version, {version: model.resolve()})


def _follow(server: ScorerServer, wanted: Models, console: Console) -> None:
    console.note(f"rolling out {_named(wanted)}")
    try:
        roll_out(server, wanted)
    except RapoError as error:
        logger.error("the roll-out failed: %s", error)
        console.note(f"the roll-out failed, what was served is served on: {error}")
    else:
        console.note(f"now serving {_named(wanted)}")


def _with_room(config: Config, versions: int) -> Config:
    """A local Ray needs permits for all versions, and for one more while one takes another's
    place."""
    if config.ray.cpus is not None:
        return config
    room = int(-(-(versions + 1) * config.serve.most_replicas * config.serve.cpus // 1)) + 3
    return config.model_copy(update={"ray": config.ray.model_copy(update={"cpus": max(room, logical_cpus(config))})})


def _named(models: Models) -> str:
    others = sorted(models.folders.keys() - {models.default})
    return models.default + (f" (and {', '.join(others)})" if others else "")
