"""``seawall ls``: every tag of a tree."""

from pathlib import Path

import click

from seawall.commands.options import PATH, as_json_option
from seawall.commands.output import description_row, print_json, short
from seawall.describe import describe_all
from seawall.terminal import print_table, readable
from seawall.tree import Tree


@click.command("ls")
@click.argument("tree_root", metavar="TREE", type=PATH)
@as_json_option
def command(tree_root: Path, as_json: bool) -> None:
    """List every tag of TREE with its digest, kind, platforms and size."""
    found = list(describe_all(Tree.existing(tree_root)))
    if as_json:
        print_json([description_row(description) for description in found])
        return
    rows = [
        (
            str(description.reference),
            short(description.manifest.digest),
            str(description.manifest.kind),
            ",".join(description.platforms) or "-",
            readable(description.size),
        )
        for description in found
    ]
    print_table(("REFERENCE", "DIGEST", "KIND", "PLATFORMS", "SIZE"), rows, right=frozenset({"SIZE"}))
