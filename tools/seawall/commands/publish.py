"""``seawall publish``: a tree carried to where it is to be served."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option, jobs_option
from seawall.commands.output import count, print_json, tell
from seawall.duration import DEFAULT_GRACE, parse_duration
from seawall.errors import InputError, SeawallError
from seawall.place import DESTINATIONS, PathPlace, S3Place, SshPlace, SwiftPlace, parse_destination, shown
from seawall.progress import Progress
from seawall.publication import Wishes
from seawall.terminal import readable, watch
from seawall.tree import Tree

if TYPE_CHECKING:
    from seawall.store_objects import StoreObjects

_ACLS = ("private", "public-read", "authenticated-read", "bucket-owner-read", "bucket-owner-full-control")
_Place = PathPlace | SshPlace | S3Place | SwiftPlace


@click.command("publish")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("destinations", metavar="DEST...", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Compare all of TREE, and not only what DEST has no record of.")
@click.option("--delete", is_flag=True, help="With s3 and swift: also remove what TREE serves no more, as prune does.")
@click.option(
    "--grace",
    metavar="DURATION",
    default=DEFAULT_GRACE,
    show_default=True,
    help="With --delete: keep what was written less than this ago.",
)
@click.option("--acl", type=click.Choice(_ACLS), help="With s3: a canned ACL for each object.")
@dry_run_option
@as_json_option
@jobs_option
def command(
    tree_root: Path,
    destinations: tuple[str, ...],
    everything: bool,
    delete: bool,
    grace: str,
    acl: str | None,
    dry_run: bool,
    as_json: bool,
    jobs: int,
) -> None:
    """Bring every DEST to the last release of TREE: content first, pointers last, only what is new.

    DEST is a path, ssh://[USER@]HOST[:PORT]/PATH (where rsync is installed), s3://BUCKET[/PREFIX] or
    swift://CONTAINER[/PREFIX]. Several are served side by side; one that fails does not stop the others.
    """
    tree = Tree.existing(tree_root)
    places = [_place(text) for text in destinations]
    if len(set(places)) < len(places):
        raise InputError(" ".join(map(str, places)), "names one destination twice", "name each once")
    if acl and not all(isinstance(place, S3Place) for place in places):
        raise InputError("--acl", "is for s3 alone", "leave it out: others say so for all that they hold")
    if delete and not all(isinstance(place, S3Place | SwiftPlace) for place in places):
        raise InputError("--delete", "is for s3 and swift alone", "leave it out: a replica prunes itself")
    kept = parse_duration(grace, "--grace")
    wishes = Wishes(everything=everything, delete=kept if delete else None, dry_run=dry_run)
    with watch() as progress, ThreadPoolExecutor(len(places), thread_name_prefix="publish") as pool:
        # Several have no bar in common.
        heard = progress if len(places) == 1 else _Lines(progress)

        def attempt(place: _Place) -> _Ended:
            try:
                return _publish(tree, place, heard, wishes, _StoreOptions(jobs, acl or ""))
            except SeawallError as error:
                return _Ended(place, error=error)

        ended = list(pool.map(attempt, places))
    if as_json:
        print_json({"changed": any(one.changed for one in ended), "dry_run": dry_run, "destinations": _rows(ended)})
    else:
        for one in ended:
            for line in _lines(one, dry_run=dry_run):
                click.echo(line)
    errors = [one.error for one in ended if one.error is not None]
    for error in errors:
        tell(f"seawall: {error}")
    if errors:
        sys.exit(errors[0].exit_code)


@dataclass(frozen=True, slots=True)
class _StoreOptions:
    jobs: int
    acl: str


@dataclass(frozen=True, slots=True)
class _Ended:
    """What came of one destination."""

    place: _Place
    changed: bool = False
    since: int | None = None
    release: int | None = None
    files: int = 0
    size: int = 0
    links: int = 0
    copied: int = 0
    removed: int = 0
    error: SeawallError | None = None


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


def _place(text: str) -> _Place:
    place = parse_destination(text, shown(text))
    if not isinstance(place, PathPlace | SshPlace | S3Place | SwiftPlace):
        raise InputError(shown(text), "is no place that a tree is published to", f"write {DESTINATIONS}")
    return place


def _publish(tree: Tree, place: _Place, progress: Progress, wishes: Wishes, options: _StoreOptions) -> _Ended:
    if isinstance(place, S3Place | SwiftPlace):
        from seawall.store import publish as publish_store  # noqa: PLC0415 - as below

        stored = publish_store(tree, _objects(place, options.acl), options.jobs, progress, wishes)
        return _Ended(
            place,
            stored.changed,
            stored.publication.since,
            stored.publication.release,
            files=stored.sent,
            size=stored.size,
            copied=stored.copied,
            removed=stored.removed,
        )
    from seawall.replica import publish as publish_replica  # noqa: PLC0415 - what a store does not wait for

    carried = publish_replica(tree, place, progress, wishes)
    return _Ended(
        place,
        carried.changed,
        carried.publication.since,
        carried.publication.release,
        files=len(carried.sent.files),
        size=carried.size,
        links=len(carried.sent.links),
        removed=carried.removed,
    )


def _objects(place: S3Place | SwiftPlace, acl: str) -> "StoreObjects":
    """Return what writes objects at *place*; the libraries take their time to be read."""
    if isinstance(place, SwiftPlace):
        from seawall.swift import Container  # noqa: PLC0415
        from seawall.swift_objects import SwiftObjects  # noqa: PLC0415

        return SwiftObjects(Container(place))
    from seawall.s3 import Bucket  # noqa: PLC0415
    from seawall.s3_objects import Objects  # noqa: PLC0415

    return Objects(Bucket(place), acl)


def _lines(ended: _Ended, *, dry_run: bool) -> Iterator[str]:
    if ended.error is not None:
        return
    if not ended.changed:
        yield f"{ended.place}: unchanged, has release {ended.release}"
        return
    more = [
        *([f"{count(ended.links, 'link')} made or moved"] if ended.links else []),
        *([f"{ended.copied} copied there"] if ended.copied else []),
        *([f"{ended.removed} removed"] if ended.removed else []),
    ]
    would = "would come" if dry_run else "came"
    sent = f"{count(ended.files, 'file')} sent ({readable(ended.size)})"
    yield f"{ended.place}: {would} from release {ended.since} to {ended.release}: {', '.join([sent, *more])}"


def _rows(ended: list[_Ended]) -> list[dict[str, Any]]:
    return [
        {
            "destination": str(one.place),
            "changed": one.changed,
            "since": one.since,
            "release": one.release,
            "files": one.files,
            "size": one.size,
            "links": one.links,
            "copied": one.copied,
            "removed": one.removed,
            "error": str(one.error) if one.error else None,
        }
        for one in ended
    ]
