"""Raylets: a head and nodes on this machine, each with a working folder and a folder of Ray's own.

- A program, because Ray reads its environment when it is imported: `bare_raylets.py FOLDER PORT
  TEMP`.
- The processes of a node have its name in their environment.
- It prints the head's address, and a line as an answer to each line of its input: `add NAME`,
  `drain NAME`, `kill NAME`. A name is `on-demand` or begins with `spot`. All are killed, the head
  included, when the input ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
from ray._common.utils import get_ray_address_file
from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster
from ray.dashboard.consts import DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX

_STORE = 100 * 2**20
# Extension modules and generated ones have no types.
GcsClient = import_module("ray._raylet").GcsClient
DrainNodeReason = import_module("ray.core.generated.autoscaler_pb2").DrainNodeReason

_NOTICE_S, _AGENT_S = 120, 120


def main(folder: Path, port: int, temp: str) -> None:
    def own(name: str) -> dict[str, Any]:
        (folder / name).mkdir()
        os.chdir(folder / name)
        os.environ["BARE_NODE"] = name
        return {"temp_dir": f"{temp}/{name}", "object_store_memory": _STORE}

    board: dict[str, Any] = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    # Its default is one port, which the agent of another Ray on this machine may have.
    board["dashboard_agent_listen_port"] = None
    # `Cluster` notes its address there as well, in a folder that Ray makes for other clusters only.
    Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **board, **own("head")})
    nodes: dict[str, Any] = {}
    control, deadline = GcsClient(address=cluster.address), time.monotonic() + _AGENT_S
    while not control.internal_kv_keys(DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX.encode(), KV_NAMESPACE_DASHBOARD):
        assert time.monotonic() < deadline, "the head has no agent, which takes jobs"
        time.sleep(0.2)
    answer(cluster.address)
    for line in sys.stdin:
        what, name = line.split()
        if what == "add":
            labels = {"ray.io/market-type": name.partition("-")[0] if name.startswith("spot") else name}
            nodes[name] = cluster.add_node(num_cpus=8, resources={name: 1}, labels=labels, **own(name))
            # As `ray start` does: a job looks there for its cluster, which may not be the only one.
            write_ray_address(cluster.address, nodes[name].temp_dir)
        elif what == "drain":
            reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
            until_ms = int(1000 * (time.time() + _NOTICE_S))
            taken, why = control.drain_node(nodes[name].node_id, reason, "taken back", until_ms)
            assert taken, why
        else:
            kill_below(nodes[name].all_processes["raylet"][0].process.pid)
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        answer(what)
    kill_below(os.getpid())


def kill_below(pid: int) -> None:
    """Kill all that a process has started. Ray's own way to end a node leaves its drivers."""
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def answer(said: str) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
