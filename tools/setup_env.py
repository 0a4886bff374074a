"""Set-up: makes the virtual environment that the system runs in (see the Makefile).

    python -m tools.setup_env --venv .venv --extra cpu

- It needs no more than Python and pip as they come.
- A set-up that was cut short is completed by the next call.
- Versions are those of `constraints/`, sources those that the user configured for pip.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tools.installer import Installer, SetupError, run
from tools.torch_cpu import ROOT, install_cpu_torch

CONSTRAINTS = ROOT / "constraints"
#: What vLLM's build for the CPU asks for and rapo does not use.
EXCLUDED = CONSTRAINTS / "cpu-excluded.txt"
_FACTS = "import json, pip, sys; print(json.dumps(sys.version_info[:2]))"


def set_up(venv: Path, extra: str, *, dev: bool = True) -> None:
    """`dev` adds what the tests need. Raises `SetupError`."""
    installer = Installer(ensure_venv(venv), CONSTRAINTS / f"{extra}.txt")
    if installer.by_pip:
        sys.stderr.write(f"set-up: by pip, which takes some minutes more, because {installer.by_pip}\n")
    if extra == "cpu":
        install_cpu_torch(installer)
    extras = f"{extra},dev" if dev else extra
    what = f"rapo[{extras}]"
    sys.stderr.write(f"set-up: {what} from {', '.join(installer.sources)}\n")
    done = installer.install("-e", f"{ROOT}[{extras}]", without=EXCLUDED if extra == "cpu" else None)
    if not done.ok:
        raise installer.explained(what, done)
    if extra == "cpu":
        hooked = run([str(installer.python), "-m", "rapo.torchvision_cpu"])
        if not hooked.ok:
            raise SetupError(f"torchvision cannot be made importable:\n{hooked.reason}")


def ensure_venv(venv: Path) -> Path:
    """The interpreter of the environment in `venv`, which is made where there is none that works
    with this Python."""
    python = venv / "bin" / "python"
    if _version(python) == list(sys.version_info[:2]):
        return python
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
        raise SetupError(f"{venv} is there and is no virtual environment: move it away, then call make again.")
    sys.stderr.write(f"set-up: {venv} with Python {sys.version.split()[0]}\n")
    made = run([sys.executable, "-m", "venv", "--clear", str(venv)])
    if not made.ok:
        raise SetupError(f"Python could not make {venv}:\n{made.reason}")
    return python


def _version(python: Path) -> list[int] | None:
    """The version of an environment's interpreter; None without one that runs and has pip."""
    try:
        done = subprocess.run([str(python), "-c", _FACTS], capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [int(part) for part in json.loads(done.stdout)]


def arguments() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--extra", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--without-dev", dest="dev", action="store_false", help="leave out what only the tests need")
    return parser


def main() -> int:
    """Set up; the exit status."""
    given = arguments().parse_args()
    try:
        set_up(given.venv, given.extra, dev=given.dev)
    except SetupError as error:
        sys.stderr.write(f"\nset-up stopped: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nset-up interrupted; call make again to go on\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
