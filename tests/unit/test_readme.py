"""README and docs say what is so."""

import re
from pathlib import Path

import click
import pytest

from seawall.cli import COMMANDS, cli
from seawall.errors import ExitCode
from unit.tool_site import Site

TOP = Path(__file__).resolve().parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]


def test_the_help_in_the_readme_is_the_tools_own(site: Site) -> None:
    assert site.run("--help").out.strip() in (TOP / "README.md").read_text()


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for page in PAGES for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_every_command_and_option_in_the_docs_exists() -> None:
    used = {
        match
        for page in PAGES
        for match in re.findall(r"seawall ((?:lock|sync|ls|inspect|verify|[a-z]+) ?[^`\n]*)`", page.read_text())
    }
    for line in used:
        name, *words = line.split()
        assert name in COMMANDS, line
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_exit_code_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", (TOP / "docs/images.md").read_text(), re.MULTILINE)}
    assert documented == set(ExitCode)


def test_nothing_is_left_to_be_filled_in() -> None:
    for page in PAGES:
        assert "@@" not in page.read_text(), page
