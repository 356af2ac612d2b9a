"""``seawall add``: one image, put into a tree by hand."""

from pathlib import Path

import click

from seawall.adding import Wanted, pin_addition
from seawall.commands.filling import fill, outcome_row, print_outcome
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
from seawall.reference import parse_image_source


@click.command("add")
@click.argument("tree_root", metavar="TREE", type=PATH)
@click.argument("source", metavar="SOURCE")
@click.argument("name", metavar="[REPO[:TAG]]", default="")
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
    name: str,
    referrers: bool,
    plain_http: bool,
    compression: Compression | None,
    dry_run: bool,
    as_json: bool,
    jobs: int,
    registries_file: Path | None,
) -> None:
    """Add one image to TREE by hand; no sync of a lock withdraws it.

    SOURCE is docker://HOST/REPO:TAG, docker://HOST/REPO@sha256:..., docker-daemon:NAME:TAG,
    docker-archive:FILE[:NAME:TAG], oci:DIR:TAG, oci-archive:FILE[:TAG], or an image of another tree, PLACE/v2/REPO:TAG,
    where PLACE is a path or an ssh, http, https or s3 URL. Without REPO[:TAG] the image has its
    source's full name and tag.
    """
    image = parse_image_source(source)
    sources = open_sources(Path.cwd(), registries_file, {}, tree_root)
    lock, _ = pin_addition(image, name, sources, Wanted(plain_http, compression, referrers))
    outcome = fill("add", lock, tree_root, sources, jobs, dry_run=dry_run)
    if as_json:
        print_json(outcome_row(outcome, dry_run=dry_run))
    else:
        print_outcome(outcome, tree_root, dry_run=dry_run)
