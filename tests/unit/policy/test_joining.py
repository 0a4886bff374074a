"""Joining: a rank joins its group without compiling anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ALONE = """
from rapo.policy.distributed import Rank, join_world
from rapo.policy.meeting import host, listen
join_world(Rank(0, 1, threads=1, timeout_s=30.0), host(listen("127.0.0.1"), 30.0))
import torch
assert torch.distributed.get_world_size() == 1
"""


def test_a_rank_joins_without_a_compiler(tmp_path: Path) -> None:
    """Half a minute of compiling, and a lock that stays where the process is killed meanwhile."""
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
