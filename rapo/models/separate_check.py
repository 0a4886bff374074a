"""SeparateCheck: compares model folders with their architectures beside other work.

It runs in a process of its own, because the caller is often one that lives long and needs neither
torch nor transformers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rapo.errors import ModelError
from rapo.system_folder import python_path

_LIMIT_S = 120.0
_REFUSED = 3
# What Python and its libraries may need to start; no token or secret.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "TMPDIR")


@contextmanager
def parameters_checked(folders: Iterable[Path]) -> Iterator[None]:
    """`rapo.models.completeness.check_parameters` of each folder while the block runs.

    Raises `ModelError` at its end where a folder is refused. A check that does not end, or fails in
    another way, is left to the engine, which makes it as well.
    """
    command = [sys.executable, "-P", "-m", "rapo.models.separate_check", *map(str, folders)]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= {"PYTHONPATH": python_path(os.environ), "HF_HUB_OFFLINE": "1"}
    said = b""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            yield
            with suppress(subprocess.TimeoutExpired):
                said, _ = child.communicate(timeout=_LIMIT_S)
        finally:
            child.kill()
    if child.returncode == _REFUSED and said:
        raise ModelError(said.decode(errors="replace"))


def main() -> int:
    """Check the folders that are given as arguments. `_REFUSED` where one is refused, and why."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may write there
    from rapo.models.completeness import check_parameters

    for folder in sys.argv[1:]:
        try:
            check_parameters(folder)
        except ModelError as error:
            os.write(answer, str(error).encode(errors="replace"))
            return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
