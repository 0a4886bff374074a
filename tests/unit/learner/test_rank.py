"""A learner rank without Ray and without a model: what its answers to pings say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.learner import Learner
from actors.run_files import folder_here
from rapo.config import load_config
from rapo.errors import RunFolderError

LIMIT_S = 10.0


class Stuck:
    """A trainer that waits for its peers until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    def _wait(self) -> None:
        self.entered.set()
        assert self.go.wait(LIMIT_S)

    def copy_state(self) -> int:
        self._wait()
        return 0

    def publish(self, version: int) -> Iterator[str]:
        yield "chunk"
        self._wait()
        yield "manifest"

    def weights(self, version: int) -> Iterator[str]:
        self._wait()
        yield "tensor"


@pytest.mark.parametrize(
    "call", [Learner.copy_state, lambda rank: rank.gather(1), lambda rank: list(rank.publish_now(1))]
)
def test_a_rank_that_waits_for_its_peers_says_for_how_long(call):
    rank: Any = Learner(0, load_config())
    rank._started = stuck = Stuck()
    assert rank.ping() == 0.0
    thread = threading.Thread(target=call, args=(rank,))
    thread.start()
    assert stuck.entered.wait(LIMIT_S)
    began = rank.ping()
    time.sleep(0.01)
    assert rank.ping() > began > 0.0
    stuck.go.set()
    thread.join(LIMIT_S)
    assert rank.ping() == 0.0


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert folder_here(str(tmp_path / "model"), None) == tmp_path / "model"
    with pytest.raises(RunFolderError, match=f"{socket.gethostname()} does not see .*/nowhere: mount it"):
        folder_here(str(tmp_path / "nowhere"), None)
    rank: Any = Learner(0, load_config())
    with pytest.raises(RunFolderError, match="does not see"):
        rank.load_state(str(tmp_path / "nowhere"), universal=False)
