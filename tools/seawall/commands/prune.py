"""``seawall prune``: what nothing needs any more, removed."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option, metrics_option
from seawall.commands.output import count, print_json
from seawall.duration import DEFAULT_GRACE, parse_duration
from seawall.in_use import InUse, read_in_use
from seawall.inventory import take_inventory
from seawall.metrics import recording
from seawall.prune import DEFAULT_KEEP_RELEASES, Keep, PrunePlan, plan_prune, prune
from seawall.terminal import readable, watch
from seawall.tree import Tree
from seawall.writer import hold


@click.command("prune")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.option(
    "--keep-releases",
    metavar="N",
    type=click.IntRange(min=1),
    default=DEFAULT_KEEP_RELEASES,
    show_default=True,
    help="Keep what a rollback to any of the newest N releases needs.",
)
@click.option(
    "--in-use",
    "in_use_files",
    metavar="FILE|-",
    multiple=True,
    help="Keep what this list of references names, or this JSON of docker, crictl or kubectl; may be repeated.",
)
@click.option(
    "--grace",
    metavar="DURATION",
    default=DEFAULT_GRACE,
    show_default=True,
    help="Keep what arrived, or lost its tag, less than this ago.",
)
@metrics_option
@dry_run_option
@as_json_option
def command(
    tree_root: Path,
    keep_releases: int,
    in_use_files: tuple[str, ...],
    grace: str,
    metrics_file: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove from TREE what no tag, lock, recent release or running container needs."""
    if dry_run and metrics_file:
        raise click.UsageError("--metrics says what was done, and --dry-run does nothing: leave one of them out.")
    with recording(metrics_file, "prune", str(tree_root)) as figures:
        tree = Tree.existing(tree_root)
        since = time.time() - parse_duration(grace, "--grace")
        in_use = frozenset[InUse]().union(*map(read_in_use, in_use_files))
        keep = Keep(keep_releases, since, in_use)
        if dry_run:
            plan = plan_prune(take_inventory(tree), keep)
        else:
            with watch() as progress, hold(tree) as writer:
                plan = plan_prune(take_inventory(tree), keep)
                prune(plan, writer, progress)
        figures |= {"freed_bytes": plan.size, "removed_files": len(plan.manifest_contents) + len(plan.blob_contents)}
    if as_json:
        print_json(_prune_row(plan, dry_run=dry_run))
        return
    for line in _prune_lines(plan) if dry_run else ():
        click.echo(line)
    if plan.is_empty:
        click.echo(f"{tree_root}: unchanged, nothing can go")
        return
    click.echo(
        f"{tree_root}: {count(len(plan.manifests), 'manifest')} and {count(len(plan.blobs), 'blob')} "
        f"{'would be ' if dry_run else ''}no longer served; "
        f"{count(len(plan.manifest_contents) + len(plan.blob_contents), 'file')} ({readable(plan.size)}) "
        f"{'would be ' if dry_run else ''}removed"
    )


def _prune_lines(plan: PrunePlan) -> Iterator[str]:
    for one in plan.relisted:
        yield f"make the list of referrers of {one.repository}@{one.subject} anew"
    for repository, subject in plan.unlisted:
        yield f"remove the list of referrers of {repository}@{subject}"
    for repository, digest in plan.manifests:
        yield f"unlink {repository}@{digest}"
    for repository, digest in plan.blobs:
        yield f"unlink blob {digest} of {repository}"
    for repository in plan.repositories:
        yield f"remove repository {repository}"
    for stored in plan.manifest_contents:
        yield f"remove {stored.digest} {stored.kind}"
    for digest in plan.blob_contents:
        yield f"remove blob {digest}"


def _prune_row(plan: PrunePlan, *, dry_run: bool) -> dict[str, Any]:
    return {
        "changed": not plan.is_empty,
        "dry_run": dry_run,
        "unlisted": [f"{repository}@{subject}" for repository, subject in plan.unlisted],
        "relisted": [f"{one.repository}@{one.subject}" for one in plan.relisted],
        "manifests": [f"{repository}@{digest}" for repository, digest in plan.manifests],
        "blobs": [{"repository": repository, "digest": str(digest)} for repository, digest in plan.blobs],
        "repositories": list(plan.repositories),
        "removed": [str(stored.digest) for stored in plan.manifest_contents] + [str(d) for d in plan.blob_contents],
        "size": plan.size,
    }
