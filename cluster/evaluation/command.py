"""Evaluate command: any models on any collections, with the table on stdout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import rich.console

from cluster.evaluation.models import EvaluatedModel, FolderModel, GivenModel, evaluated_models, is_run
from cluster.evaluation.render import MARKDOWN, PAGE, RESULTS, show
from cluster.evaluation.runner import Connect, EvaluationRun
from cluster.files.folder_lock import folder_opened, hold
from cluster.terminal.console import Console
from cluster.terminal.stdio_redirect import redirect_output
from rapo.config import Config, load_config
from rapo.datasets.index import read_index
from rapo.errors import ConfigError, DataError
from rapo.evaluation.sets import EvalSet, sets_of_config, sets_of_path, sets_of_records
from rapo.evaluation.tables import evaluation_tables

#: The width of tables where stdout is no terminal.
_WIDTH = 160


def evaluate_models(
    models: Sequence[str],
    data: Sequence[str],
    out: Path,
    config: Config,
    path: Path | None,
    overrides: Sequence[str],
    connect: Connect,
) -> None:
    """Evaluate `models` on the test sets of `data`; without any, on those of the first run among
    the models. `config` is what the file `path` and `overrides` make."""
    chosen = evaluated_models(list(models))
    if not data:
        data = [_own_data(chosen)]
    out = out.resolve()
    # Predictions that are given need no images.
    look = not all(isinstance(model, GivenModel) for model in chosen)
    sets = [one for argument in data for one in _sets(argument, config, overrides, out / "images", look=look)]
    names = [one.name for one in sets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"two of the test sets are called {twice!r}; give them names in a TOML file of sources (data.sources), or leave "
            "one out"
        )
    log = out / "evaluate.log"
    with _locked(out), redirect_output(log) as (stdout, stderr):
        console = Console(stdout=stdout, stderr=stderr)
        run = EvaluationRun(config, path, overrides, sets, out, console, connect)
        comparison = run.evaluate(chosen)
        terminal = rich.console.Console(
            file=stdout, width=None if stdout.isatty() else _WIDTH, highlight=False, emoji=False
        )
        show(evaluation_tables(comparison), terminal)
        console.note(f"{out}: {RESULTS}, {MARKDOWN}, {PAGE}, predictions/; library output is in {log.name}")


def _own_data(models: Sequence[EvaluatedModel]) -> str:
    """The first run among the models."""
    for model in models:
        if isinstance(model, FolderModel) and model.run is not None:
            return str(model.run)
    raise ConfigError("give the test sets by --data: a TOML file of sources, a collection's folder or a label file")


def _sets(argument: str, config: Config, overrides: Sequence[str], work: Path, *, look: bool) -> list[EvalSet]:
    """The test sets of one --data."""
    path, limit = Path(argument).expanduser(), config.evaluate.max_images
    if is_run(path):
        return _of_run(path, config)
    try:
        if path.suffix.lower() == ".toml":
            loaded = load_config(path, overrides)
            # The seed divides the sources without splits as it did in the run of this file.
            return sets_of_config(loaded.model_copy(update={"image": config.image}), limit, work, look=look)
        return sets_of_path(path.resolve(), config, limit, work, look=look)
    except (ConfigError, DataError) as error:
        hint = ""
        if "data.score_range" in str(error) and path.suffix.lower() != ".toml":
            hint = " (with --set data.score_range=[LOW,HIGH], or in a TOML file given as --data)"
        raise type(error)(f"{argument}: {error}{hint}") from error


def _of_run(path: Path, config: Config) -> list[EvalSet]:
    dataset = read_index(path / "data")
    if dataset is None:
        raise DataError(f"{path} is a run whose stage data is not finished; run it first, or give its sources")
    embedded = load_config(path / "config.toml").data.embedded
    source = f"the test split of the run {path}"
    sets = sets_of_records(dataset.split("test"), source, config, embedded=embedded)
    if not sets:
        raise DataError(f"{path}: the run has no test images")
    return sets


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The folder, made and locked. Raises `RunFolderError` where another evaluation has it."""
    with folder_opened(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    with lock:
        hold(lock, out, "evaluation")
        yield
