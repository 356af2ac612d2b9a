"""``seawall stage``: one image under a name of its own, for good."""

from pathlib import Path

import click

from seawall.adding import Wanted, pin_staged
from seawall.commands.filling import fill, outcome_row
from seawall.commands.options import (
    PATH,
    as_json_option,
    compression_option,
    dry_run_option,
    jobs_option,
    plain_http_option,
    referrers_option,
    registries_option,
)
from seawall.commands.output import print_json
from seawall.commands.sources import open_sources
from seawall.compression import Compression
from seawall.credentials import CredentialsFrom, CredentialsLookup
from seawall.errors import InputError
from seawall.reference import ImageSource, Reference, RegistryLocation, parse_image_source


@click.command("stage")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("source", metavar="SOURCE")
@click.argument("repository", metavar="[REPO]", default="")
@click.option(
    "--credentials-env", metavar="NAME", help="The environment variable that holds USER:PASSWORD for SOURCE's host."
)
@click.option("--credentials-file", type=PATH, help="The file that holds them.")
@referrers_option
@plain_http_option
@compression_option
@dry_run_option
@as_json_option
@jobs_option
@registries_option
def command(
    tree_root: Path,
    source: str,
    repository: str,
    credentials_env: str | None,
    credentials_file: Path | None,
    referrers: bool,
    plain_http: bool,
    compression: Compression | None,
    dry_run: bool,
    as_json: bool,
    jobs: int,
    registries_file: Path | None,
) -> None:
    """Add one image to TREE under a name of its own, and print the reference that pins it: REPO@sha256:...

    The tag is staged-<hex of the digest>, which never names anything else. Credentials that are given live for this
    command alone, and nothing else is then looked up.
    """
    image = parse_image_source(source)
    credentials = _staging_credentials(image, credentials_env, credentials_file)
    sources = open_sources(Path.cwd(), registries_file, {}, tree_root, credentials)
    lock, reference = pin_staged(image, repository, sources, Wanted(plain_http, compression, referrers))
    outcome = fill("stage", lock, tree_root, sources, jobs, dry_run=dry_run)
    pinned = Reference(reference.repository, digest=lock.pins[reference].digest)
    if as_json:
        print_json({"pinned": str(pinned), "reference": str(reference), **outcome_row(outcome, dry_run=dry_run)})
    else:
        click.echo(str(pinned))


def _staging_credentials(image: ImageSource, name: str | None, file: Path | None) -> CredentialsLookup | None:
    """Return the credentials that a person gave for this command, or None where they gave none."""
    if name is None and file is None:
        return None
    if not isinstance(image.location, RegistryLocation):
        raise InputError(str(image), "wants no credentials", "leave them out")
    if name is not None and file is not None:
        raise InputError("--credentials-file", "is given beside --credentials-env", "give one of them")
    if file is not None:
        return CredentialsFrom(file=str(file)).lookup(image.location.host)
    try:
        return CredentialsFrom(env=str(name)).lookup(image.location.host)
    except ValueError:
        raise InputError("--credentials-env", "is no name of an environment variable", "give one") from None
