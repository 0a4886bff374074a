"""The environment of the TRL side: a venv of its own, because TRL is never a dependency of rapo.

    python -m bench.support.environment

makes `bench/.trl-venv` (git-ignored; about 2 GB, a few minutes) with the versions below, those of
the project where it has the same package. A second call with the same pins installs nothing. Like
the project's own set-up it takes torch's CPU build and makes torchvision importable beside it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from rapo import torchvision_cpu
from tools.installer import Installer, SetupError
from tools.setup_env import CONSTRAINTS, ensure_venv
from tools.torch_cpu import install_cpu_torch, pinned

VENV = Path(__file__).resolve().parent.parent / ".trl-venv"
#: What is pinned here and not in constraints/cpu.txt; everything else comes from there.
PINS = ("trl==1.16.0", "accelerate==1.15.0")
_SHARED = ("datasets", "pillow", "torchvision", "transformers")
_CONSTRAINTS = CONSTRAINTS / "cpu.txt"
_HOOK = "rapo_torchvision_cpu"


class BenchmarkError(Exception):
    """A benchmark cannot run; the message says what to do."""


def ensure_trl(folder: Path = VENV) -> Path:
    """The interpreter of an environment with TRL in it, made in `folder` if it is not there yet or
    its pins have changed.

    Raises `BenchmarkError` where it cannot be installed.
    """
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = _fingerprint()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    if (folder / "pyvenv.cfg").is_file():  # half made, or of other versions
        shutil.rmtree(folder)
    try:
        installer = Installer(ensure_venv(folder), _CONSTRAINTS)
        install_cpu_torch(installer)
        done = installer.install(*PINS, *_SHARED)
        if not done.ok:
            raise installer.explained(", ".join(PINS), done)
    except SetupError as error:
        raise BenchmarkError(str(error)) from error
    _install_hook(python)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _fingerprint() -> str:
    """Everything that decides what the environment holds."""
    lines = [sys.version, pinned("torch"), *PINS, *_SHARED, _CONSTRAINTS.read_text(encoding="utf-8")]
    return "\n".join(lines)


def _install_hook(python: Path) -> None:
    """A copy of rapo's torchvision hook under a name of its own: this environment holds no rapo."""
    query = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip())
    shutil.copyfile(Path(torchvision_cpu.__file__), packages / f"{_HOOK}.py")
    subprocess.run([str(python), "-I", "-m", _HOOK], check=True)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{ensure_trl()}\n")
    except BenchmarkError as error:
        sys.exit(str(error))
