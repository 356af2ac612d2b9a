"""``seawall publish``: a tree carried to where it is to be served."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.commands.output import count, print_json, tell
from seawall.errors import InputError, SeawallError
from seawall.place import PathPlace, Place, SshPlace, parse_place, shown
from seawall.progress import Progress
from seawall.replica import Carried, publish
from seawall.terminal import readable, watch
from seawall.tree import Tree

_SPELLINGS = "a path or ssh://[USER@]HOST[:PORT]/PATH"


@click.command("publish")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("destinations", metavar="DEST...", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Compare all of TREE, and not only what DEST has no record of.")
@dry_run_option
@as_json_option
def command(tree_root: Path, destinations: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Bring every DEST to the last release of TREE: content first, pointers last, only what is new.

    DEST is a path or ssh://[USER@]HOST[:PORT]/PATH, where rsync is installed. Several are served side by side; one
    that fails does not stop the others.
    """
    tree = Tree.existing(tree_root)
    places = [_place(text) for text in destinations]
    if len(set(places)) < len(places):
        raise InputError(" ".join(map(str, places)), "names one destination twice", "name each once")
    with watch() as progress, ThreadPoolExecutor(len(places), thread_name_prefix="publish") as pool:
        # Several have no bar in common.
        heard = progress if len(places) == 1 else _Lines(progress)

        def attempt(place: PathPlace | SshPlace) -> _Ended:
            try:
                return _Ended(place, publish(tree, place, heard, everything=everything, dry_run=dry_run), None)
            except SeawallError as error:
                return _Ended(place, None, error)

        ended = list(pool.map(attempt, places))
    errors = [one.error for one in ended if one.error is not None]
    if as_json:
        rows = [_row(one) for one in ended]
        print_json({"changed": any(row["changed"] for row in rows), "dry_run": dry_run, "destinations": rows})
    else:
        for one in ended:
            for line in _lines(one, dry_run=dry_run):
                click.echo(line)
    for error in errors:
        tell(f"seawall: {error}")
    if errors:
        sys.exit(errors[0].exit_code)


@dataclass(frozen=True, slots=True)
class _Ended:
    place: Place
    carried: Carried | None
    error: SeawallError | None


class _Lines:
    """Passes on what is worth a line, and no figures."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def expect(self, size: int, what: str) -> None:
        """Ignore it."""

    def advance(self, size: int) -> None:
        """Ignore it."""

    def say(self, line: str) -> None:
        """Pass it on."""
        self._progress.say(line)


def _place(text: str) -> PathPlace | SshPlace:
    place = parse_place(text, shown(text))
    if not isinstance(place, PathPlace | SshPlace):
        raise InputError(shown(text), "is no place that a tree is published to", f"write {_SPELLINGS}")
    return place


def _lines(ended: _Ended, *, dry_run: bool) -> Iterator[str]:
    carried = ended.carried
    if carried is None:
        return
    plan = carried.publication
    if not carried.changed:
        yield f"{ended.place}: unchanged, has release {plan.release}"
        return
    files = count(len(carried.sent.files), "file")
    links = count(len(carried.sent.links) + carried.removed, "link")
    would = "would come" if dry_run else "came"
    yield (
        f"{ended.place}: {would} from release {plan.since} to {plan.release}: {files} sent "
        f"({readable(carried.size)}), {links} changed"
    )


def _row(ended: _Ended) -> dict[str, Any]:
    carried = ended.carried
    return {
        "destination": str(ended.place),
        "changed": bool(carried and carried.changed),
        "since": carried.publication.since if carried else None,
        "release": carried.publication.release if carried else None,
        "files": len(carried.sent.files) if carried else 0,
        "links": len(carried.sent.links) + carried.removed if carried else 0,
        "size": carried.size if carried else 0,
        "error": str(ended.error) if ended.error else None,
    }
