"""What all tests share: the environment that Ray wants, one small run, and how the files go to
workers of pytest-xdist.

The unit tests go to any worker, a file at a time. All that runs on the real parts goes to one
worker, one after the other: two runs at once need more memory than the README asks for.
"""

import pytest

from cluster.remote.ray_session import prepare_environment
from rapo.config import load_config
from tests.small import finished, started

__all__ = ["finished", "started"]

prepare_environment(load_config())  # before any test module imports ray


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        real = item.get_closest_marker("integration") is not None
        item.add_marker(pytest.mark.xdist_group("real parts" if real else item.path.name))
