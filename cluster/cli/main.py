"""Command line: the commands of `rapo` and their options.

- A command imports the packages that it needs when it is called: `rapo score` works where only the
  client, typer and rich are installed.
- An error that a user can act on ends with a text on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.evaluate import evaluate
from cluster.cli.options import (
    Ca,
    Cert,
    ConfigPath,
    Key,
    Out,
    SecretFile,
    Server,
    ServerName,
    Set,
    Tls,
    TokenFile,
    Upstream,
    local,
    stored,
)
from cluster.cli.plan import plan
from rapo.client.types import READOUTS
from rapo.errors import RapoError
from rapo.util.daemon_threads import leave

if TYPE_CHECKING:
    from rapo.client.sync import ScoreOptions

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a vision-language model to judge the beauty of images and to explain why, and serve it.",
)
data_app = typer.Typer(no_args_is_help=True, help="Make and inspect data sets.")
app.add_typer(data_app, name="data")


#: Packages whose absence means that only the client is installed.
_FULL = frozenset({"numpy", "PIL", "pydantic", "ray", "scipy", "starlette", "tomli_w", "torch", "uvicorn", "vllm"})


def main() -> None:
    """Entry point: turns errors into texts and exit codes."""
    try:
        app()
    except RapoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _FULL:
            raise
        sys.stderr.write(
            f"error: this command needs the full installation ({error.name} is missing): install rapo[cpu] or rapo[gpu]. "
            "The bare one has `rapo score` and the client.\n"
        )
        sys.exit(2)
    except SystemExit as end:
        if not isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # which typer makes a status
            raise
        sys.stderr.write("interrupted; start the same command again to continue\n")
        leave(130)


@app.command()
def run(config: ConfigPath = None, out: Out = Path("runs/demo"), set_: Set = None) -> None:
    """Run all stages: data, critiques, cold start, RAPO, evaluation, export, and a test of the
    service. With the --out of an earlier run, continue that run."""
    from cluster.cli.run import run_stages

    run_stages(config, out, set_ or (), None)


def _stage_command(name: str, stages: tuple[str, ...], text: str) -> None:
    def command(config: ConfigPath = None, out: Out = Path("runs/demo"), set_: Set = None) -> None:
        from cluster.cli.run import run_stages

        run_stages(config, out, set_ or (), stages)

    command.__doc__ = text
    app.command(name)(command)


_stage_command("aescot", ("data", "aescot"), "Write critiques with the teacher and filter them with the judge.")
_stage_command("coldstart", ("coldstart",), "Fine-tune the model on the kept critiques.")
_stage_command("train", ("rapo",), "Train with Relative-Absolute Policy Optimization, from the cold start on.")
_stage_command(
    "export", ("evaluate", "export"), "Measure the trained model, and write it as a folder for transformers and vLLM."
)


app.command()(evaluate)
app.command()(plan)


@app.command()
def serve(
    model: Annotated[
        Path | None, typer.Argument(help="A model folder, such as DIR/export of a run.", callback=local)
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            help="Instead of MODEL: a TOML file of model versions. A change of the file is rolled out.", callback=local
        ),
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Serve the web page as well, on loopback.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file with serve settings.", callback=local)
    ] = None,
    set_: Set = None,
) -> None:
    """Serve a model over gRPC until interrupted."""
    if (model is None) == (models is None):
        raise typer.BadParameter("give a model folder, or --models FILE")
    from cluster.remote.ray_session import prepare_environment
    from rapo.config import load_config

    loaded = load_config(config, set_ or ())
    prepare_environment(loaded)
    from cluster.cli.serving.serve import serve_until_interrupted

    serve_until_interrupted(loaded, model, models, ui=ui)


@app.command()
def gateway(
    upstream: Upstream,
    secret_file: SecretFile,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file with serve settings.", callback=local)
    ] = None,
    set_: Set = None,
) -> None:
    """Run a gateway alone, in front of scorers that run elsewhere, until interrupted. Several may
    share one address."""
    from cluster.cli.serving.gateway import run_gateway
    from rapo.config import load_config

    run_gateway(load_config(config, set_ or ()), upstream, secret_file, typer.echo)


@app.command()
def token(client: Annotated[str, typer.Argument(help="Name of the client, for logs and limits.")]) -> None:
    """Make a bearer token for a client of `rapo serve`, and its line of the server's tokens
    file."""
    from cluster.cli.serving.token import token_for

    typer.echo(token_for(client))


@app.command()
def score(
    paths: Annotated[list[str], typer.Argument(help="Images, folders or globs; - for a list on stdin, one a line.")],
    server: Server = "127.0.0.1:50051",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="*.csv, *.jsonl or *.parquet. An unfinished one is continued.", callback=local
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore what the output holds already.")] = False,
    readout: Annotated[str | None, typer.Option(help=f"How the score is taken: {', '.join(READOUTS)}.")] = None,
    rationale: Annotated[bool, typer.Option(help="Ask for the rationale as well.")] = True,
    native_scale: Annotated[str | None, typer.Option(help="Add the score on this scale of the model.")] = None,
    model_version: Annotated[str | None, typer.Option(help="Model version to ask; default: the scorer's.")] = None,
    token_file: TokenFile = None,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
    in_flight: Annotated[int | None, typer.Option(min=1, max=4096, help="Images in flight at once.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the scorer may stay silent.")] = 120.0,
    model: Annotated[
        Path | None,
        typer.Option(help="Start a scorer of this model folder for this call, instead of --server.", callback=local),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="With --model: TOML file.", callback=local)
    ] = None,
    set_: Set = None,
) -> None:
    """Score images: a row per image, with an error in place of a score where it fails."""
    from contextlib import ExitStack

    from rich.console import Console

    from cluster.cli.score.command import score_paths
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
            from cluster.cli.score.local import local_scorer

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
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page, on loopback; 0: any free one.")] = 8501,
    model: Annotated[
        Path | None,
        typer.Option(help="Model folder of the scorer, to show images as the model sees them.", callback=local),
    ] = None,
    token_file: TokenFile = None,
    tls: Tls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
) -> None:
    """Serve the web page for a scorer that runs elsewhere, on loopback, until interrupted."""
    from cluster.cli.serving.ui import serve_ui_until_interrupted
    from rapo.client.aio import AsyncScorerClient

    def client() -> AsyncScorerClient:
        return AsyncScorerClient(
            server, tls=tls, ca=ca, certificate=cert, key=key, server_name=server_name, token_file=token_file
        )

    client()  # options that do not fit together are an error now, not at the first image
    serve_ui_until_interrupted(client, model, port, typer.echo)


@app.command()
def scale(
    out: Annotated[Path, typer.Argument(help="Folder of a run that is working.", callback=local)],
    rollouts: Annotated[int, typer.Option("--rollouts", "-n", min=1, help="How many rollout workers it should have.")],
) -> None:
    """Change the number of rollout workers of a run while it works."""
    from cluster.cli.scale import scale_run

    typer.echo(scale_run(out, rollouts))


@app.command()
def status(
    out: Annotated[Path, typer.Argument(help="Folder or URL of a run.", callback=stored)],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until the run ends.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between refreshes.")] = 2.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far a run is: its stages, steps, rollout workers, times, and last faults and
    warnings."""
    from cluster.cli.status_view import show_status, watch_status

    if watch and not json:
        watch_status(out, every)
    else:
        show_status(out, as_json=json)


