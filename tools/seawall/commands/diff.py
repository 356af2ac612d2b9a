"""``seawall diff``: a lock against another lock, a tree, wherever it lies, or a server."""

import sys
from pathlib import Path

import click

from seawall.commands.options import PATH, as_json_option, jobs_option
from seawall.commands.output import count, move_row, print_json, short
from seawall.errors import ExitCode, InputError
from seawall.lock import differences, read_lock
from seawall.place import parse_place, shown
from seawall.served import tags_of_place, tags_of_server, tags_of_tree
from seawall.sources import opener
from seawall.terminal import print_table
from seawall.tree import Tree


@click.command("diff")
@click.argument("lock_file", metavar="LOCK", type=PATH)
@click.argument("other", metavar="LOCK|TREE|URL|PLACE")
@click.option("--all", "others", is_flag=True, help="With TREE: also show tags that LOCK does not name.")
@as_json_option
@jobs_option
def command(lock_file: Path, other: str, others: bool, as_json: bool, jobs: int) -> None:
    """Compare LOCK with another lock, a tree or a server; exit with 0 if they agree, with 1 if not.

    Of a TREE the tags and referrers are compared that LOCK names; a URL (http:// or https://) is asked for the same,
    with one HEAD request each. A PLACE, ssh://HOST/PATH or s3://BUCKET[/PREFIX], is a tree elsewhere. Nothing is
    changed.
    """
    before = read_lock(lock_file).digests
    is_url = other.startswith(("http://", "https://"))
    is_tree = not is_url and Path(other).is_dir()
    if others and not is_tree:
        raise InputError(other, "is no tree, and --all is about tags of a tree", "leave --all out")
    if is_url:
        after = tags_of_server(other, before, opener(), jobs)
    elif other.startswith(("ssh:", "s3:")):
        after = tags_of_place(parse_place(other, shown(other)), before, opener(), jobs)
    elif is_tree:
        after = tags_of_tree(Tree.existing(Path(other)), before, others=others)
    else:
        after = read_lock(Path(other)).digests
    found = differences(before, after)
    known = {*before, *after}
    noun = "tag" if all(reference.tag for reference in known) else "reference"
    if as_json:
        print_json({"equal": not found, "tags": len(known), "different": [move_row(row) for row in found]})
    else:
        if found:
            rows = [(str(row.reference), short(row.old), short(row.new)) for row in found]
            print_table(("REFERENCE", str(lock_file), other), rows)
        verdict = f"{len(found)} of {count(len(known), noun)} differ" if found else "no difference"
        click.echo(f"{other}: {verdict}")
    sys.exit(ExitCode.DOES_NOT_HOLD if found else ExitCode.OK)
