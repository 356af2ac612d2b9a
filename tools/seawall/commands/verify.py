"""``seawall verify``: a tree or a server, checked."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from seawall.digest import Digest
from seawall.errors import ExitCode, InputError
from seawall.lock import read_lock
from seawall.reference import Reference
from seawall.scrub import ScrubReport, scrub
from seawall.server_url import check_url
from seawall.terminal import readable, watch
from seawall.tree import Tree

if TYPE_CHECKING:
    from seawall.probe import ProbeReport

from seawall.commands.options import PATH, as_json_option, jobs_option
from seawall.commands.output import count, print_json, verdict


@click.command("verify")
@click.argument("where", metavar="TREE|URL")
@click.argument("references", metavar="[REPO:TAG]...", nargs=-1)
@click.option("--lock", "lock_file", type=PATH, help="With URL: check all that this lock names.")
@as_json_option
@jobs_option
def command(
    where: str,
    references: tuple[str, ...],
    lock_file: Path | None,
    as_json: bool,
    jobs: int,
) -> None:
    """Check that all is as it should be; exit with 0 only if it is.

    A TREE is read and hashed whole, and every link in it followed. A URL (http:// or https://) is asked as a
    client asks: ping, HEAD, GET, types, digests, ranges and errors, for each REPO:TAG down to the last layer.
    """
    if where.startswith(("http://", "https://")):
        _verify_url(where, references, lock_file, as_json=as_json, jobs=jobs)
        return
    if references or lock_file:
        raise InputError(where, "is a tree, which is always checked whole", "leave REPO:TAG and --lock out")
    with watch() as progress:
        report = scrub(Tree.existing(Path(where)), progress, jobs)
    if as_json:
        print_json(_scrub_row(report))
    else:
        for finding in report.findings:
            click.echo(f"{finding.kind}: {finding.path}: {finding.what}")
        click.echo(
            f"{where}: {count(report.tags, 'tag')}, {count(report.manifests, 'manifest')} and "
            f"{count(report.blobs, 'blob')} ({readable(report.size)}) read: {verdict(len(report.findings))}"
        )
    sys.exit(ExitCode.OK if report.holds else ExitCode.DOES_NOT_HOLD)


def _verify_url(url: str, references: tuple[str, ...], lock_file: Path | None, *, as_json: bool, jobs: int) -> NoReturn:
    # It reads HTTP libraries that no other command needs at its start.
    from seawall.probe import probe  # noqa: PLC0415

    check_url(url)
    wanted: dict[Reference, Digest | None] = {
        reference: reference.digest for reference in map(Reference.parse, references)
    }
    lock = read_lock(lock_file) if lock_file is not None else None
    wanted |= lock.digests if lock else {}
    with watch() as progress:
        report = probe(url, wanted, progress, jobs, lock.listed if lock else {})
    if as_json:
        print_json(_probe_row(report, wanted))
    else:
        for failure in report.failures:
            click.echo(f"{failure.request}: {failure.what}")
        click.echo(
            f"{url}: {count(len(wanted), 'reference')}, {count(report.manifests, 'manifest')} and "
            f"{count(report.blobs, 'blob')} ({readable(report.size)}) pulled in {count(report.requests, 'request')}: "
            f"{verdict(len(report.failures))}"
        )
    sys.exit(ExitCode.OK if report.holds else ExitCode.DOES_NOT_HOLD)


def _scrub_row(report: ScrubReport) -> dict[str, Any]:
    return {
        "holds": report.holds,
        "tags": report.tags,
        "repositories": report.repositories,
        "manifests": report.manifests,
        "blobs": report.blobs,
        "size": report.size,
        "findings": [{"kind": row.kind, "path": row.path, "what": row.what} for row in report.findings],
    }


def _probe_row(report: "ProbeReport", wanted: dict[Reference, Digest | None]) -> dict[str, Any]:
    return {
        "holds": report.holds,
        "references": [str(reference) for reference in wanted],
        "manifests": report.manifests,
        "blobs": report.blobs,
        "size": report.size,
        "requests": report.requests,
        "failures": [{"request": row.request, "what": row.what} for row in report.failures],
    }
