"""A run up to its cold start, and clusters of several raylets on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.plan import LONG, OVERRIDES
from tests.small import branch, rapo, settings

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


@pytest.fixture(scope="session")
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder up to its cold start, under this plan's settings."""
    out = tmp_path_factory.mktemp("chaos") / "base"
    if not LONG:
        return branch(request.getfixturevalue("started"), out, *OVERRIDES)
    for stage in ("aescot", "coldstart"):
        done = rapo(stage, "--out", str(out), *settings(*OVERRIDES))
        assert done.returncode == 0, done.stdout + done.stderr
    return out


def a_cluster() -> Cluster:
    """A head that holds what is asked for without a GPU or a node of its own."""
    from ray.cluster_utils import Cluster

    return Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": 256 * 2**20})


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """To which nodes can be added, and from which they can be taken."""
    import ray

    made = a_cluster()
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()
