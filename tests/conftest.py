"""What all tests share: the environment that Ray wants, one small run, and how the files go to
workers of pytest-xdist.

The unit tests go to any worker, a file at a time. All that runs on the real parts goes to one
worker, one after the other: two runs at once need more memory than the README asks for.
"""

from typing import Any

import pytest

from cluster.remote.ray_session import prepare_environment
from rapo.config import load_config
from tests.small import finished, started

__all__ = ["finished", "started"]

prepare_environment(load_config())  # before any test module imports ray


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there are no workers
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # Not `--dist loadgroup`: beside pytest 9 its groups come to nothing, without a word.
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "real parts" if file.startswith(("tests/integration/", "tests/chaos/")) else file

    return Scheduling(config, log)
