"""``seawall unbundle``: a bundle, checked and applied."""

import sys
from pathlib import Path
from typing import Any

import click

from seawall.bundle import check_bundle
from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.commands.output import count, print_json, tag_move_line, tag_move_row
from seawall.terminal import readable, watch
from seawall.tree import Tree
from seawall.unbundling import Unbundling, check_stream, plan_unbundle, take_stream, unbundle
from seawall.writer import hold


@click.command("unbundle")
@click.argument("file", metavar="FILE", type=PATH)
@click.argument("tree_root", metavar="TREE", type=PATH)
@dry_run_option
@as_json_option
def command(file: Path, tree_root: Path, dry_run: bool, as_json: bool) -> None:
    """Check every byte of FILE, which seawall bundle wrote, and bring what it holds into TREE.

    From - (standard input) it is taken as it comes: what is checked is kept, and served once all is.
    """
    tree = Tree.possible(tree_root)
    release = None
    is_stream = str(file) == "-"
    where = "standard input" if is_stream else str(file)
    with watch() as progress:
        if is_stream and dry_run:
            unbundling = check_stream(sys.stdin.buffer, where, tree, progress)
        elif is_stream:
            with hold(tree) as writer:
                unbundling, release = take_stream(sys.stdin.buffer, where, writer, progress)
        elif dry_run:
            unbundling = plan_unbundle(check_bundle(file, progress), tree, where)
        else:
            checked = check_bundle(file, progress)
            with hold(tree) as writer:
                unbundling = plan_unbundle(checked, tree, where)
                if not unbundling.is_empty:
                    release = unbundle(unbundling, file, writer, progress)
    if as_json:
        print_json(_unbundle_row(unbundling, release, dry_run=dry_run))
        return
    for move in unbundling.plan.moves if dry_run else ():
        click.echo(tag_move_line(move))
    if unbundling.is_empty:
        click.echo(f"{tree_root}: unchanged, has all of {where}")
        return
    would = "would be: " if dry_run else f"release {release}: " if release else ""
    click.echo(
        f"{tree_root}: {would}{count(len(unbundling.plan.moves), 'tag')} moved, "
        f"{count(len(unbundling.blobs), 'blob')} ({readable(sum(unbundling.blobs.values()))}) brought"
    )


def _unbundle_row(unbundling: Unbundling, release: int | None, *, dry_run: bool) -> dict[str, Any]:
    return {
        "changed": not unbundling.is_empty,
        "dry_run": dry_run,
        "release": release,
        "blobs": [{"digest": str(digest), "size": size} for digest, size in unbundling.blobs.items()],
        "stored": [{"digest": str(m.digest), "kind": str(m.kind)} for m in unbundling.plan.manifests],
        "moved": [tag_move_row(move) for move in unbundling.plan.moves],
    }
