"""``seawall lists``: tag lists and catalog, written anew where they are not right."""

from pathlib import Path

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.commands.output import count, print_json
from seawall.lists import find_stale_lists
from seawall.releasing import write_stale_lists
from seawall.tree import Tree
from seawall.writer import hold


@click.command("lists")
@click.argument("tree_root", metavar="TREE", type=PATH)
@dry_run_option
@as_json_option
def command(tree_root: Path, dry_run: bool, as_json: bool) -> None:
    """Write the tag lists and the catalog of TREE anew where they are not right.

    Every change of tags keeps them as tags and repositories make them. This is for a tree of an earlier version, and
    for one whose file `private` changed.
    """
    tree = Tree.existing(tree_root)
    if dry_run:
        stale = find_stale_lists(tree)
    else:
        with hold(tree) as writer:
            stale = find_stale_lists(tree)
            if stale:
                write_stale_lists(stale, writer)
    if as_json:
        row = {"repositories": list(stale.repositories), "catalog": stale.catalog}
        print_json({"changed": bool(stale), "dry_run": dry_run, **row})
        return
    for repository in stale.repositories if dry_run else ():
        click.echo(f"write the tag list of {repository}")
    if not stale:
        click.echo(f"{tree_root}: unchanged")
        return
    what = count(len(stale.repositories), "tag list") + (" and the catalog" if stale.catalog else "")
    click.echo(f"{tree_root}: {what} {'would be ' if dry_run else ''}written")
