"""The cold start's images on a cluster of several raylets: they are read on the driver's node."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.limits import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.release]

#: In a process of its own, because Ray reads its environment when it is imported.
DRIVER = """
import json
from cluster.remote.ray_session import prepare_environment
from rapo.config import ImageConfig, load_config
prepare_environment(load_config(overrides=["ray.address=auto"]))
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster
from cluster.pipeline.stages import coldstart
from cluster.pipeline.stages.aescot import CritiqueRow

class NodeReader:
    def __init__(self, limits):
        self.limits = limits
    def __call__(self, table):
        node = ray.get_runtime_context().get_node_id()
        return table.append_column("node", pa.array([node] * len(table)))

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
for _ in range(2):
    cluster.add_node(num_cpus=4, object_store_memory=100 * 2**20)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
coldstart.ImageReader = NodeReader
rows = [CritiqueRow(str(n), "s", f"/photos/{n}.jpg", 0.5, "soft", None, True, None, "") for n in range(64)]
read = coldstart.with_images(rows, ImageConfig(), 8).take_all()
print(json.dumps({
    "own": ray.get_runtime_context().get_node_id(),
    "nodes": sorted({row["node"] for row in read}),
    "paths": [row["path"] for row in read],
}))
ray.shutdown()
cluster.shutdown()
"""


def test_the_cold_start_reads_its_images_on_the_drivers_node_which_has_no_cpus() -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", DRIVER]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("{")))
    assert found["nodes"] == [found["own"]]
    assert sorted(found["paths"]) == sorted(f"/photos/{number}.jpg" for number in range(64))
