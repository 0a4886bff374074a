"""GatewayProcess: `rapo gateway` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECRET = "0123456789abcdef0123456789abcdef"


@contextmanager
def gateway_process(secret_file: Path, *upstreams: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it answers at; it is killed at the end."""
    named = [part for address in upstreams for part in ("--upstream", address)]
    command = [sys.executable, "-m", "rapo", "gateway", "--secret-file", str(secret_file), *named]
    process = subprocess.Popen(
        [*command, "--set", "serve.port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        found = re.search(r"answers at (\S+)", process.stdout.readline())
        assert found
        yield process, found[1]
    finally:
        process.kill()
        process.wait(10)
