"""``seawall rm``: tags taken away from a tree."""

from pathlib import Path

import click

from seawall.commands.changing import change
from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.reference import Reference
from seawall.releasing import plan_rm


@click.command("rm")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("names", metavar="REPO:TAG...", nargs=-1, required=True)
@dry_run_option
@as_json_option
def command(tree_root: Path, names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Take tags away from TREE; what they point at stays, by digest.

    A tag that a lock names comes back when that lock is synced again.
    """
    references = tuple(map(Reference.parse, names))
    change(tree_root, lambda tree: plan_rm(tree, references), dry_run=dry_run, as_json=as_json)
