"""`rapo serve`: a scorer that runs until it is interrupted."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cluster.console import Console
from cluster.files import read_json
from cluster.noise import noise_to
from cluster.ray_session import ray_session
from cluster.stages.export import CARD, model_version
from rapo.config import Config
from rapo.model_folder import check_model_folder


def serve_until_interrupted(config: Config, model: Path) -> None:
    """Serve `model` on `serve.host:serve.port` until SIGINT or SIGTERM; then drain and stop."""
    from services.app import ScorerServer, check_address

    card = model_card(model)
    check_address(config.serve)
    version = card["version"]
    config = with_card(config, card)
    stop = threading.Event()
    log = Path(tempfile.gettempdir()) / f"rapo-serve-{os.getpid()}.log"
    with noise_to(log) as (out, err):
        console = Console(stdout=out, stderr=err)
        with ExitStack() as stack:
            with console.stage("start"):
                stack.enter_context(ray_session(config))
                server = stack.enter_context(ScorerServer(config, model, version))
            # After the start: until here Ctrl-C ends it at once, and Ray installs handlers of its own.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            console.note(f"model {version} answers at {server.address}; Ctrl-C stops it. Library output: {log}")
            while not stop.wait(timeout=1.0):
                pass
            console.note("stopping")


def model_card(model: Path) -> dict[str, Any]:
    """What the model folder says of itself: its version at least. Raises `ModelError` where it is no model folder."""
    check_model_folder(model)
    return read_json(model / CARD) if (model / CARD).is_file() else {"version": model_version(model)}


def with_card(config: Config, card: dict[str, Any]) -> Config:
    """The configuration with the lengths and the dtype that the exported model was trained with, as its card says."""
    engine = card.get("engine", {})
    policy = {key: engine[key] for key in ("dtype", "max_completion_tokens") if key in engine}
    rollout = config.rollout
    if "max_model_len" in engine:
        lengths = rollout.engine.model_copy(update={"max_model_len": engine["max_model_len"]})
        rollout = rollout.model_copy(update={"engine": lengths})
    return config.model_copy(update={"policy": config.policy.model_copy(update=policy), "rollout": rollout})
