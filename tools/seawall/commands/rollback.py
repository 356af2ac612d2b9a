"""``seawall rollback``: tags as they were."""

from datetime import datetime
from pathlib import Path

import click

from seawall.commands.changing import change
from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.releasing import TIME_FORMAT, plan_rollback


@click.command("rollback")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("number", metavar="RELEASE", type=click.IntRange(min=0))
@click.option(
    "--time",
    type=click.DateTime([TIME_FORMAT]),
    help="What the record says when it was: the same for each copy of a tree.  [default: now]",
)
@dry_run_option
@as_json_option
def command(tree_root: Path, number: int, time: datetime | None, dry_run: bool, as_json: bool) -> None:
    """Bring the tags of TREE back to how they were right after RELEASE (0: before the first).

    Only tags move; nothing is fetched. The rollback is a release itself, and can be undone like any other.
    """
    said = time.strftime(TIME_FORMAT) if time else ""
    change(tree_root, lambda tree: plan_rollback(tree, number, said), dry_run=dry_run, as_json=as_json)
