"""Run: the stages of a run in its folder, for `rapo run` and the commands of single stages.

- What is wrong with the configuration is an error before anything starts.
- What libraries print goes to `driver.log`; the terminal gets the console's lines only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cluster.cli.check import problems, warnings
from cluster.remote.ray_session import prepare_environment
from rapo.aescot.prompt import prompt_text
from rapo.config import (
    AskedModelConfig,
    ChatConfig,
    Config,
    GroundingJudgeConfig,
    SourceConfig,
    TeacherConfig,
    load_config,
)
from rapo.datasets.check import DataCheck, check_data
from rapo.errors import RapoError, StoppedError
from rapo.models.folder import check_model_path
from rapo.models.prompt_length import prompt_length
from rapo.storage.local_copy import local_copy
from rapo.storage.urls import is_url

if TYPE_CHECKING:
    from cluster.files.run_mirror import RunMirror


#: The status of a process that SIGTERM ended.
_STOPPED = 143


def run_stages(config_path: Path | None, out: Path, overrides: Sequence[str], stages: tuple[str, ...] | None) -> None:
    """Run `stages`, or all of them (None) and print their summary."""
    config = with_absolute_paths(load_config(config_path, overrides))
    prepare_environment(config)  # before Ray is imported
    if not is_url(out):
        _run_in(config, out.resolve(), stages, None)
        return
    from cluster.files.run_mirror import RunMirror, scratch_folder

    folder = scratch_folder(out, config.storage.scratch)
    mirror = RunMirror(out, folder, config.storage.every_s, lambda text: typer.echo(text, err=True))
    with mirror.open():
        _run_in(config, folder, stages, mirror)
        mirror.publish_results()


def _run_in(config: Config, path: Path, stages: tuple[str, ...] | None, mirror: RunMirror | None) -> None:
    from cluster.files.run_folder import RunFolder
    from cluster.pipeline.runner import STAGES, Pipeline
    from cluster.remote.exit_watchdog import exit_watchdog
    from cluster.terminal.console import Console
    from cluster.terminal.stdio_redirect import redirect_output

    folder, here = RunFolder(path), with_copies_here(config)
    check_model_path(folder.path)
    to_do = [stage for stage in stages or STAGES if folder.finished(stage) is None]
    # A finished data stage has left its own record of the data.
    data = check_data(here, prompt_length(here)) if "data" in to_do else DataCheck()
    wrong = problems(here, to_do, data)
    if wrong:
        raise RapoError("; ".join(wrong))
    log = folder / "driver.log"
    words = (
        "error: the run ended without a word: its process was killed, or the Ray node that it ran on is gone. "
        f"Library output is in {log}. The same command continues after what is finished."
    )
    with (
        folder.open(config) as replaced,
        redirect_output(log) as (stdout, stderr),
        exit_watchdog(words, stderr),
        ExitStack() as stack,
    ):
        console = Console(stdout=stdout, stderr=stderr)
        if mirror is not None:
            stack.enter_context(mirror.noting(console.note))
        if replaced:
            console.note(f"{folder.path} starts over, because nothing was finished in it: {'; '.join(replaced)}")
        for line in warnings(here, data):
            console.warn(line)
        try:
            base = config.policy.model if is_url(config.policy.model) else None
            stored = (lambda: None) if mirror is None else mirror.flush
            # The nodes of a cluster need not see the run's local folder.
            where = None if mirror is None or config.ray.address is None else mirror.at_url
            pipeline = Pipeline(here, folder, console, stored, base, where)
            report = pipeline.run(stages or STAGES)
        except StoppedError as error:
            console.note(str(error))
            raise typer.Exit(_STOPPED) from error
        except RapoError as error:
            console.error(str(error))
            console.note(f"library output is in {log}")
            raise typer.Exit(2) from error
        if stages is None:
            console.summary(report)


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths, and with prompts in place of their files: a run can be
    continued from another folder, and not under another prompt."""
    data = config.data
    sources = tuple(source.model_copy(update=_absolute(source)) for source in data.sources)
    changes: dict[str, object] = {"data": data.model_copy(update={**_absolute(data), "sources": sources})}
    aescot = config.aescot
    changes["aescot"] = aescot.model_copy(
        update={
            "teacher": aescot.teacher.model_copy(update=_settled(aescot.teacher)),
            "judge": aescot.judge.model_copy(update=_settled(aescot.judge)),
        }
    )
    if config.ray.working_dir is not None:
        changes["ray"] = config.ray.model_copy(update={"working_dir": config.ray.working_dir.resolve()})
    rapo, evaluate = config.rapo, config.evaluate
    judged = rapo.reward.model_copy(update={"grounded_judge": _with_prompt(rapo.reward.grounded_judge)})
    changes["rapo"] = rapo.model_copy(update={"reward": judged})
    changes["evaluate"] = evaluate.model_copy(update={"grounded_judge": _with_prompt(evaluate.grounded_judge)})
    if config.policy.model != "embedded" and not is_url(config.policy.model):
        changes["policy"] = config.policy.model_copy(update={"model": str(Path(config.policy.model).resolve())})
    return config.model_copy(update=changes)


def with_copies_here(config: Config) -> Config:
    """The configuration with local copies of the model and the data that lie at URLs."""
    data, policy, scratch = config.data, config.policy, config.storage.scratch

    def here(source: SourceConfig) -> dict[str, Path]:
        paths = {key: getattr(source, key) for key in ("path", "images")}
        return {key: local_copy(path, scratch) for key, path in paths.items() if path is not None}

    sources = tuple(source.model_copy(update=here(source)) for source in data.sources)
    changes: dict[str, object] = {"data": data.model_copy(update={**here(data), "sources": sources})}
    if is_url(policy.model):
        changes["policy"] = policy.model_copy(update={"model": str(local_copy(policy.model, scratch))})
    return config.model_copy(update=changes)


def _absolute(source: SourceConfig) -> dict[str, Path]:
    paths = {key: getattr(source, key) for key in ("path", "images")}
    return {key: path.resolve() for key, path in paths.items() if path is not None and not is_url(path)}


def _settled(settings: ChatConfig) -> dict[str, object]:
    changes: dict[str, object] = {}
    if settings.kind == "vllm" and settings.model is not None and not is_url(settings.model):
        changes["model"] = str(Path(settings.model).resolve())
    if isinstance(settings, TeacherConfig):
        folders = {"critiques": settings.critiques, "images": settings.images}
        changes |= {name: path.resolve() for name, path in folders.items() if path is not None}
    return changes | _prompt_in_place(settings)


def _with_prompt(judge: GroundingJudgeConfig) -> GroundingJudgeConfig:
    return judge.model_copy(update=_prompt_in_place(judge))


def _prompt_in_place(settings: AskedModelConfig) -> dict[str, object]:
    if settings.prompt_file is None:
        return {}
    return {"prompt": prompt_text(settings, ""), "prompt_file": None}
