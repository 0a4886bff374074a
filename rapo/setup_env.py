"""Installs rapo into the interpreter that runs this file: `python rapo/setup_env.py --extra cpu`
(see the Makefile).

Standard library only, because nothing else is installed yet. Where pip finds no CPU build of torch
it says so in words instead of leaving the user with a resolver's traceback.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
NO_CPU_TORCH = f"""
pip finds no CPU build of {TORCH}. On your own machine, add PyTorch's CPU wheel index to pip once (its address is on
pytorch.org, 'Get Started', compute platform CPU), for example through the environment variable PIP_EXTRA_INDEX_URL, and
run make again. On a machine with an NVIDIA GPU use `make EXTRA=gpu` instead.
"""


def main() -> int:
    """Install; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", choices=("cpu", "gpu"), default="cpu")
    extra = parser.parse_args().extra
    constraints = ["-c", str(ROOT / "constraints" / f"{extra}.txt")]
    if extra == "cpu" and pip("install", f"{TORCH}+cpu", *constraints, quiet=True) != 0:
        sys.stderr.write(NO_CPU_TORCH)
        return 2
    if (status := pip("install", "-e", f"{ROOT}[{extra},dev]", *constraints)) != 0:
        return status
    if extra == "cpu":
        _drop_unloadable()
        subprocess.run([sys.executable, "-m", "rapo.torchvision_cpu"], check=True, cwd=ROOT)
    return 0


def _drop_unloadable() -> None:
    """vLLM's CPU build asks for torchaudio and torchcodec, which it does not use here. Where their
    wheels are linked to CUDA they cannot load, and transformers, finding them installed, fails with
    them: then they have to go."""
    for package in ("torchaudio", "torchcodec"):
        probe = subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, check=False)
        if probe.returncode != 0:
            pip("uninstall", "-y", package, quiet=True)


def pip(*arguments: str, quiet: bool = False, python: str | Path = sys.executable) -> int:
    """Run the pip of interpreter `python`; its exit status. `quiet` keeps its complaints for the
    caller to explain."""
    command = [str(python), "-m", "pip", arguments[0], "-q", *arguments[1:]]
    sys.stderr.write(f"pip {' '.join(arguments[:2])} ...\n")
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=quiet, env=os.environ)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
