"""Manifests: each is what Kubernetes and KubeRay take, and fits the others."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kuberay import SPECS, check, cluster, groups
from kustomize import DEPLOY, Manifest, Value, containers, folders, pods, render, without_hashes

from rapo.config import Config, load_config
from rapo.system_folder import SYSTEM_FOLDER

VERSION = "1.34"

everywhere = pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.relative_to(DEPLOY).as_posix())
training = pytest.mark.parametrize("folder", [f for f in folders() if f.name == "training"], ids=lambda f: str(f)[-20:])


def name(one: Manifest) -> str:
    metadata = one["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["name"])


def bytes_of(quantity: Value) -> int:
    match = re.fullmatch(r"(\d+)(Mi|Gi)", str(quantity))
    assert match, quantity
    return int(match[1]) * {"Mi": 2**20, "Gi": 2**30}[match[2]]


@everywhere
def test_kubernetes_and_kuberay_take_it(folder: Path) -> None:
    for one in render(folder):
        if one["kind"] not in SPECS:
            kubernetes_validate.validate(one, VERSION, strict=True)
            continue
        check(one)
        for pod in pods(one):
            whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
            kubernetes_validate.validate(whole, VERSION, strict=True)


@everywhere
def test_kubectl_renders_the_same(folder: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; the other tests render without it")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=True)
    rendered = [without_hashes(one) for one in yaml.safe_load_all(done.stdout)]

    def ordered(objects: list[Value]) -> list[str]:
        return sorted(yaml.safe_dump(one) for one in objects)

    assert ordered(rendered) == ordered(list(render(folder)))


@everywhere
def test_a_container_can_do_little(folder: Path) -> None:
    for one in render(folder):
        for pod in pods(one):
            security = pod["securityContext"]
            assert isinstance(security, dict)
            assert security["runAsNonRoot"] is True
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(one):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {"/scratch", "/tmp"} <= mounts.keys(), "what cannot write to the root needs somewhere else"
            resources = container["resources"]
            assert isinstance(resources, dict)
            assert {"cpu", "memory"} <= resources["requests"].keys()
            assert "memory" in resources["limits"]


@everywhere
def test_secrets_are_named_and_not_held(folder: Path) -> None:
    for one in render(folder):
        assert one["kind"] != "Secret"
        for container in containers(one):
            for variable in container.get("env") or []:
                assert isinstance(variable, dict)
                assert not re.search("PASSWORD|SECRET|TOKEN|KEY", str(variable["name"])), variable
        if one["kind"] == "RayService":
            password = cluster(one)["gcsFaultToleranceOptions"]["redisPassword"]
            assert password.keys() == {"valueFrom"}
        for pod in pods(one):
            secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
            assert all(secret["defaultMode"] == 0o440 for secret in secrets), "for the group of the pod alone"


@everywhere
def test_every_mount_has_its_volume_and_every_volume_is_used(folder: Path) -> None:
    for one in render(folder):
        for pod in pods(one):
            held = {volume["name"] for volume in pod["volumes"]}
            used = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
            assert held == used


@everywhere
def test_shared_memory_holds_rays_object_store(folder: Path) -> None:
    """Ray takes 30 % of the memory, and falls back to the disk where /dev/shm is smaller."""
    for one in render(folder):
        for pod in pods(one):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            if "shm" not in volumes:
                continue
            store = volumes["shm"]["emptyDir"]
            assert store["medium"] == "Memory"
            (container,) = containers(pod)
            memory = bytes_of(container["resources"]["limits"]["memory"])
            assert 0.3 * memory <= bytes_of(store["sizeLimit"]) <= 0.5 * memory


@everywhere
def test_versions_and_images_are_those_of_the_repository(folder: Path) -> None:
    for one in render(folder):
        if groups(one):
            assert cluster(one)["rayVersion"] == importlib.metadata.version("ray")
        for container in containers(one):
            assert re.fullmatch(r"(registry\.example\.org/)?rapo:(cpu|gpu)", str(container["image"]))


def configuration(folder: Path) -> Config:
    """The configuration of a training, with what its command sets."""
    objects = render(folder)
    (held,) = [one["data"] for one in objects if one["kind"] == "ConfigMap"]
    (files,) = [path for path in DEPLOY.rglob("train.toml") if held == {"train.toml": path.read_text(encoding="utf-8")}]
    (spec,) = [one["spec"] for one in objects if one["kind"] == "RayJob"]
    assert isinstance(spec, dict)
    words = shlex.split(str(spec["entrypoint"]))
    return load_config(files, [value for option, value in itertools.pairwise(words) if option == "--set"])


def room(job: Manifest, labels: dict[str, str]) -> Iterator[dict[str, float]]:
    """CPUs and GPUs of each node that may come with these labels."""
    for group in groups(job):
        own = group["labels"]
        assert isinstance(own, dict)
        if labels.items() <= own.items():
            (container,) = containers(group)
            requests = container["resources"]["requests"]
            most = group["maxReplicas"]
            assert isinstance(most, int)
            for _ in range(most):
                yield {"CPU": float(requests["cpu"]), "GPU": float(requests.get("nvidia.com/gpu", 0))}


@training
def test_every_role_finds_room_on_the_nodes_that_it_asks_for(folder: Path) -> None:
    config = configuration(folder)
    job = next(one for one in render(folder) if one["kind"] == "RayJob")
    rollout, learner, coldstart = config.rollout, config.learner, config.coldstart
    for count, cpus, gpus, labels in (
        (config.most_workers, rollout.cpus, rollout.gpus, rollout.labels),
        # The reward actor goes beside the ranks.
        (learner.workers, learner.cpus + 0.5 / learner.workers, learner.gpus, learner.labels),
        (coldstart.workers, coldstart.cpus, coldstart.gpus, coldstart.labels),
    ):
        assert labels, "every role says where it runs"
        places = sum(
            int(min(node["CPU"] // cpus, node["GPU"] // gpus if gpus else node["CPU"])) for node in room(job, labels)
        )
        assert places >= count, labels


@training
def test_a_run_at_a_url_needs_no_volume_that_outlives_its_pods(folder: Path) -> None:
    objects = render(folder)
    (spec,) = [one["spec"] for one in objects if one["kind"] == "RayJob"]
    assert isinstance(spec, dict)
    if "--out s3://" not in str(spec["entrypoint"]):
        return
    scratch = configuration(folder).storage.scratch
    assert "persistentvolumeclaim" not in yaml.safe_dump(list(objects)).lower()
    for pod in pods(spec["rayClusterSpec"]):
        (container,) = containers(pod)
        assert container["envFrom"] == [{"secretRef": {"name": "rapo-storage", "optional": True}}]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == str(scratch)]
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
        room = bytes_of(container["resources"]["requests"]["ephemeral-storage"])
        assert bytes_of(volume["emptyDir"]["sizeLimit"]) < room, "/tmp needs some of it"


@training
def test_only_rollout_workers_run_on_spot_nodes(folder: Path) -> None:
    config = configuration(folder)
    assert config.rollout.labels == {"ray.io/market-type": "spot"}
    assert config.learner.labels == config.coldstart.labels == {"ray.io/market-type": "on-demand"}


#: Numbers that nobody has a reason to change.
_FIXED = {"num-cpus", "maxSkew", "defaultMode", "value", "rayVersion"}


def numbers(value: Value, key: str = "") -> Iterator[str]:
    """The keys of a manifest's numbers, quantities and durations."""
    if isinstance(value, dict):
        for inner, inside in value.items():
            yield from numbers(inside, inner)
    elif isinstance(value, list):
        for inside in value:
            yield from numbers(inside, key)
    elif not isinstance(value, bool) and re.fullmatch(r"[\d.]+(m|Mi|Gi|s)?", str(value)):
        yield key


@everywhere
def test_every_number_is_in_the_table_of_values(folder: Path) -> None:
    table = (SYSTEM_FOLDER / "docs/kubernetes.md").read_text(encoding="utf-8").partition("## Values")[2]
    for one in render(folder):
        spec = {key: value for key, value in one.items() if key not in ("data", "metadata")}
        unknown = {key for key in numbers(spec) if f"`{key}`" not in table} - _FIXED
        assert not unknown, f"{folder}: docs/kubernetes.md does not say that these may be changed: {unknown}"
