"""What the manifests start: each command, argument, file and variable goes through the entry point
that it is for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from kuberay import cluster
from kustomize import DEPLOY, Manifest, Value, containers, folders, render
from ray.serve._private import constants as serve_constants
from ray.serve.schema import ServeDeploySchema
from serving import Authority
from test_manifests import configuration, name

from cluster.cli.main import app
from cluster.cli.serving.gateway import gateway_settings
from cluster.remote.ray_session import QUIET_ENVIRONMENT, SERVE_ENVIRONMENT
from rapo.config import Config, load_config
from rapo.storage.urls import is_url, not_stored
from rapo.system_folder import SYSTEM_FOLDER
from services import app as application
from services.gateway.tokens import token_line
from services.names import message_limit

SCORERS = [folder for folder in folders() if folder.name == "scorer"]
TRAININGS = [folder for folder in folders() if folder.name == "training"]

CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")


def one_of(folder: Path, kind: str, named: str | None = None) -> Manifest:
    (found,) = [one for one in render(folder) if one["kind"] == kind and named in (None, name(one))]
    return found


def parsed(words: list[str]) -> dict[str, object]:
    """The arguments of a `rapo` command, by its own parser."""
    group = typer.main.get_command(app)
    command, *rest = words
    context = group.commands[command].make_context(command, rest)  # type: ignore[attr-defined]
    return dict(context.params)


def mounts(container: Manifest) -> dict[str, Manifest]:
    listed = container["volumeMounts"]
    assert isinstance(listed, list)
    return {str(mount["mountPath"]): mount for mount in listed if isinstance(mount, dict)}


def mount_of(path: object, container: Manifest) -> Manifest:
    return mounts(container)[
        next(str(parent) for parent in Path(str(path)).parents if str(parent) in mounts(container))
    ]


def scorer_config(folder: Path) -> Config:
    data = one_of(folder, "ConfigMap")["data"]
    assert isinstance(data, dict)
    assert data.keys() == {"scorer.toml"}
    return load_config(
        folder / "scorer.toml" if (folder / "scorer.toml").exists() else DEPLOY / "base/scorer/scorer.toml"
    )


@pytest.mark.parametrize("folder", TRAININGS, ids=str)
def test_the_jobs_command_is_one_of_rapo(folder: Path) -> None:
    job = one_of(folder, "RayJob")
    spec = job["spec"]
    assert isinstance(spec, dict)
    program, *words = shlex.split(str(spec["entrypoint"]))
    arguments = parsed(words)
    assert (program, words[0]) == ("rapo", "run")
    out, config = Path(str(arguments["out"])), configuration(folder)
    assert not_stored(out) is None
    written = config.storage.scratch / "x" if is_url(out) and config.storage.scratch else out
    for container in containers(cluster(job)):
        assert mount_of(arguments["config"], container)["name"] == "config"
        assert not mount_of(written, container).get("readOnly"), "a run writes there"
    assert Path(str(arguments["config"])).name == "train.toml"
    assert config.ray.address == "auto"
    head = next(containers(cluster(job)["headGroupSpec"]))
    for path in (config.data.path, config.policy.model):
        assert path is None or not_stored(path) is None
        if path not in (None, "embedded") and not is_url(path):
            assert mount_of(Path(str(path)) / "x", head)["readOnly"] is True


@pytest.mark.parametrize("folder", SCORERS, ids=str)
def test_the_serve_configuration_is_what_serve_takes(folder: Path) -> None:
    service = one_of(folder, "RayService")
    spec = service["spec"]
    assert isinstance(spec, dict)
    text = yaml.safe_load(str(spec["serveConfigV2"]))
    wanted = ServeDeploySchema.model_validate(text)
    module, _, function = wanted.applications[0].import_path.partition(":")
    assert (module, getattr(application, function)) == (application.__name__, application.build)
    arguments = application.AppArguments.model_validate(wanted.applications[0].args)
    config = scorer_config(folder)
    assert (wanted.grpc_options.request_timeout_s or 0) >= config.serve.request_timeout_s
    for functions in wanted.grpc_options.grpc_servicer_functions:
        module, _, function = functions.rpartition(".")
        assert hasattr(__import__(module, fromlist=["x"]), function)
    for container in containers(cluster(service)):
        assert arguments.config is not None
        assert mount_of(arguments.config, container)["name"] == "config"
        assert mount_of(arguments.secret_file, container)["name"] == "secret"
        assert mount_of(arguments.model, container)["name"] == "models"
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve-grpc"] == wanted.grpc_options.port
        assert ports["serve"] == wanted.http_options.port


@pytest.mark.parametrize("folder", SCORERS, ids=str)
def test_replicas_fit_their_nodes(folder: Path) -> None:
    config = scorer_config(folder).serve
    (group,) = cluster(one_of(folder, "RayService"))["workerGroupSpecs"]
    (container,) = containers(group)
    requests = container["resources"]["requests"]
    assert float(requests["cpu"]) >= config.cpus
    assert float(requests.get("nvidia.com/gpu", 0)) >= config.gpus
    assert group["maxReplicas"] >= config.most_replicas


@pytest.mark.parametrize("folder", SCORERS, ids=str)
def test_serves_environment_is_that_of_a_local_ray(folder: Path) -> None:
    limit = message_limit(scorer_config(folder).image) + 2**16
    known = Path(serve_constants.__file__).read_text(encoding="utf-8")
    for container in containers(cluster(one_of(folder, "RayService"))):
        given = {variable["name"]: variable["value"] for variable in container["env"]}
        assert given == {**SERVE_ENVIRONMENT, "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(limit)}
        for variable in given:
            assert variable in known, f"Ray Serve reads no {variable}"


@pytest.mark.parametrize("folder", SCORERS, ids=str)
def test_the_gateways_command_starts_one(folder: Path, tmp_path: Path) -> None:
    deployment = one_of(folder, "Deployment")
    (container,) = containers(deployment)
    words = container["args"]
    assert isinstance(words, list)
    arguments = parsed([str(word) for word in words])
    serve_service = one_of(folder, "RayService")["spec"]["serveService"]
    service = serve_service["metadata"]["name"]
    port = next(port["port"] for port in serve_service["spec"]["ports"] if port["name"] == "serve-grpc")
    assert arguments["upstream"] == [f"{service}:{port}"]
    config = scorer_config(folder)
    for path in (arguments["secret_file"], arguments["config"], *files_of(config)):
        assert mount_of(path, container)["readOnly"] is True
    here = with_files_here(config, tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("0" * 32)
    settings = gateway_settings(here, [f"{service}:{port}"], secret)
    assert settings.discover
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": config.serve.port, "metrics": config.serve.gateway.metrics_port}
    check_probes(container)
    pod = deployment["spec"]["template"]["spec"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + config.serve.gateway.grace_s


def check_probes(container: Manifest) -> None:
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = container[probe]["httpGet"]
        assert asked == {"path": path, "port": "metrics"}
    assert '"/livez"' in (SYSTEM_FOLDER / "services/gateway/metrics.py").read_text()


def files_of(config: Config) -> list[Path]:
    gateway = config.serve.gateway
    return [path for path in (gateway.certificate, gateway.key, gateway.tokens) if path is not None]


def with_files_here(config: Config, folder: Path) -> Config:
    """The same with real files of this machine, and any free port."""
    certificate, key = Authority(folder).issue("server")
    tokens = folder / "tokens.toml"
    tokens.write_text(token_line("web", "t"))
    files: dict[str, object] = {"certificate": certificate, "key": key, "tokens": tokens, "metrics_port": 0}
    gateway = config.serve.gateway.model_copy(update=files)
    return config.model_copy(update={"serve": config.serve.model_copy(update={"port": 0, "gateway": gateway})})


@pytest.mark.parametrize("folder", SCORERS, ids=str)
def test_the_network_policies_open_the_ports_that_are_used(folder: Path) -> None:
    config = scorer_config(folder).serve
    spec = one_of(folder, "NetworkPolicy", "rapo-gateway")["spec"]
    assert opened(spec["ingress"]) == {config.port, config.gateway.metrics_port}
    assert opened(spec["egress"]) == {9000, 53}
    replicas = one_of(folder, "NetworkPolicy", "rapo-scorer")["spec"]
    from_gateways = [rule for rule in replicas["ingress"] if "rapo-gateway" in yaml.safe_dump(rule)]
    assert opened(from_gateways) == {9000}


def opened(rules: Value) -> set[Value]:
    assert isinstance(rules, list)
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


def test_the_image_has_the_environment_of_a_run() -> None:
    given = dict(re.findall(r"^\s*(?:ENV )?([A-Z0-9_]+)=(\S+)", CONTAINERFILE, re.MULTILINE))
    assert given.items() >= QUIET_ENVIRONMENT.items()
    assert given["PYTHONPATH"] == "/app"
    for variable in ("HOME", "XDG_CACHE_HOME"):
        assert given[variable].startswith("/scratch"), "the root file system is read-only"


def test_the_image_is_made_of_what_is_here_by_package_managers_alone() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    allowed = (SYSTEM_FOLDER / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (SYSTEM_FOLDER / source).exists(), source
        assert f"!{source}" in allowed, source
    assert {"actors", "cluster", "configs", "constraints", "rapo", "services", "tools"} <= set(sources)
    assert not re.search(r"\b(curl|ADD)\b|wget http|https?://\S+\.(sh|py)\b", CONTAINERFILE)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", CONTAINERFILE, re.MULTILINE)
    assert {"cpu", "gpu"} <= set(stages)
    assert re.findall(r"^USER (\S+)$", CONTAINERFILE, re.MULTILINE) == ["1000:1000"]
    assert 'ENTRYPOINT ["rapo"]' in CONTAINERFILE


def test_the_image_is_set_up_by_the_repositorys_own_command() -> None:
    from tools.setup_env import arguments

    for extra in ("cpu", "gpu"):
        (line,) = re.findall(rf"^RUN python -m tools.setup_env (.*--extra {extra}.*)$", CONTAINERFILE, re.MULTILINE)
        given = arguments().parse_args(shlex.split(line))
        assert (str(given.venv), given.extra, given.dev) == ("/opt/rapo", extra, False)
