"""``seawall tag``: a tag moved by hand."""

from pathlib import Path

import click

from seawall.commands.changing import change
from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.reference import Reference, check_tag
from seawall.releasing import plan_tag


@click.command("tag")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("source", metavar="REPO:TAG")
@click.argument("tag", metavar="NEW_TAG")
@dry_run_option
@as_json_option
def command(tree_root: Path, source: str, tag: str, dry_run: bool, as_json: bool) -> None:
    """Point NEW_TAG at what REPO:TAG (or REPO@sha256:...) names, in the same repository of TREE."""
    reference = Reference.parse(source)
    check_tag(tag, "NEW_TAG")
    change(tree_root, lambda tree: plan_tag(tree, reference, tag), dry_run=dry_run, as_json=as_json)
