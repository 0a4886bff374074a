"""The rooms of the source tree: which may import which, and how large they may grow."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rapo", "actors", "cluster", "services")
GENERATED = "rapo/v1"
FAMILY_WORDS = ("qwen", "internvl", "smolvlm", "idefics", "llava", "gemma")

#: Which rooms of a package a room may import beside its own. A room that is not named may import no
#: other one of its package.
CLUSTER = {
    "cluster/cli": {
        "pipeline",
        "evaluation",
        "training",
        "monitoring",
        "report",
        "rollout",
        "remote",
        "terminal",
        "files",
    },
    "cluster/pipeline": {
        *(
            "aescot",
            "evaluation",
            "training",
            "monitoring",
            "report",
            "rollout",
            "learner",
            "remote",
            "terminal",
            "files",
        ),
    },
    "cluster/aescot": {"remote", "files"},
    "cluster/evaluation": {"rollout", "remote", "terminal", "files"},
    "cluster/monitoring": {"training", "rollout", "remote", "files"},
    "cluster/training": {"rollout", "learner", "remote", "files"},
    "cluster/rollout": {"remote", "files"},
    "cluster/learner": {"remote", "files"},
    "cluster/remote": {"files"},
    "cluster/report": {"terminal", "files"},
    "cluster/terminal": {"files"},
    "cluster/files": set(),
}
SERVICES = {
    "services": {"gateway", "replica"},
    "services/gateway": {""},
    "services/replica": {""},
    "services/ui": set(),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Each module's room and path, relative to the repository."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if not relative.as_posix().startswith(GENERATED):
                yield room_of(relative.parent.as_posix()), relative


def room_of(folder: str) -> str:
    return "/".join(folder.split("/")[:2])


def imports(path: Path) -> Iterator[str]:
    """The folder or module of each import, as a path, those inside functions as well."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module or ""]
            # `from package import module`
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            yield name.replace(".", "/")


def imported_rooms(path: Path) -> Iterator[str]:
    for name in imports(path):
        if name.split("/")[0] not in PACKAGES:
            continue
        if (ROOT / name).is_dir():
            yield room_of(name)
        elif (ROOT / f"{name}.py").is_file():
            yield room_of(str(Path(name).parent))


def edges() -> Iterator[tuple[Path, str, str]]:
    for room, path in modules():
        for other in imported_rooms(path):
            if other != room:
                yield path, room, other


def test_packages_are_imported_downwards():
    allowed = {"cluster": {"actors", "services", "rapo"}, "actors": {"rapo"}, "services": {"rapo"}, "rapo": set()}
    for path, room, other in edges():
        package, target = room.split("/")[0], other.split("/")[0]
        assert target == package or target in allowed[package], f"{path} imports {other}"


@pytest.mark.parametrize(("package", "rules"), [("cluster", CLUSTER), ("services", SERVICES)])
def test_rooms_import_only_the_rooms_that_they_may(package: str, rules: dict[str, set[str]]) -> None:
    for path, room, other in edges():
        if room.split("/")[0] != package or other.split("/")[0] != package:
            continue
        assert room in rules, f"{path} lies in a room without a rule"
        assert other.removeprefix(package).lstrip("/") in rules[room], f"{path} imports {other}"


def test_the_page_sees_only_the_client():
    rooms = {other for _, room, other in edges() if room == "services/ui" and other != "rapo"}
    assert rooms <= {"rapo/client", "rapo/config", "rapo/images", "rapo/answers"}, rooms


def test_actors_do_not_import_each_other():
    shared = {"actors/messages", "actors/roles", "actors/chunk_fetch", "actors/guarded", "actors/run_files"}
    for room, path in modules():
        if room == "actors":
            others = {name for name in imports(path) if name.startswith("actors/") and (ROOT / f"{name}.py").is_file()}
            assert others <= shared, f"{path} imports {others - shared}"


def test_the_domain_does_not_import_ray():
    for room, path in modules():
        if room.split("/")[0] == "rapo":
            assert not any(name.split("/")[0] == "ray" for name in imports(path)), path


def test_nothing_outside_its_room_names_a_model_family():
    words = re.compile("|".join(FAMILY_WORDS), re.IGNORECASE)
    named = [path for room, path in modules() if room != "rapo/families" and words.search((ROOT / path).read_text())]
    assert not named


def test_no_two_modules_import_each_other():
    graph: dict[str, set[str]] = {}
    for _, path in modules():
        name = path.with_suffix("").as_posix().removesuffix("/__init__")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        at_top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}".replace(".", "/") for node in at_top}
        graph[name] = {other for other in names if other.split("/")[0] in PACKAGES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_and_folders_stay_small():
    tracked = [p for folder in (*PACKAGES, "tests", "bench") for p in (ROOT / folder).rglob("*.py")]
    sources = [p for p in tracked if GENERATED not in p.as_posix() and "/." not in p.as_posix()]
    long = {p.name: lines for p in sources if (lines := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long
    crowded = {folder: count for folder, count in Counter(p.parent for p in sources).items() if count > 21}
    assert not crowded, "20 modules and __init__.py"


def test_no_two_test_files_share_a_name():
    # pytest imports each as a module of its own name, because the test folders are no packages.
    names = Counter(path.name for path in (ROOT / "tests" / "unit").rglob("*.py") if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1 and name != "conftest.py"]


def test_docstrings_say_what_a_module_is():
    """`Noun: what it does`, or the noun alone; never a question."""
    for _, path in modules():
        first = (ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or "").split(" ")[0]
        assert first, f"{path} has no docstring"
        assert first.rstrip(",:") not in {"What", "Who", "Which", "How", "Where", "Whether", "When", "Why"}, path
