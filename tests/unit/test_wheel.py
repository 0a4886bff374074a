"""The wheel as another team gets it: one top-level package, which needs what it declares."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ("actors", "cluster", "configs", "services")
#: Manifests for a cluster; they are used from a checkout, not from the installed package.
DEPLOY = ROOT / "cluster" / "deploy"
SOURCES = ("rapo", *SYSTEM, "pyproject.toml", "setup.py", "README.md", "LICENSE")


def run(*command: object, cwd: Path) -> str:
    """What a command prints that sees nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because a build leaves folders in the tree that it builds."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        out,
        tree,
        cwd=out,
    )
    (built,) = out.glob("rapo-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the bare wheel, what the wheel declares, and a package
    `services`."""
    folder = tmp_path_factory.mktemp("env")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    packages = next(folder.glob("lib/python*/site-packages"))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python")
    run(*pip, "install", "-q", "--no-index", "--no-deps", wheel, cwd=folder)
    metadata = next(packages.glob("rapo-*.dist-info/METADATA")).read_text()
    declared = [
        line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist")
    ]
    link_installed(declared, packages)
    (packages / "services").mkdir()
    (packages / "services" / "__init__.py").write_text("TEAM = 'another'\n")
    return folder / "bin"


def link_installed(requirements: list[str], target: Path) -> None:
    """Links to what these requirements and theirs have put into the environment of the tests."""
    waiting, seen = list(requirements), set()
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name in seen:
            continue
        seen.add(requirement.name)
        found = distribution(requirement.name)
        waiting += found.requires or []
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (target / top).exists():
                (target / top).symlink_to(Path(str(found.locate_file(top))))


def test_the_wheel_holds_one_package_and_every_file_of_it(wheel):
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    assert {name.parts[0].partition("-")[0] for name in names} == {"rapo"}
    held = {str(name) for name in names if ".dist-info" not in name.parts[0]}
    wanted = {
        str(Path("rapo/_system" if folder in SYSTEM else "", file.relative_to(ROOT)))
        for folder in ("rapo", *SYSTEM)
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and DEPLOY not in file.parents
    }
    assert held == wanted


def test_another_teams_services_stay_theirs(environment, tmp_path):
    code = "import services, sys; from rapo import AsyncScorerClient, ScorerClient; print(services.TEAM, ScorerClient)"
    assert run(environment / "python", "-c", code, cwd=tmp_path).startswith(
        "another <class 'rapo.client.sync.ScorerClient'>"
    )
    missing = "import importlib.util as u; print([n for n in ('actors', 'cluster', 'configs') if u.find_spec(n)])"
    assert run(environment / "python", "-c", missing, cwd=tmp_path).strip() == "[]"


def test_the_commands_find_their_own_packages_beside_it(environment, tmp_path):
    assert "--server" in run(environment / "rapo", "score", "--help", cwd=tmp_path)
    (tmp_path / "services.py").write_text("raise SystemExit('a file of the working folder')\n")
    for command in ([environment / "rapo"], [environment / "python", "-m", "rapo"]):
        # Tokens are made in `services.gateway`.
        assert "token of team" in run(*command, "token", "team", cwd=tmp_path)
