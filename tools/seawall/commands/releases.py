"""``seawall releases``: what happened to a tree."""

from pathlib import Path
from typing import Any

import click

from seawall.commands.options import PATH, as_json_option
from seawall.commands.output import print_json, tag_move_row
from seawall.release import Release
from seawall.terminal import print_table
from seawall.tree import Tree


@click.command("releases")
@click.argument("tree_root", metavar="TREE", type=PATH)
@as_json_option
def command(tree_root: Path, as_json: bool) -> None:
    """List every release of TREE: when it was made, by what, and how many tags and referrers it concerned."""
    tree = Tree.existing(tree_root)
    found = [tree.read_release(number) for number in tree.releases()]
    if as_json:
        print_json([_release_row(release) for release in found])
        return
    rows = [(str(r.number), r.time, r.by, r.lock or "-", str(len(r.moves)), str(len(r.referrers))) for r in found]
    right = frozenset({"RELEASE", "TAGS", "REFERRERS"})
    print_table(("RELEASE", "TIME", "BY", "LOCK", "TAGS", "REFERRERS"), rows, right=right)


def _release_row(release: Release) -> dict[str, Any]:
    return {
        "release": release.number,
        "time": release.time,
        "by": release.by,
        "lock": release.lock or None,
        "moved": [tag_move_row(move) for move in release.moves],
        "referrers": [f"{repository}@{digest}" for repository, digest in release.referrers],
    }
