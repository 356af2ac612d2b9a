"""What the commands that only move tags have in common."""

from collections.abc import Callable
from pathlib import Path

import click

from seawall.commands.output import count, print_json, tag_move_line, tag_move_row
from seawall.releasing import Change, make_release
from seawall.terminal import watch
from seawall.tree import Tree
from seawall.writer import hold


def change(tree_root: Path, plan: Callable[[Tree], Change], *, dry_run: bool, as_json: bool) -> None:
    """Plan a change of tags and, unless it is a rehearsal, make it; print what moved."""
    tree = Tree.existing(tree_root)
    release = None
    if dry_run:
        change = plan(tree)
    else:
        with watch() as progress, hold(tree) as writer:
            change = plan(tree)
            if not change.is_empty:
                release = make_release(change, writer, progress)
    if as_json:
        moved = [tag_move_row(move) for move in change.moves]
        print_json({"changed": not change.is_empty, "dry_run": dry_run, "release": release, "moved": moved})
        return
    for move in change.moves if dry_run else ():
        click.echo(tag_move_line(move))
    if change.is_empty:
        click.echo(f"{tree_root}: unchanged")
        return
    would = "would be: " if dry_run else f"release {release}: " if release else ""
    click.echo(f"{tree_root}: {would}{count(len(change.moves), 'tag')} moved")
