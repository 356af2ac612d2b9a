"""``seawall push``: one image of the local engine, sent to a tree anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from seawall.adding import pin_addition
from seawall.commands.filling import fill
from seawall.commands.options import as_json_option, dry_run_option, jobs_option
from seawall.commands.output import count, print_json, tag_move_line, tag_move_row
from seawall.errors import InputError
from seawall.manifest import Descriptor, Manifest
from seawall.place import SPELLINGS, HttpPlace, PathPlace, Place, S3Place, SshPlace, parse_place, shown
from seawall.plan import Plan
from seawall.pushing import Shipment, gather
from seawall.reference import parse_image_source
from seawall.release import TagMove
from seawall.sources import Sources, opener
from seawall.ssh_push import DEFAULT_COMMAND, compare, send
from seawall.terminal import readable, watch
from seawall.tree import INCOMING


@click.command("push")
@click.argument("image_name", metavar="IMAGE")
@click.argument("destination", metavar="DEST")
@click.option("--as", "name", metavar="REPO[:TAG]", default="", help="Its name in the tree.  [default: its full name]")
@click.option(
    "--remote-command",
    metavar="COMMAND",
    default=DEFAULT_COMMAND,
    show_default=True,
    help="With ssh: what runs seawall over there, as its shell reads it.",
)
@dry_run_option
@as_json_option
@jobs_option
def command(
    image_name: str, destination: str, name: str, remote_command: str, dry_run: bool, as_json: bool, jobs: int
) -> None:
    """Send IMAGE of the local Docker engine to the tree DEST, without the layers that it has already.

    DEST is a path, ssh://[USER@]HOST[:PORT]/PATH (where seawall is installed) or s3://BUCKET[/PREFIX].
    """
    image = parse_image_source(f"docker-daemon:{image_name}")
    place = parse_place(destination, shown(destination))
    if isinstance(place, HttpPlace):
        raise InputError(destination, "is a tree that can only be read", f"write {SPELLINGS}")
    if remote_command != DEFAULT_COMMAND and not isinstance(place, SshPlace):
        raise InputError(destination, "needs no --remote-command, which is for ssh", "leave it out")
    spool_folder = place.path / INCOMING if isinstance(place, PathPlace) else None
    sources = Sources(Path.cwd(), opener(spool_folder=spool_folder))
    lock, reference = pin_addition(image, name, sources)
    if isinstance(place, PathPlace):
        outcome = fill("push", lock, place.path, sources, jobs, dry_run=dry_run)
        _report(place, _of_plan(outcome.plan), outcome.release, dry_run=dry_run, as_json=as_json)
        return
    source = sources.at(image.location, plain_http=False)
    package = gather(reference, lock.pins[reference], source, str(image))
    release = None
    if isinstance(place, S3Place):
        # boto3 takes its time to be read.
        from seawall.s3_push import S3Push  # noqa: PLC0415

        bucket = S3Push(place, jobs)
        shipment = bucket.compare(package)
        if not (dry_run or shipment.is_empty):
            with watch() as progress:
                release = bucket.send(shipment, source.blob, progress)
    else:
        shipment = compare(package, place)
        if not (dry_run or shipment.is_empty):
            with watch() as progress:
                release = send(shipment, place, source.blob, progress, remote_command)
    _report(place, _of_shipment(shipment), release, dry_run=dry_run, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What was sent, or with a dry run would be."""

    blobs: tuple[Descriptor, ...]
    manifests: tuple[Manifest, ...]
    moves: tuple[TagMove, ...]
    is_empty: bool


def _of_plan(plan: Plan) -> _Sent:
    return _Sent(tuple(fetch.blob for fetch in plan.fetches), plan.manifests, plan.moves, plan.is_empty)


def _of_shipment(shipment: Shipment) -> _Sent:
    reference = shipment.package.reference
    move = TagMove(reference.repository, str(reference.tag), shipment.before, shipment.package.digest)
    moves = (move,) if shipment.moves else ()
    return _Sent(shipment.blobs, shipment.manifests, moves, shipment.is_empty)


def _report(place: Place, sent: _Sent, release: int | None, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "changed": not sent.is_empty,
                "dry_run": dry_run,
                "release": release,
                "sent": [{"digest": str(blob.digest), "size": blob.size} for blob in sent.blobs],
                "stored": [{"digest": str(one.digest), "kind": str(one.kind)} for one in sent.manifests],
                "moved": [tag_move_row(move) for move in sent.moves],
            }
        )
        return
    for line in _lines(sent) if dry_run else ():
        click.echo(line)
    if sent.is_empty:
        click.echo(f"{place}: unchanged, has all of it")
        return
    would = "would be: " if dry_run else f"release {release}: " if release else ""
    size = sum(blob.size for blob in sent.blobs) + sum(len(one.content) for one in sent.manifests)
    click.echo(
        f"{place}: {would}{count(len(sent.moves), 'tag')} moved, {count(len(sent.blobs), 'blob')} and "
        f"{count(len(sent.manifests), 'manifest')} ({readable(size)}) sent"
    )


def _lines(sent: _Sent) -> Iterator[str]:
    for blob in sent.blobs:
        yield f"send {blob.digest} {blob.size} bytes"
    for manifest in sent.manifests:
        yield f"send {manifest.digest} {manifest.kind} {len(manifest.content)} bytes"
    for move in sent.moves:
        yield tag_move_line(move)
