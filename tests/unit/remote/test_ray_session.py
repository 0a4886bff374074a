"""What the processes that Ray starts get told, so that they find the system's packages."""

import os
import pkgutil
import shutil
import tempfile
from pathlib import Path

import pytest
import ray
from ray._private import services

from cluster.cli.check import problems
from cluster.remote.ray_session import prepare_environment, ray_session, working_dir_problem
from rapo.config import load_config
from rapo.errors import ResourceError
from rapo.system_folder import add_to_path
from services.loopback import guard_proxy
from services.names import message_limit

ROOT = str(Path(__file__).resolve().parents[3])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_AUTH_MODE": "token", "PYTHONPATH": "mine"})


def test_a_local_rays_processes_inherit_the_path():
    prepare_environment(load_config())
    prepare_environment(load_config())
    assert os.environ["PYTHONPATH"] == os.pathsep.join([ROOT, "mine"])


def test_a_joined_clusters_workers_look_for_themselves(monkeypatch):
    given = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_session(load_config(None, ["ray.address=head:6379"])):
        assert pkgutil.resolve_name(given["runtime_env"]["worker_process_setup_hook"]) is add_to_path
        assert given["runtime_env"].keys() == {"worker_process_setup_hook"}
        # What the job's configuration has is replaced in a job of `ray job submit`.
        assert given["job_config"].runtime_env == {}
    assert os.environ["PYTHONPATH"] == "mine"


def test_a_checkout_is_sent_to_the_nodes_unless_the_job_was_submitted_with_a_folder(monkeypatch):
    given = []
    monkeypatch.setattr(ray, "init", lambda **options: given.append(options["runtime_env"].get("working_dir")))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    config = load_config(None, ["ray.address=head:6379", f"ray.working_dir={ROOT}"])
    for submitted in ("{}", '{"runtime_env": {}}', '{"runtime_env": {"working_dir": "gcs://x.zip"}}'):
        monkeypatch.setitem(os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR", submitted)
        with ray_session(config):
            pass
    assert given == [ROOT, ROOT, None]


@pytest.mark.parametrize(
    ("address", "folder", "words"),
    [("head:6379", "docs", "no checkout of rapo: it has no folder rapo"), (None, ".", "is for a cluster")],
)
def test_a_folder_that_is_no_checkout_is_refused(address, folder, words):
    settings = [f"ray.working_dir={Path(ROOT, folder)}", *([] if address is None else [f"ray.address={address}"])]
    config = load_config(None, settings)
    assert words in working_dir_problem(config)
    assert working_dir_problem(config) in problems(config, ("data",))


def test_a_local_ray_stays_on_loopback_and_in_a_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.mkdtemp())  # Ray's sockets lie below it, and pytest's folders are too long
    given: list[tuple[str, Path]] = []

    def init(_node_ip_address: str, _temp_dir: str, **_: object) -> None:
        given.append((services.resolve_ip_for_localhost(_node_ip_address), Path(_temp_dir)))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_session(load_config(None, [f"ray.temp_dir={short}"])):
        assert pkgutil.resolve_name(os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]) is guard_proxy
    ((node, folder),) = given
    assert node == "127.0.0.1"
    assert folder.is_relative_to(short)
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(short)


def test_messages_to_serve_are_bounded() -> None:
    config = load_config(None, ["image.max_bytes=1000"])
    prepare_environment(config)
    assert message_limit(config.image) < int(os.environ["RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"]) < 200_000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"no_proxy": "127.0.0.1,localhost,::1"}),
        ({"NO_PROXY": "corp.example"}, {"no_proxy": "corp.example,127.0.0.1,localhost,::1"}),
        (
            {"no_proxy": "localhost", "no_grpc_proxy": "x"},
            {"no_proxy": "localhost,127.0.0.1,::1", "no_grpc_proxy": "x,127.0.0.1,localhost,::1"},
        ),
    ],
)
def test_a_proxy_is_not_asked_for_this_machine(given: dict[str, str], expected: dict[str, str]) -> None:
    names = ("no_proxy", "NO_PROXY", "no_grpc_proxy", "NO_GRPC_PROXY")
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(given)
    prepare_environment(load_config())
    prepare_environment(load_config())
    assert {name: os.environ[name] for name in names if name in os.environ and name not in given} | {
        name: os.environ[name] for name in expected
    } == expected


@pytest.mark.parametrize(
    "failure",
    [
        OSError("AF_UNIX path length cannot exceed 107 bytes: /x"),
        RuntimeError("Failed to start the GCS\nraylet"),
        TimeoutError(),
        Exception("The current node timed out during startup."),
    ],
)
def test_a_local_ray_that_does_not_start_is_an_error_with_advice(monkeypatch, failure):
    def init(**_: object) -> None:
        raise failure

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ResourceError, match=r"a local Ray does not start: .*rapo doctor"), ray_session(load_config()):
        pass


def test_a_defect_at_the_start_of_a_local_ray_keeps_its_traceback(monkeypatch):
    def init(**_: object) -> None:
        raise AttributeError("a defect")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(AttributeError), ray_session(load_config()):
        pass


def test_a_temporary_folder_that_is_of_no_use_is_named_before_ray_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    for folder, words in ((tmp_path / ("x" * 90), "is too long"), (Path("/dev/null/x"), "cannot be written")):
        with (
            pytest.raises(ResourceError, match=rf"ray\.temp_dir = .*{words}"),
            ray_session(load_config(None, [f"ray.temp_dir={folder}"])),
        ):
            pass
