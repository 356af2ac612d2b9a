"""``seawall sync``: a tree made to serve what a lock says."""

import contextlib
from pathlib import Path

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option, jobs_option, registries_option
from seawall.commands.output import print_json, print_quotas, quota_rows, unchanged_line, unchanged_row
from seawall.quota import Quota
from seawall.settled import applied_name, settled_tags
from seawall.tree import Tree
from seawall.writer import hold


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
    # A file of registries is to be checked whether or not it comes to be needed.
    settled = _settled(lock_file, Tree.possible(tree_root), dry_run=dry_run) if registries_file is None else None
    if settled is None:
        _sync(lock_file, tree_root, registries_file, jobs, dry_run=dry_run, as_json=as_json)
    elif as_json:
        print_json(unchanged_row(dry_run=dry_run) | {"quotas": []})
    else:
        name, tags = settled
        click.echo(unchanged_line(tree_root, tags, name))


def _settled(lock_file: Path, tree: Tree, *, dry_run: bool) -> tuple[str, int] | None:
    """Return the lock's name and how many tags it has, where there is nothing to do; None where a plan has to tell."""
    if applied_name(lock_file, tree) is None:
        return None
    with contextlib.nullcontext() if dry_run else hold(tree):
        # Asked once more, now that nobody else can apply another.
        name = applied_name(lock_file, tree)
        tags = settled_tags(name, tree) if name is not None else None
    return (name, tags) if name is not None and tags is not None else None


def _sync(
    lock_file: Path, tree_root: Path, registries_file: Path | None, jobs: int, *, dry_run: bool, as_json: bool
) -> None:
    # Who has nothing to do does not wait for what does it to start, which takes several times as long.
    from seawall.commands.filling import fill, outcome_row, print_outcome  # noqa: PLC0415
    from seawall.commands.sources import open_sources  # noqa: PLC0415
    from seawall.lock import read_lock  # noqa: PLC0415

    quotas: dict[str, Quota] = {}
    sources = open_sources(lock_file.parent, registries_file, quotas, tree_root)
    outcome = fill("sync", read_lock(lock_file), tree_root, sources, jobs, dry_run=dry_run)
    if as_json:
        print_json(outcome_row(outcome, dry_run=dry_run) | {"quotas": quota_rows(quotas)})
    else:
        print_outcome(outcome, tree_root, dry_run=dry_run)
        print_quotas(quotas)
