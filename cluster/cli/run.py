"""Run: the stages of a run in its folder, for `rapo run` and the commands of single stages.

- What is wrong with the configuration is an error before anything starts.
- What libraries print goes to `driver.log`; the terminal gets the console's lines only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from cluster.cli.check import problems, warnings
from cluster.remote.ray_session import prepare_environment
from rapo.aescot.prompt import prompt_text
from rapo.config import ChatConfig, Config, SourceConfig, TeacherConfig, load_config
from rapo.datasets.check import DataCheck, check_data
from rapo.errors import RapoError
from rapo.models.folder import check_model_path
from rapo.models.prompt_length import prompt_length


def run_stages(config_path: Path | None, out: Path, overrides: Sequence[str], stages: tuple[str, ...] | None) -> None:
    """Run `stages`, or all of them (None) and print their summary."""
    config = with_absolute_paths(load_config(config_path, overrides))
    prepare_environment(config)  # before Ray is imported
    from cluster.files.run_folder import RunFolder
    from cluster.pipeline.runner import STAGES, Pipeline
    from cluster.remote.exit_watchdog import exit_watchdog
    from cluster.terminal.console import Console
    from cluster.terminal.stdio_redirect import redirect_output

    folder = RunFolder(out.resolve())
    check_model_path(folder.path)
    to_do = [stage for stage in stages or STAGES if folder.finished(stage) is None]
    # A finished data stage has left its own record of the data.
    data = check_data(config, prompt_length(config)) if "data" in to_do else DataCheck()
    wrong = problems(config, to_do, data)
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
    ):
        console = Console(stdout=stdout, stderr=stderr)
        if replaced:
            console.note(f"{folder.path} starts over, because nothing was finished in it: {'; '.join(replaced)}")
        for line in warnings(config, data):
            console.warn(line)
        try:
            report = Pipeline(config, folder, console).run(stages or STAGES)
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
    if config.policy.model != "embedded":
        changes["policy"] = config.policy.model_copy(update={"model": str(Path(config.policy.model).resolve())})
    return config.model_copy(update=changes)


def _absolute(source: SourceConfig) -> dict[str, Path]:
    return {key: value.resolve() for key in ("path", "images") if (value := getattr(source, key)) is not None}


def _settled(settings: ChatConfig) -> dict[str, object]:
    changes: dict[str, object] = {}
    if settings.kind == "vllm" and settings.model is not None:
        changes["model"] = str(Path(settings.model).resolve())
    if isinstance(settings, TeacherConfig):
        folders = {"critiques": settings.critiques, "images": settings.images}
        changes |= {name: path.resolve() for name, path in folders.items() if path is not None}
    if settings.prompt_file is not None:
        changes |= {"prompt": prompt_text(settings, ""), "prompt_file": None}
    return changes
