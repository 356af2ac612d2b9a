"""``seawall sync``: a tree made to serve what a lock says."""

from pathlib import Path

import click

from seawall.commands.filling import fill, outcome_row, print_outcome
from seawall.commands.options import PATH, as_json_option, dry_run_option, jobs_option, registries_option
from seawall.commands.output import print_json, print_quotas, quota_rows
from seawall.commands.sources import open_sources
from seawall.lock import read_lock
from seawall.quota import Quota


@click.command("sync")
@click.argument("lock_file", metavar="LOCK", type=PATH)
@click.argument("tree_root", metavar="TREE", type=PATH)
@dry_run_option
@as_json_option
@jobs_option
@registries_option
def command(
    lock_file: Path,
    tree_root: Path,
    dry_run: bool,
    as_json: bool,
    jobs: int,
    registries_file: Path | None,
) -> None:
    """Make TREE serve what LOCK says.

    Fetches what is missing, moves the tags that LOCK names, and withdraws those that it named when it was last
    applied and names no more. What another lock or a person put into the tree stays.
    """
    quotas: dict[str, Quota] = {}
    sources = open_sources(lock_file.parent, registries_file, quotas, tree_root)
    outcome = fill("sync", read_lock(lock_file), tree_root, sources, jobs, dry_run=dry_run)
    if as_json:
        print_json(outcome_row(outcome, dry_run=dry_run) | {"quotas": quota_rows(quotas)})
    else:
        print_outcome(outcome, tree_root, dry_run=dry_run)
        print_quotas(quotas)
