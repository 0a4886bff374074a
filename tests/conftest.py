"""What all tests share: the environment that Ray wants, one small run, and how the files go to
workers of pytest-xdist.

With `--dist loadscope` (`make quick`) the unit tests go to any worker, a file at a time. All that
runs on the real parts goes to one worker, one after the other: two runs at once need more memory
than the README asks for.

With `--dist loadfile` (`make long`, `make release`) any file goes to any worker. The longest files
come first, so that the workers end at about the same time.
"""

from typing import Any

import pytest

from cluster.remote.ray_session import prepare_environment
from rapo.config import load_config
from tests.small import finished, started

__all__ = ["finished", "started"]

#: What takes minutes, longest first.
_LONGEST = (
    "endpoints/test_judged_run",
    "families/test_family_chain",
    "test_resume",
    "weights/test_weight_broadcast",
    "nodes/test_bare_nodes",
    "test_paper_protocol",
    "nodes/test_object_storage",
    "test_run",
    "test_chaos",
    "test_roles",
    "test_controller",
)

prepare_environment(load_config())  # before any test module imports ray


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there are no workers
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadscope":
        return None  # pytest-xdist's own
    # Not `--dist loadgroup`: beside pytest 9 its groups come to nothing, without a word.
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "real parts" if file.startswith(("tests/integration/", "tests/chaos/")) else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front; the others stay in their order."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition(".py::")[0]
        return next((place for place, name in enumerate(_LONGEST) if file.endswith(name)), len(_LONGEST))

    items.sort(key=place)
