"""The fields of KubeRay's objects that the manifests use, as its documentation names them. No
package carries KubeRay's schemas; pods inside are checked against those of Kubernetes."""

from __future__ import annotations

from kustomize import Manifest, Value

ANY = object()

_GROUP = {"rayStartParams": dict, "template": ANY, "labels": dict}
_CLUSTER = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"version": str, "idleTimeoutSeconds": int, "securityContext": ANY},
    "authOptions": {"mode": str},
    "gcsFaultToleranceOptions": {"redisAddress": str, "redisPassword": ANY},
    "headGroupSpec": _GROUP,
    "workerGroupSpecs": [{**_GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}],
}
SPECS = {
    "RayJob": {
        "entrypoint": str,
        "submissionMode": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "submitterPodTemplate": ANY,
        "rayClusterSpec": _CLUSTER,
    },
    "RayService": {"serveConfigV2": str, "serveService": ANY, "rayClusterConfig": _CLUSTER},
    # Of the Prometheus operator.
    "ServiceMonitor": {"selector": ANY, "endpoints": [{"port": str, "interval": str}]},
    "PodMonitor": {"selector": ANY, "podMetricsEndpoints": [{"port": str, "interval": str}]},
}
VERSIONS = {
    "RayJob": "ray.io/v1",
    "RayService": "ray.io/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
}


def check(one: Manifest) -> None:
    """Raise `AssertionError` for a field that is not known, or of another type."""
    kind = str(one["kind"])
    assert one["apiVersion"] == VERSIONS[kind]
    assert one.keys() == {"apiVersion", "kind", "metadata", "spec"}
    _check(one["spec"], SPECS[kind], kind)
    for group in groups(one):
        low, wanted, high = group["minReplicas"], group["replicas"], group["maxReplicas"]
        assert isinstance(low, int)
        assert isinstance(wanted, int)
        assert isinstance(high, int)
        assert low <= wanted <= high, group["groupName"]
        start = group["rayStartParams"]
        assert isinstance(start, dict)
        assert all(isinstance(value, str) for value in start.values()), "KubeRay takes texts only"


def cluster(one: Manifest) -> dict[str, Value]:
    """The Ray cluster of an object."""
    spec = one["spec"]
    assert isinstance(spec, dict)
    found = spec.get("rayClusterSpec") or spec.get("rayClusterConfig")
    assert isinstance(found, dict)
    return found


def groups(one: Manifest) -> list[dict[str, Value]]:
    """The worker groups of an object; none where it is no Ray cluster."""
    if one["kind"] not in ("RayJob", "RayService"):
        return []
    found = cluster(one)["workerGroupSpecs"]
    assert isinstance(found, list)
    return [group for group in found if isinstance(group, dict)]


def _check(value: Value, known: object, where: str) -> None:
    if known is ANY:
        return
    if isinstance(known, type):
        assert type(value) is known, f"{where}: {value!r}"
    elif isinstance(known, list):
        assert isinstance(value, list), where
        for item in value:
            _check(item, known[0], where)
    elif isinstance(known, dict):
        assert isinstance(value, dict), where
        assert value.keys() <= known.keys(), f"{where}: unknown {sorted(value.keys() - known.keys())}"
        for key, item in value.items():
            _check(item, known[key], f"{where}.{key}")
