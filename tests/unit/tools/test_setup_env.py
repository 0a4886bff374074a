import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import setup_env
from tools.installer import Outcome, SetupError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that make environments, which are only written down."""
    commands: list[list[str]] = []

    def run(command: list[str]) -> Outcome:
        commands.append(command)
        return Outcome(0, "")

    monkeypatch.setattr(setup_env, "run", run)
    return commands


def test_an_environment_that_works_is_kept(made):
    python = setup_env.ensure_venv(Path(sys.prefix))
    subprocess.run([python, "-c", "import pip"], check=True)
    assert made == []


def test_a_half_made_environment_is_made_anew(tmp_path, made):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    setup_env.ensure_venv(tmp_path)
    assert made == [[sys.executable, "-m", "venv", "--clear", str(tmp_path)]]


def test_an_environment_of_another_python_is_made_anew(tmp_path, monkeypatch, made):
    (tmp_path / "pyvenv.cfg").touch()
    monkeypatch.setattr(setup_env, "_version", lambda _: [3, 10])
    setup_env.ensure_venv(tmp_path)
    assert made == [[sys.executable, "-m", "venv", "--clear", str(tmp_path)]]


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(SetupError, match="no virtual environment"):
        setup_env.ensure_venv(tmp_path)
    assert (tmp_path / "mine").exists()


def test_a_failure_ends_with_words_and_a_status(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").touch()
    monkeypatch.setattr(sys, "argv", ["setup_env", "--venv", str(tmp_path)])
    assert setup_env.main() == 1
    assert "set-up stopped: " in capsys.readouterr().err


def test_make_and_the_package_take_the_same_pythons():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = re.search(r"\((3, \d+)\) <= sys.version_info\[:2\] <= \((3, \d+)\)", (ROOT / "Makefile").read_text())
    assert bounds is not None
    oldest, newest = bounds.groups()
    minor = int(newest.split(", ")[1])
    assert project["requires-python"] == f">={oldest.replace(', ', '.')},<3.{minor + 1}"


def test_make_takes_the_python_that_fits(tmp_path):
    for name, status in (("python3", 1), ("python3.11", 127), ("python3.12", 0), ("python3.13", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    assert chosen(tmp_path) == "python3.12"
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 0\n")
    assert chosen(tmp_path) == "python3"


def test_make_says_so_where_none_fits(tmp_path):
    done = make(tmp_path, "setup", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "rapo needs Python 3.11 to 3.13" in done.stderr


def chosen(folder: Path) -> str:
    return make(folder, "--eval=tell: ; @: && echo $(PYTHON)", "tell").stdout.strip()


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make where `folder` is all that is on the PATH."""
    return subprocess.run(
        [shutil.which("make") or "make", "-s", "-C", str(ROOT), *arguments],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
