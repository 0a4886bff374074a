"""Kustomize, as far as the manifests use it: renders a folder without the program, so that they are
checked where it is not installed. What it does not know is an error. A test compares both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

DEPLOY = Path(__file__).resolve().parents[3] / "cluster" / "deploy"

Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"
Manifest: TypeAlias = dict[str, Value]

_KNOWN = {
    *("apiVersion", "kind", "resources", "images", "patches", "configMapGenerator", "generatorOptions"),
    *("configurations", "labels", "components"),
}


def folders() -> list[Path]:
    """Every folder that kustomize can render; a component is a part of others."""
    found = (path.parent for path in DEPLOY.rglob("kustomization.yaml"))
    return sorted(folder for folder in found if _spec(folder)["kind"] == "Kustomization")


def render(folder: Path) -> list[Manifest]:
    """The objects of a kustomization. Names of configuration have no hash."""
    spec = _spec(folder)
    found: list[Manifest] = []
    for name in spec.get("resources", []):
        path = folder / name
        found += render(path) if path.is_dir() else [*yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    # Aliases of YAML are shared objects, and a patch is for one place only.
    found = [json.loads(json.dumps(one)) for one in found]
    for generator in spec.get("configMapGenerator", []):
        _generate(folder, generator, found)
    for component in spec.get("components", []):
        inner = _spec(folder / component)
        assert inner.keys() == {"apiVersion", "kind", "patches"}, component
        _patch(folder / component, inner, found)
    _patch(folder, spec, found)
    for one in found:
        for image in spec.get("images", []):
            _set_image(one, image)
        for labels in spec.get("labels", []):
            metadata = one["metadata"]
            assert isinstance(metadata, dict)
            own = metadata.setdefault("labels", {})
            assert isinstance(own, dict)
            own.update(labels["pairs"])
    return found


def _spec(folder: Path) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert spec.keys() <= _KNOWN, f"{folder}: {sorted(spec.keys() - _KNOWN)}"
    return spec


def _patch(folder: Path, spec: dict[str, Any], found: list[Manifest]) -> None:
    for patch in spec.get("patches", []):
        targets = [
            one for one in found if (one["kind"], _name(one)) == (patch["target"]["kind"], patch["target"]["name"])
        ]
        assert targets, patch
        for operation in yaml.safe_load((folder / patch["path"]).read_text(encoding="utf-8")):
            for target in targets:
                _apply(target, operation)


def without_hashes(value: Value) -> Value:
    """What kubectl renders, with the names that `render` gives."""
    if isinstance(value, dict):
        return {key: without_hashes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_hashes(item) for item in value]
    return re.sub(r"^(rapo-(?:train|scorer))-[a-z0-9]{10}$", r"\1", value) if isinstance(value, str) else value


def containers(value: Value) -> Iterator[Manifest]:
    """Every container of an object."""
    for pod in pods(value):
        listed = pod.get("containers")
        assert isinstance(listed, list)
        for container in listed:
            assert isinstance(container, dict)
            yield container


def pods(value: Value) -> Iterator[Manifest]:
    """The specification of every pod of an object."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for item in value.values():
            yield from pods(item)
    elif isinstance(value, list):
        for item in value:
            yield from pods(item)


def _name(one: Manifest) -> Value:
    metadata = one["metadata"]
    assert isinstance(metadata, dict)
    return metadata["name"]


def _generate(folder: Path, generator: dict[str, Value], found: list[Manifest]) -> None:
    name, files, options = generator["name"], generator["files"], generator.get("options") or {}
    assert isinstance(files, list)
    assert isinstance(options, dict)
    data: Value = {str(file): (folder / str(file)).read_text(encoding="utf-8") for file in files}
    if generator.get("behavior") == "replace":
        (old,) = (one for one in found if (one["kind"], _name(one)) == ("ConfigMap", name))
        old["data"] = data
        return
    metadata: Value = {"name": name, **options}
    found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _apply(target: Manifest, operation: dict[str, Value]) -> None:
    *parts, last = (part.replace("~1", "/") for part in str(operation["path"]).split("/")[1:])
    place: Value = target
    for part in parts:
        if isinstance(place, list):
            place = place[int(part)]
        else:
            assert isinstance(place, dict)
            place = place[part]
    assert operation["op"] in ("add", "replace", "remove"), operation
    if isinstance(place, list):
        if operation["op"] == "remove":
            del place[int(last)]
        else:
            place[int(last)] = operation["value"]
    else:
        assert isinstance(place, dict)
        assert operation["op"] == "add" or (operation["op"] == "replace" and last in place), operation
        place[last] = operation["value"]


def _set_image(one: Manifest, image: dict[str, str]) -> None:
    for container in containers(one):
        if str(container["image"]).partition(":")[0] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"
