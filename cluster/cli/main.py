"""The commands. Packages are imported where they are used: `rapo score` needs what the client
needs, typer and rich."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapo.errors import RapoError

if TYPE_CHECKING:
    from rapo.client.sync import ScoreOptions
    from rapo.config import Config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teaches a vision-language model to judge the beauty of an image, to explain why, and to answer as a service.",
)
data_app = typer.Typer(no_args_is_help=True, help="Make data sets.")
app.add_typer(data_app, name="data")

ConfigPath = Annotated[Path | None, typer.Argument(help="TOML file; without it the embedded CPU default is used.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The run's folder; an unfinished run in it goes on.")]
Server = Annotated[str, typer.Option(help="HOST:PORT of a scorer.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with the token for the scorer.")]
Tls = Annotated[bool, typer.Option("--tls", help="TLS with publicly trusted certificates.")]
Ca = Annotated[Path | None, typer.Option(help="TLS; PEM file of the CA of the scorer's certificate.")]
Cert = Annotated[Path | None, typer.Option(help="PEM file of this client's certificate.")]
Key = Annotated[Path | None, typer.Option(help="PEM file of the key of --cert.")]
ServerName = Annotated[str | None, typer.Option(help="Name in the scorer's certificate, if another.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, overrides the file; repeatable.")]


#: Packages whose absence means that only the client is installed.
_FULL = frozenset({"numpy", "PIL", "pydantic", "ray", "scipy", "starlette", "tomli_w", "torch", "uvicorn", "vllm"})


def main() -> None:
    """Entry point: errors that a user can act on end with a clear text and exit code 2."""
    try:
        app()
    except RapoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _FULL:
            raise
        sys.stderr.write(
            f"error: this command needs the full installation ({error.name} is missing): install rapo[cpu] or rapo[gpu]. The "
            "light one has `rapo score` and the client.\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; start the same command again to go on\n")
        sys.exit(130)


def _resolve(config: Config) -> Config:
    """The configuration with absolute paths, so that a run can be continued from another folder."""
    data = {key: value.resolve() for key in ("path", "images") if (value := getattr(config.data, key)) is not None}
    changes: dict[str, object] = {"data": config.data.model_copy(update=data)}
    teacher = config.aescot.teacher
    if teacher.model is not None:
        resolved = teacher.model_copy(update={"model": str(Path(teacher.model).resolve())})
        changes["aescot"] = config.aescot.model_copy(update={"teacher": resolved})
    if config.policy.model != "embedded":
        changes["policy"] = config.policy.model_copy(update={"model": str(Path(config.policy.model).resolve())})
    return config.model_copy(update=changes)


def _run(config_path: Path | None, out: Path, overrides: list[str] | None, stages: tuple[str, ...] | None) -> None:
    from cluster.cli.check import problems, warnings
    from cluster.remote.ray_session import prepare_environment
    from rapo.config import load_config

    config = _resolve(load_config(config_path, overrides or ()))
    prepare_environment(config)
    from cluster.files.run_folder import RunFolder
    from cluster.pipeline.runner import STAGES, Pipeline
    from cluster.remote.exit_watchdog import last_word
    from cluster.terminal.console import Console
    from cluster.terminal.stdio_redirect import noise_to

    folder = RunFolder(out.resolve())
    to_do = [stage for stage in stages or STAGES if folder.finished(stage) is None]
    wrong = problems(config, to_do)
    if wrong:
        raise RapoError("; ".join(wrong))
    log = folder / "driver.log"
    words = (
        "error: the run ended without a word: its process was killed, or the Ray node that it ran on is gone. What "
        f"libraries printed is in {log}. The same command goes on after what is finished."
    )
    with folder.open(config), noise_to(log) as (stdout, stderr), last_word(words, stderr):
        console = Console(stdout=stdout, stderr=stderr)
        for line in warnings(config):
            console.warn(line)
        try:
            report = Pipeline(config, folder, console).run(stages or STAGES)
        except RapoError as error:
            console.error(str(error))
            console.note(f"what libraries printed is in {log}")
            raise typer.Exit(2) from error
        if stages is None:
            console.summary(report)


@app.command()
def run(config: ConfigPath = None, out: Out = Path("runs/demo"), set_: Set = None) -> None:
    """All stages: data, critiques, cold start, RAPO, evaluation, export, a served trial. Again with
    the same --out: goes on."""
    _run(config, out, set_, None)


def _stage_command(name: str, stages: tuple[str, ...], text: str) -> None:
    def command(config: ConfigPath = None, out: Out = Path("runs/demo"), set_: Set = None) -> None:
        _run(config, out, set_, stages)

    command.__doc__ = text
    app.command(name)(command)


_stage_command("aescot", ("data", "aescot"), "Critiques by the teacher, filtered by the judge.")
_stage_command("coldstart", ("coldstart",), "Supervised fine-tuning on the kept critiques.")
_stage_command("train", ("rapo",), "Relative-Absolute Policy Optimization from the cold start.")
_stage_command("evaluate", ("evaluate",), "PLCC, SRCC, KRCC, MAE and parse rate on the held-out images.")
_stage_command("export", ("export",), "The trained model as a folder for transformers and vLLM.")


@app.command()
def serve(
    model: Annotated[Path | None, typer.Argument(help="A model folder, such as DIR/export of a run.")] = None,
    models: Annotated[
        Path | None, typer.Option(help="Instead of MODEL: a TOML file of model versions, followed while serving.")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="A page for people as well, on loopback.")] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with serve settings.")] = None,
    set_: Set = None,
) -> None:
    """Serve a model over gRPC until interrupted."""
    if (model is None) == (models is None):
        raise typer.BadParameter("give a model folder, or --models FILE")
    from cluster.remote.ray_session import prepare_environment
    from rapo.config import load_config

    loaded = load_config(config, set_ or ())
    prepare_environment(loaded)
    from cluster.cli.serve import serve_until_interrupted

    serve_until_interrupted(loaded, model, models, page=ui)


@app.command()
def token(client: Annotated[str, typer.Argument(help="Name of the caller, for logs and limits.")]) -> None:
    """Make a bearer token for a caller of `rapo serve`, and the line for the server's tokens
    file."""
    from cluster.cli.token import token_for

    typer.echo(token_for(client))


@app.command()
def score(
    paths: Annotated[list[str], typer.Argument(help="Images, folders or globs; - for a list on stdin, one a line.")],
    server: Server = "127.0.0.1:50051",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="*.csv, *.jsonl or *.parquet; the same again goes on.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore what the output holds already.")] = False,
    readout: Annotated[str | None, typer.Option(help="expected, fast, greedy or sampled.")] = None,
    rationale: Annotated[bool, typer.Option(help="Ask for the rationale as well.")] = True,
    native_scale: Annotated[str | None, typer.Option(help="Add the score on this scale of the model's.")] = None,
    model_version: Annotated[str | None, typer.Option(help="The version that is to answer.")] = None,
    token_file: TokenFile = None,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
    in_flight: Annotated[int | None, typer.Option(min=1, max=4096, help="Images under way at a time.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="The longest silence of the scorer, in seconds.")] = 120.0,
    model: Annotated[Path | None, typer.Option(help="No server: run this model folder here, for this call.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="With --model: TOML file.")] = None,
    set_: Set = None,
) -> None:
    """Score images: a row per image, with an error in place of a score where it fails."""
    from contextlib import ExitStack

    from rich.console import Console

    from cluster.cli.score import score_paths
    from rapo.client.sync import ScorerClient

    options: ScoreOptions = {"rationale": rationale}
    if readout is not None:
        options["readout"] = readout
    if native_scale is not None:
        options["native_scale"] = native_scale
    if model_version is not None:
        options["model_version"] = model_version
    console, progress = Console(), Console(stderr=True)
    with ExitStack() as stack:
        if model is not None:
            from cluster.cli.score_local import local_scorer

            server, out, err = stack.enter_context(local_scorer(model, config, set_ or ()))
            console, progress = Console(file=out), Console(file=err)
        client = stack.enter_context(
            ScorerClient(
                server,
                timeout,
                tls=tls,
                ca=ca,
                certificate=cert,
                key=key,
                server_name=server_name,
                token_file=token_file,
            )
        )
        status = score_paths(
            paths, client, output, options, in_flight=in_flight, fresh=fresh, console=console, progress=progress
        )
    raise typer.Exit(status)


@app.command()
def ui(
    server: Server = "127.0.0.1:50051",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page, on loopback; 0: any.")] = 8501,
    model: Annotated[Path | None, typer.Option(help="The scorer's model folder, to show what the model saw.")] = None,
    token_file: TokenFile = None,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
) -> None:
    """A page for people in front of a scorer that runs elsewhere, on loopback, until
    interrupted."""
    from cluster.cli.ui import page_until_interrupted
    from rapo.client.aio import AsyncScorerClient

    def client() -> AsyncScorerClient:
        return AsyncScorerClient(
            server, tls=tls, ca=ca, certificate=cert, key=key, server_name=server_name, token_file=token_file
        )

    client()  # what cannot work is told now
    page_until_interrupted(client, model, port, typer.echo)


@app.command()
def scale(
    out: Annotated[Path, typer.Argument(help="The folder of a run that is going on.")],
    rollouts: Annotated[int, typer.Option("--rollouts", "-n", min=1, help="How many rollout workers it should have.")],
) -> None:
    """Ask a live run for more or fewer rollout workers; they join and leave beside its work."""
    from cluster.cli.scale import scale_run

    typer.echo(scale_run(out, rollouts))


@app.command()
def status(
    out: Annotated[Path, typer.Argument(help="A run's folder.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until the run ends.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between refreshes.")] = 2.0,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """How far a run is: stages, steps, versions, the fleet, where the time goes, last faults,
    whether its driver lives."""
    from cluster.cli.status_view import show_status, watch_status

    if watch and not json:
        watch_status(out, every)
    else:
        show_status(out, as_json=json)


@app.command()
def check(
    config: ConfigPath = None, set_: Set = None, show: Annotated[bool, typer.Option(help="Print it whole.")] = False
) -> None:
    """Say what would run, and what is wrong, without starting anything."""
    from cluster.cli.check import describe, problems, warnings
    from cluster.pipeline.runner import STAGES
    from rapo.config import dump_config, load_config

    loaded = _resolve(load_config(config, set_ or ()))
    for line in describe(loaded):
        typer.echo(line)
    if show:
        typer.echo(dump_config(loaded))
    for line in warnings(loaded):
        typer.echo(f"warning: {line}")
    wrong = problems(loaded, STAGES)
    for line in wrong:
        typer.echo(f"wrong: {line}", err=True)
    if wrong:
        raise typer.Exit(2)
    typer.echo("nothing wrong was found")


@app.command()
def doctor() -> None:
    """Look at this machine: packages, memory, shared memory, disk, devices."""
    from cluster.cli.doctor import examine

    raise typer.Exit(0 if examine() else 2)


@data_app.command("scenes")
def scenes(
    folder: Annotated[Path, typer.Argument(help="A new folder, written in AVA's layout.")],
    set_: Set = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Render the embedded scenes with simulated raters' votes."""
    from rapo.config import load_config
    from rapo.datasets.scenes import write_scenes

    config = load_config(None, set_ or ())
    write_scenes(folder, config.data.scenes, seed)
    typer.echo(f"{folder}: AVA.txt, images/, aesthetics_image_lists/")
