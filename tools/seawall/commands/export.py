"""``seawall export``: a tree as a plain directory for a static host."""

import sys
from pathlib import Path

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.commands.output import count, print_json, tell
from seawall.errors import ExitCode
from seawall.export import ExportPlan, export, plan_export
from seawall.objects import objects_of
from seawall.static_host import HOSTS, plan_site
from seawall.terminal import readable, watch
from seawall.tree import Tree


@click.command("export")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--for", "host", type=click.Choice(HOSTS), required=True, help="The host that is to serve DIR.")
@click.option(
    "--blobs",
    "blobs_url",
    metavar="URL",
    default="",
    help="Leave blobs out, and redirect to where they are: URL/v2/REPO/blobs/DIGEST.",
)
@click.option(
    "--force", is_flag=True, help="Write DIR even if the host would refuse it, or serve a part of it wrongly."
)
@dry_run_option
@as_json_option
def command(
    tree_root: Path, folder: Path, host: str, blobs_url: str, force: bool, dry_run: bool, as_json: bool
) -> None:
    """Write what TREE serves to DIR as plain files, with headers in the form of a static host.

    A second run writes only what is new, and removes what went. Where TREE does not keep the host's limits, they are
    named, nothing is written, and the exit code is 1. What the tree's file `private` names is left out.
    """
    plan = plan_export(plan_site(host, objects_of(Tree.existing(tree_root)), blobs_url), folder)
    refused = bool(plan.excesses) and not force
    if not (dry_run or refused or plan.is_empty):
        with watch() as progress:
            export(plan, progress)
    if as_json:
        print_json(_row(plan, dry_run=dry_run, refused=refused))
    else:
        _report(plan, dry_run=dry_run, refused=refused)
    sys.exit(ExitCode.DOES_NOT_HOLD if refused else ExitCode.OK)


def _report(plan: ExportPlan, *, dry_run: bool, refused: bool) -> None:
    for excess in plan.excesses:
        tell(f"{plan.site.host} allows {excess.limit}: {excess.found}")
    if dry_run:
        for one in plan.files:
            click.echo(f"write {one.key} {one.size} bytes")
        for path in plan.texts:
            click.echo(f"write {path}")
        for path in plan.removed:
            click.echo(f"remove {path}")
    if refused:
        click.echo(f"{plan.folder}: {'would not be' if dry_run else 'not'} written, --force writes it all the same")
    elif plan.is_empty:
        click.echo(f"{plan.folder}: unchanged")
    else:
        click.echo(
            f"{plan.folder}: {count(len(plan.files) + len(plan.texts), 'file')} ({readable(plan.size)}) "
            f"{'would be ' if dry_run else ''}written, {len(plan.removed)} {'would be ' if dry_run else ''}removed"
        )


def _row(plan: ExportPlan, *, dry_run: bool, refused: bool) -> dict[str, object]:
    return {
        "changed": not (plan.is_empty or refused),
        "dry_run": dry_run,
        "refused": refused,
        "exceeded": [{"limit": excess.limit, "found": excess.found} for excess in plan.excesses],
        "written": [one.key for one in plan.files] + list(plan.texts),
        "removed": list(plan.removed),
        "size": plan.size,
    }
