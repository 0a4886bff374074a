"""SystemFolder: where the packages `actors`, `cluster` and `services` and the folder `configs` lie.

- In a checkout it is the root of the checkout, in an installed wheel `rapo/_system` (see setup.py).
- Only processes of the system have it on their path, and there it comes first. Whoever imports
  `rapo` in a process of their own sees no other package of rapo's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_system"

SYSTEM_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent


def add_to_path() -> None:
    """Let this process import the system's packages, before any others of the same names."""
    folder = str(SYSTEM_FOLDER)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def python_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH for the child processes of a process with this environment: the system's folder,
    then what is there already."""
    folder = str(SYSTEM_FOLDER)
    there = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != folder]
    return os.pathsep.join([folder, *there])
