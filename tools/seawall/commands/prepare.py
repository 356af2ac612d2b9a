"""``seawall prepare``: buckets and containers made what a publish wants them to be."""

from collections.abc import Iterator

import click

from seawall.commands.options import as_json_option, dry_run_option
from seawall.commands.output import print_json
from seawall.duration import parse_duration
from seawall.errors import InputError
from seawall.place import S3Place, SwiftPlace, parse_destination, shown
from seawall.store_settings import Change, StoreSettings, carry_out

_DAY = 24 * 3600


@click.command("prepare")
@click.argument("destination", metavar="DEST")
@click.option("--public/--private", "is_public", default=True, show_default=True, help="Whether everybody may read it.")
@click.option("--cors", "origins", metavar="ORIGIN", multiple=True, help="Whose pages may read it in a browser.")
@click.option("--versioning/--no-versioning", "is_versioned", help="Whether it keeps versions of its objects.")
@click.option(
    "--unfinished",
    metavar="DURATION",
    default="7d",
    show_default=True,
    help="With s3: what was not finished is removed after so many days; 0d: never.",
)
@dry_run_option
@as_json_option
def command(
    destination: str,
    is_public: bool,
    origins: tuple[str, ...],
    is_versioned: bool,
    unfinished: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make the bucket or the container DEST, and have it be what a publish wants.

    DEST is s3://BUCKET[/PREFIX] or swift://CONTAINER. What is so already is left alone.
    """
    place = parse_destination(destination, shown(destination))
    seconds = parse_duration(unfinished, "--unfinished")
    if seconds % _DAY:
        raise InputError("--unfinished", f"{unfinished!r} is not a number of days", "write 7d")
    if any(not origin.isprintable() or " " in origin or "," in origin for origin in origins):
        raise InputError("--cors", "names no origin", "write https://HOST[:PORT] or *")
    if isinstance(place, SwiftPlace) and origins and is_versioned:
        # The object of a container with versions is a link into another one, which knows nothing of CORS.
        what = "Swift answers pages of other origins nothing out of a container with versions"
        raise InputError(str(place), what, "choose --cors or --versioning")
    wanted = StoreSettings(is_public, tuple(sorted(origins)), is_versioned, int(seconds // _DAY))
    done = carry_out(list(_changes(place, wanted, destination)), dry_run=dry_run)
    if as_json:
        print_json({"destination": str(place), "changed": bool(done), "dry_run": dry_run, "changes": list(done)})
        return
    for what in done:
        click.echo(f"{place}: {'would ' if dry_run else ''}{what}")
    if not done:
        click.echo(f"{place}: unchanged")


def _changes(place: object, wanted: StoreSettings, text: str) -> Iterator[Change]:
    if isinstance(place, S3Place):
        # boto3 takes its time to be read.
        from seawall.s3 import Bucket  # noqa: PLC0415
        from seawall.s3_settings import BucketSettings  # noqa: PLC0415

        return BucketSettings(Bucket(place)).changes(wanted)
    if isinstance(place, SwiftPlace):
        from seawall.swift import Container  # noqa: PLC0415
        from seawall.swift_settings import ContainerSettings  # noqa: PLC0415

        return ContainerSettings(Container(place)).changes(wanted)
    raise InputError(shown(text), "is no bucket and no container", "write s3://BUCKET or swift://CONTAINER")
