"""The documents: what they name exists, and their lines stay short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from cluster.cli.main import app
from cluster.files.report import EMBEDDED
from rapo.config import Config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "actors|bench|cluster|configs|constraints|docs|protos|rapo|services|tests|tools"

SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?:{FOLDERS})/[\w./*-]*")
MODULE = re.compile(rf"python -m ((?:{FOLDERS})(?:\.\w+)*)")
COMMAND = re.compile(r"(?<![\w.-])(?<!from )rapo ([a-z]+)(?: ([a-z]+))?")
SETTING = re.compile(rf"(?:--set )?((?:{'|'.join(Config.model_fields)})(?:\.[a-z_]+)+)(?: ?=.*)?")
#: What looks like a setting: a file, and the attributes of the gateway's spans.
NO_SETTINGS = {"rapo.json", "rapo.decode_ms", "rapo.queue_ms", "rapo.generate_ms"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def lines(page: Path) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it lies in a code block."""
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.lstrip().startswith("```")
        inside ^= fence
        yield line, inside or fence


def spans(page: Path) -> Iterator[str]:
    """What is set as code inside the text."""
    for line, code in lines(page):
        if not code:
            yield from SPAN.findall(line)


def code_lines(page: Path) -> Iterator[str]:
    for line, code in lines(page):
        if code:
            yield line.partition("#")[0]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = [line.lstrip("#").strip().lower() for line, code in lines(page) if line.startswith("#") and not code]
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


@pages
def test_every_path_exists(page: Path) -> None:
    for span in spans(page):
        if PATH.fullmatch(span):
            assert any(ROOT.glob(span.rstrip("/"))), span


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for line, code in lines(page):
        for link in () if code else LINK.findall(line):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pages
def test_every_module_that_is_run_exists(page: Path) -> None:
    for text in chain(spans(page), code_lines(page)):
        for module in MODULE.findall(text):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), text


@pages
def test_every_command_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    commands = group.commands
    for text in chain(spans(page), code_lines(page)):
        for name, below in COMMAND.findall(text):
            assert name in commands, text
            command = commands[name]
            if isinstance(command, TyperGroup):
                assert below in command.commands, text


@pages
def test_every_setting_exists(page: Path) -> None:
    for span in spans(page):
        match = SETTING.fullmatch(span)
        if match is None or match[1] in NO_SETTINGS:
            continue
        section: object = Config
        for part in match[1].split("."):
            fields = getattr(section, "model_fields", {})
            assert part in fields, span
            section = fields[part].annotation


def test_the_scale_of_the_demo_is_named_as_its_model_names_it() -> None:
    clients = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert f"such as `{EMBEDDED}`" in " ".join(clients.split())
    wrong = re.compile(r"native.scale\W+ava\b")
    assert not any(wrong.search(page.read_text(encoding="utf-8")) for page in PAGES)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170


@pytest.mark.parametrize("page", [PAGES[0], *PAGES[2:]], ids=lambda page: page.name)
def test_lines_of_prose_are_short(page: Path) -> None:
    """Tables, code and lines with a URL may be longer."""
    for line, code in lines(page):
        if not code and not line.lstrip().startswith("|") and "://" not in line:
            assert len(line) <= 100, line
