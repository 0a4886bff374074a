"""Serve: a scorer that runs until it is interrupted, for `rapo serve`."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.serving.served_models import ServedModels, roll_out, watch_models
from cluster.cli.serving.ui import check_ui_allowed, ui_beside
from cluster.remote.exit_watchdog import exit_watchdog
from cluster.remote.ray_session import logical_cpus, ray_session
from cluster.terminal.console import Console
from cluster.terminal.stdio_redirect import redirect_output
from rapo.config import Config
from rapo.models.card import read_card
from rapo.models.folder import check_model_folder
from rapo.models.separate_check import parameters_checked
from rapo.storage.local_copy import local_copy
from rapo.util.freed_memory import return_freed_memory
from rapo.util.printable import clipped
from rapo.util.private_folder import private_folder
from services.gateway import reloading
from services.gateway.reloading import FileFollower

if TYPE_CHECKING:
    from services.app import ScorerServer

_POLL_S = 1.0

logger = logging.getLogger(__name__)


def serve_until_interrupted(
    config: Config, model: Path | None, models: Path | None = None, *, ui: bool = False
) -> None:
    """Serve `model`, or the versions that the file `models` names, until SIGINT or SIGTERM; then
    drain and stop.

    `ui` adds the web page, on loopback at `serve.ui_port`.
    """
    from services.app import ScorerServer
    from services.gateway.exposure import check_address

    return_freed_memory()  # before Ray has threads
    if ui:
        check_ui_allowed(config)

    file = None if models is None else watch_models(models)
    wanted = _single(model, config) if file is None else file.value
    check_address(config.serve)
    config = _with_room(config, len(wanted.folders))
    stop = threading.Event()
    log = private_folder() / f"serve-{os.getpid()}.log"
    words = (
        "error: the service ended without a word: its process was killed, or the Ray node that it ran on is gone. "
        f"Library output is in {log}."
    )
    with redirect_output(log) as (out, err), exit_watchdog(words, err):
        _log_calls()
        console = Console(stdout=out, stderr=err)
        with ExitStack() as stack:
            with console.stage("start"):
                with parameters_checked(wanted.folders.values()):
                    stack.enter_context(ray_session(config))
                server = stack.enter_context(ScorerServer(config, wanted.folders[wanted.default], wanted.default))
                roll_out(server, wanted)
                page = stack.enter_context(ui_beside(config, server)) if ui else None
            # After the start, because Ray installs handlers of its own. Until here Ctrl-C ends the
            # process at once.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            console.note(f"model {_named(wanted)} answers at {server.address}; Ctrl-C stops it. Library output: {log}")
            if page is not None:
                console.note(f"the web page is {page.address}")
            stack.enter_context(changes_said(console))
            follower = FileFollower({} if file is None else {"models": file})
            stack.callback(follower.close)
            while not stop.wait(timeout=_POLL_S):
                follower.stuck()
                if file is not None and file.value is not wanted:
                    wanted = file.value
                    _follow(server, wanted, console)
            console.note("stopping")


class _ChangedFiles(logging.Handler):
    """Says on the console what becomes of changed files: models, tokens, certificates."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        say = self._console.warn if record.levelno >= logging.ERROR else self._console.note
        say(clipped(record.getMessage()))


@contextmanager
def changes_said(console: Console) -> Iterator[None]:
    """Say on `console` which changed files were read again, and which cannot be used."""
    handler, source = _ChangedFiles(console), logging.getLogger(reloading.__name__)
    source.addHandler(handler)
    try:
        yield
    finally:
        source.removeHandler(handler)


def _log_calls() -> None:
    """Log a line per call, and the service's own lines, to the file of library output."""
    logging.basicConfig(format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s")
    for name in ("rapo", "services"):
        logging.getLogger(name).setLevel(logging.INFO)


def _single(model: Path | None, config: Config) -> ServedModels:
    if model is None:
        raise ValueError("neither a model nor a file of models was given")
    model = local_copy(model, config.storage.scratch)
    check_model_folder(model)
    version = read_card(model).version
    return ServedModels(version, {version: model.resolve()})


def _follow(server: ScorerServer, wanted: ServedModels, console: Console) -> None:
    console.note(f"rolling out {_named(wanted)}")
    try:
        roll_out(server, wanted)
    except Exception as error:  # whatever it is, the versions that are served stay
        logger.exception("the roll-out failed")
        console.warn(f"the roll-out failed; the versions before it are still served: {clipped(str(error))}")
    else:
        console.note(f"now serving {_named(wanted)}")


def _with_room(config: Config, versions: int) -> Config:
    """A local Ray needs logical CPUs for all versions, and for one more during a roll-out."""
    if config.ray.cpus is not None:
        return config
    room = int(-(-(versions + 1) * config.serve.most_replicas * config.serve.cpus // 1)) + 3
    return config.model_copy(update={"ray": config.ray.model_copy(update={"cpus": max(room, logical_cpus(config))})})


def _named(models: ServedModels) -> str:
    others = sorted(models.folders.keys() - {models.default})
    return models.default + (f" (and {', '.join(others)})" if others else "")
