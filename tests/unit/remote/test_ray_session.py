"""What the processes that Ray starts get told, so that they find the system's packages."""

import os
import pkgutil
from pathlib import Path

import pytest
import ray

from cluster.remote.ray_session import prepare_environment, ray_session
from rapo.config import load_config
from rapo.system_folder import add_to_path

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
        assert pkgutil.resolve_name(given["job_config"].runtime_env["worker_process_setup_hook"]) is add_to_path
    assert os.environ["PYTHONPATH"] == "mine"
