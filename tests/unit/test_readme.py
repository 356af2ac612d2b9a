"""README and docs say what is so."""

import re
import shlex
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
        known = {option for parameter in _command(name).params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_of_a_command_is_documented(name: str) -> None:
    command = _command(name)
    arguments = [piece for piece in command.collect_usage_pieces(click.Context(command)) if piece != "[OPTIONS]"]
    usage = " ".join(("seawall", name, *arguments))
    assert any(usage in page.read_text() for page in PAGES), f"no page says how it is called: {usage}"
    shared = (
        (TOP / "docs/images.md").read_text().partition("## Options that many commands have")[2].partition("\n## ")[0]
    )
    # The README's help block names every command, and explains none.
    own = [page.read_text() for page in PAGES[1:] if re.search(rf"seawall {name}\b", page.read_text())]
    named = {word for page in own for code in _code(page) for word in code.split()} | set(
        re.findall("`(--[a-z-]+)", shared)
    )
    options = {max(parameter.opts, key=len) for parameter in command.params if isinstance(parameter, click.Option)}
    assert options <= named


def test_every_example_in_the_docs_is_a_command_line_that_the_tool_takes() -> None:
    lines = [line for page in PAGES for code in _code(page.read_text()) for line in code.splitlines()]
    examples = [found[1] for line in lines if (found := re.search(r"(?:^|\$ |\$\(|-- )seawall ([a-z]+ [^>|)]*)", line))]
    taken = 0
    for example in examples:
        name, *arguments = shlex.split(example, comments=True)
        # Capitals say how a command is called; that is looked at above.
        if name in COMMANDS and arguments and not arguments[0].isupper():
            _command(name).make_context(name, arguments)
            taken += 1
    assert taken > 15


def _command(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def _code(page: str) -> list[str]:
    """Return what *page* has in blocks of code, and in backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return [*blocks, *re.findall(r"`([^`]+)`", rest)]


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