@app.command()
def check(
    config: ConfigPath = None,
    set_: Set = None,
    show: Annotated[bool, typer.Option(help="Print the whole configuration.")] = False,
    endpoints: Annotated[
        bool,
        typer.Option("--endpoints", help="Ask the endpoints of teacher and judge for their models, which is free."),
    ] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at each node of the cluster at ray.address.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --cluster: the run's folder or URL.", callback=stored)
    ] = None,
) -> None:
    """Check a configuration: what it would run, and what is wrong with it. Nothing is started, but
    with --cluster a task on each node."""
    from cluster.cli.check import describe, problems, warnings
    from cluster.cli.run import with_absolute_paths, with_copies_here
    from cluster.pipeline.runner import STAGES
    from rapo.config import dump_config, load_config
    from rapo.datasets.check import check_data
    from rapo.models.prompt_length import prompt_length

    given = with_absolute_paths(load_config(config, set_ or ()))
    loaded = with_copies_here(given)
    data = check_data(loaded, prompt_length(loaded))
    for line in describe(loaded, data):
        typer.echo(line)
    if show:
        typer.echo(dump_config(loaded))
    for line in warnings(loaded, data):
        typer.echo(f"warning: {line}")
    wrong = problems(loaded, STAGES, data)
    if endpoints:
        from rapo.aescot.check import check_endpoints

        wrong += [line for line in check_endpoints(loaded) if line not in wrong]
    if cluster:
        from cluster.cli.nodes.check import check_cluster

        there, faults = check_cluster(given, out)
        for line in there:
            typer.echo(line)
        wrong += faults
    for line in wrong:
        typer.echo(f"wrong: {line}", err=True)
    if wrong:
        raise typer.Exit(2)
    typer.echo("nothing is wrong")


@app.command()
def doctor() -> None:
    """Check this machine: packages, memory, shared memory, disk, devices. Nothing is changed."""
    from cluster.cli.doctor import run_doctor

    raise typer.Exit(0 if run_doctor() else 2)


@data_app.command("scenes")
def scenes(
    folder: Annotated[Path, typer.Argument(help="A new folder; it gets AVA's layout.", callback=local)],
    set_: Set = None,
    seed: Annotated[int, typer.Option(help="Seed of the images and the votes.")] = 0,
) -> None:
    """Render the embedded scenes, with votes of simulated raters."""
    from rapo.config import load_config
    from rapo.datasets.scenes import write_scenes

    config = load_config(None, set_ or ())
    write_scenes(folder, config.data.scenes, seed)
    typer.echo(f"{folder}: AVA.txt, images/, aesthetics_image_lists/")


@data_app.command("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder of a collection, or a label file.", callback=local)],
    images: Annotated[
        Path | None, typer.Option(help="Folder that relative image names are looked up in.", callback=local)
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="Layout; default: recognised by content.")] = "auto",
    set_: Set = None,
) -> None:
    """Show what a data set holds: layout, splits, scores, and broken and missing images."""
    from cluster.cli.inspect import inspect_lines
    from rapo.config import load_config

    config = load_config(None, set_ or ())
    data = config.data.model_copy(update={"images": images or config.data.images, "format": format_})
    for line in inspect_lines(path, config.model_copy(update={"data": data})):
        typer.echo(line)


@data_app.command("critiques")
def critiques(
    run: Annotated[Path, typer.Argument(help="Folder of a run whose stage aescot is finished.", callback=local)],
    file: Annotated[Path, typer.Argument(help="*.jsonl to write.", callback=local)],
    relative_to: Annotated[
        Path | None,
        typer.Option(help="Folder that image names are relative to; default: absolute paths.", callback=local),
    ] = None,
) -> None:
    """Write the kept critiques of a run as conversations, for LLaMA-Factory or another run of
    rapo."""
    from cluster.cli.critiques import write_critiques

    typer.echo(f"{file}: {write_critiques(run, file, relative_to)} critiques")
