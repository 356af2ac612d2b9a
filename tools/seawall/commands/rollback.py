"""``seawall rollback``: tags as they were."""

from pathlib import Path

import click

from seawall.commands.changing import change
from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.releasing import plan_rollback


@click.command("rollback")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("number", metavar="RELEASE", type=click.IntRange(min=0))
@dry_run_option
@as_json_option
def command(tree_root: Path, number: int, dry_run: bool, as_json: bool) -> None:
    """Bring the tags of TREE back to how they were right after RELEASE (0: before the first).

    Only tags move; nothing is fetched. The rollback is a release itself, and can be undone like any other.
    """
    change(tree_root, lambda tree: plan_rollback(tree, number), dry_run=dry_run, as_json=as_json)
