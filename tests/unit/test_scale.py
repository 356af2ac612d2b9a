"""The figures of docs/scale.md follow from its assumptions."""

import math
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs/scale.md").read_text()
ASSUMED = {name: float(value) for name, value in re.findall(r"^\| `(\w+)` \| ([0-9.]+) \|", PAGE, re.MULTILINE)}
ROWS = re.findall(r"^\| `(\w+)` \| [^|]+ \| `([^`]+)` \| ([0-9.,]+) \|$", PAGE, re.MULTILINE)
HEAD, *SCALES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Ten times more")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ")
]


def figures(**other: float) -> dict[str, float]:
    """Work out all figures, with other assumptions where some are given."""
    known: dict[str, float] = {**ASSUMED, **other}
    for name, formula, _ in ROWS:
        known[name] = eval(formula, {"__builtins__": {}, "ceil": math.ceil}, known)  # noqa: S307 - our own page
    return known


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_shares_of_pulls_make_a_whole() -> None:
    assert ASSUMED["warm"] + ASSUMED["part"] + ASSUMED["cold"] == pytest.approx(1)


def test_every_assumption_is_used() -> None:
    formulas = " ".join(formula for _, formula, _ in ROWS)
    assert set(ASSUMED) - set(re.findall(r"\w+", formulas)) == set()


@pytest.mark.parametrize(("name", "formula", "value"), ROWS, ids=[name for name, _, _ in ROWS])
def test_a_figure_is_what_its_formula_gives(name: str, formula: str, value: str) -> None:
    assert number(value) == pytest.approx(figures()[name], rel=0.01), formula


@pytest.mark.parametrize("row", SCALES, ids=lambda row: row[0])
def test_a_row_of_scales_follows_from_the_same_formulas(row: list[str]) -> None:
    found = figures(pulls=number(row[0]))
    for name, cell in zip(HEAD[1:], row[1:], strict=True):
        assert number(cell) == pytest.approx(found[name], rel=0.01), name
