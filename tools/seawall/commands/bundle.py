"""``seawall bundle``: what is new since a release, in one file."""

from pathlib import Path
from typing import Any

import click

from seawall.bundle import BundlePlan, plan_bundle, write_bundle
from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.commands.output import count, print_json
from seawall.inventory import take_inventory
from seawall.terminal import readable, watch
from seawall.tree import Tree


@click.command("bundle")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("file", metavar="FILE", type=PATH)
@click.option(
    "--since",
    metavar="RELEASE",
    type=click.IntRange(min=0),
    required=True,
    help="The release that the other tree has already; 0: nothing.",
)
@dry_run_option
@as_json_option
def command(tree_root: Path, file: Path, since: int, dry_run: bool, as_json: bool) -> None:
    """Write FILE with only what is new in TREE since RELEASE, for seawall unbundle elsewhere."""
    tree = Tree.existing(tree_root)
    plan = plan_bundle(take_inventory(tree), since, str(tree_root))
    if not dry_run:
        with watch() as progress:
            write_bundle(plan, tree, file, progress)
    if as_json:
        print_json(_bundle_row(plan, dry_run=dry_run))
        return
    tags = sum(len(own.tags) for own in plan.bundle.repositories)
    click.echo(
        f"{file}: {'would hold' if dry_run else 'holds'} releases {since} to {plan.bundle.release}: "
        f"{count(tags, 'tag')}, {count(len(plan.manifests), 'manifest')} and {count(len(plan.blobs), 'blob')} "
        f"({readable(plan.size)})"
    )


def _bundle_row(plan: BundlePlan, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "since": plan.bundle.since,
        "release": plan.bundle.release,
        "tags": [f"{own.repository}:{tag.tag}" for own in plan.bundle.repositories for tag in own.tags],
        "manifests": [str(row.digest) for row in plan.manifests],
        "blobs": [{"digest": str(row.digest), "size": row.size} for row in plan.blobs],
        "size": plan.size,
    }
