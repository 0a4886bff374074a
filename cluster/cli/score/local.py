"""LocalScorer: a scorer that is started for one call of `rapo score --model DIR`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rapo.errors import ResourceError

_PARTS = ("pydantic", "ray", "torch", "vllm")


@contextmanager
def local_scorer(model: Path, config: Path | None, overrides: Sequence[str]) -> Iterator[tuple[str, TextIO, TextIO]]:
    """Start a scorer of `model` on a free loopback port; yields its address, and the terminal's
    stdout and stderr.

    What libraries print goes to a log file. Raises `ResourceError` where only the client is
    installed.
    """
    lacking = [name for name in _PARTS if importlib.util.find_spec(name) is None]
    if lacking:
        raise ResourceError(
            f"--model runs the model on this machine, which needs the full installation ({', '.join(lacking)} missing). "
            "Install rapo[cpu] or rapo[gpu], or give the --server of a running scorer."
        )
    from cluster.remote.ray_session import prepare_environment
    from rapo.config import load_config

    loaded = load_config(config, [*overrides, "serve.host=127.0.0.1", "serve.port=0"])
    prepare_environment(loaded)
    from cluster.remote.ray_session import ray_session
    from cluster.terminal.console import Console
    from cluster.terminal.stdio_redirect import redirect_output
    from rapo.models.card import read_card
    from rapo.models.folder import check_model_folder
    from rapo.models.separate_check import parameters_checked
    from rapo.util.private_folder import private_folder
    from services.app import ScorerServer

    check_model_folder(model)
    version = read_card(model).version
    log = private_folder() / f"score-{os.getpid()}.log"
    with redirect_output(log) as (out, err), ExitStack() as stack:
        with Console(stdout=out, stderr=err).stage("start"):
            with parameters_checked([model]):
                stack.enter_context(ray_session(loaded))
            server = stack.enter_context(ScorerServer(loaded, model, version))
        yield server.address, out, err
