"""``seawall verify``: a tree or a server, checked."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from seawall.digest import Digest
from seawall.errors import ExitCode, InputError
from seawall.lock import read_lock
from seawall.metrics import recording
from seawall.reference import Reference, parse_location
from seawall.repair import Failure, Spare, Step, plan_repair, repair
from seawall.scrub import ScrubReport, scrub
from seawall.server_url import check_url
from seawall.sources import Sources
from seawall.terminal import readable, watch
from seawall.tree import Tree
from seawall.writer import hold

if TYPE_CHECKING:
    from seawall.probe import ProbeReport

from seawall.commands.options import (
    PATH,
    as_json_option,
    jobs_option,
    metrics_option,
    plain_http_option,
    registries_option,
)
from seawall.commands.output import count, print_json, verdict
from seawall.commands.sources import open_sources


@click.command("verify")
@click.argument("where", metavar="TREE|URL")
@click.argument("references", metavar="[REPO:TAG]...", nargs=-1)
@click.option("--lock", "lock_file", type=PATH, help="With URL: check all that this lock names.")
@click.option(
    "--client-certificate",
    "certificate",
    type=PATH,
    help="With https: show this certificate, a PEM file that holds its key as well.",
)
@click.option("--repair", "repairs", is_flag=True, help="With TREE: make whole what is broken.")
@click.option(
    "--from",
    "spare_texts",
    metavar="SOURCE",
    multiple=True,
    help="With --repair: fetch from this repository what the sources of the applied locks have not.  [repeatable]",
)
@plain_http_option
@click.option("--dry-run", is_flag=True, help="With --repair: print what would be done, and do nothing.")
@metrics_option
@as_json_option
@jobs_option
@registries_option
def command(
    where: str,
    references: tuple[str, ...],
    lock_file: Path | None,
    certificate: Path | None,
    repairs: bool,
    spare_texts: tuple[str, ...],
    plain_http: bool,
    dry_run: bool,
    metrics_file: Path | None,
    as_json: bool,
    jobs: int,
    registries_file: Path | None,
) -> None:
    """Check that all is as it should be; exit with 0 only if it is.

    A TREE is read and hashed whole, and every link in it followed. A URL (http:// or https://) is asked as a
    client asks: ping, HEAD, GET, types, digests, ranges and errors, for each REPO:TAG down to the last layer.
    Where it asks for a password, docker login has left one; without, it is asked as nobody.

    A repair fetches lost or broken content from the sources of the locks that were applied, and makes links and tag
    lists anew by itself.
    """
    if not repairs and (spare_texts or plain_http or dry_run):
        raise click.UsageError("--from, --plain-http and --dry-run say how to repair: give --repair as well.")
    if dry_run and metrics_file:
        raise click.UsageError("--metrics says what was done, and --dry-run does nothing: leave one of them out.")
    with recording(metrics_file, "verify", where) as figures:
        if where.startswith(("http://", "https://")):
            if repairs:
                raise InputError(where, "is a server, and --repair is for a tree", "give it the tree that it serves")
            _verify_url(where, references, lock_file, certificate, figures, as_json=as_json, jobs=jobs)
            return
        if references or lock_file or certificate:
            todo = "leave REPO:TAG, --lock and --client-certificate out"
            raise InputError(where, "is a tree, which is always checked whole", todo)
        with watch() as progress:
            report = scrub(Tree.existing(Path(where)), progress, jobs)
        _note(figures, len(report.findings), report)
        if repairs:
            spares = [Spare(parse_location(text, "--from"), plain_http) for text in spare_texts]
            sources = open_sources(Path.cwd(), registries_file, {}, Path(where))
            _repair(Path(where), report, sources, spares, figures, dry_run=dry_run, as_json=as_json, jobs=jobs)
        if as_json:
            print_json(_scrub_row(report))
        else:
            for finding in report.findings:
                click.echo(f"{finding.kind}: {finding.path}: {finding.what}")
            click.echo(f"{_read_line(where, report)}: {verdict(len(report.findings))}")
        sys.exit(ExitCode.OK if report.holds else ExitCode.DOES_NOT_HOLD)


def _note(figures: dict[str, float], faults: int, report: "ScrubReport | ProbeReport") -> None:
    figures |= {
        "faults": faults,
        "read_bytes": report.size,
        "read_manifests": report.manifests,
        "read_blobs": report.blobs,
    }


_DONE = {
    "fetch": "fetched",
    "link": "linked",
    "unlink": "unlinked",
    "list": "wrote",
    "unlist": "took away",
    "time": "set the time of",
    "remove": "removed",
}
_TO_DO = {"list": "write", "unlist": "take away", "time": "set the time of"}


def _repair(
    root: Path,
    found: ScrubReport,
    sources: Sources,
    spares: list[Spare],
    figures: dict[str, float],
    *,
    dry_run: bool,
    as_json: bool,
    jobs: int,
) -> NoReturn:
    """Make the tree at *root* whole, as far as it is broken by *found*, and exit."""
    tree = Tree.existing(root)
    steps: tuple[Step, ...] = ()
    failures: tuple[Failure, ...] = ()
    after = found
    if dry_run:
        plan = plan_repair(found, tree, sources, spares, jobs)
        steps, failures = tuple(plan.steps(tree)), plan.failures
    elif not found.holds:
        with watch() as progress, hold(tree) as writer:
            # Once more, for a run may have come in between; what was hashed already is not hashed again.
            found = scrub(tree, progress, jobs, found.whole_blobs)
            repaired = repair(plan_repair(found, tree, sources, spares, jobs), writer, sources, progress, jobs)
            steps, failures = repaired.steps, repaired.failures
            fetched = {Digest(Path(step.path).name) for step in steps if step.how == "fetch" and "/blobs/" in step.path}
            after = scrub(tree, progress, jobs, found.whole_blobs | fetched)
            _note(figures, len(after.findings), after)
    if as_json:
        print_json(
            _scrub_row(after)
            | {
                "dry_run": dry_run,
                "found": _finding_rows(found),
                "repairs": [{"how": step.how, "path": step.path, "source": step.source or None} for step in steps],
                "failed": [{"path": failure.path, "what": failure.what} for failure in failures],
                "requests": sources.requests,
            }
        )
    else:
        _print_repair(found, after, steps, failures, dry_run=dry_run)
        verdicts = f"{verdict(len(found.findings))}, {len(after.findings)} left" if found.findings else "all holds"
        click.echo(f"{_read_line(str(root), after)}: {verdicts}; {count(sources.requests, 'request')}")
    sys.exit(ExitCode.OK if after.holds else ExitCode.DOES_NOT_HOLD)


def _print_repair(
    found: ScrubReport, after: ScrubReport, steps: tuple[Step, ...], failures: tuple[Failure, ...], *, dry_run: bool
) -> None:
    for finding in found.findings:
        click.echo(f"{finding.kind}: {finding.path}: {finding.what}")
    for step in steps:
        word = _TO_DO.get(step.how, step.how) if dry_run else _DONE[step.how]
        click.echo(f"{word} {step.path}{f' from {step.source}' if step.source else ''}")
    for failure in failures:
        click.echo(f"not repaired: {failure.path}: {failure.what}")
    explained = {failure.path for failure in failures}
    for finding in after.findings if not dry_run else ():
        if finding.path not in explained:
            click.echo(f"not repaired: {finding.path}: {finding.what}{_ADVICE.get(finding.kind, '')}")


_ADVICE = {"foreign": "; look what it is, and move it away"}


def _read_line(where: str, report: ScrubReport) -> str:
    return (
        f"{where}: {count(report.tags, 'tag')}, {count(report.manifests, 'manifest')} and "
        f"{count(report.blobs, 'blob')} ({readable(report.size)}) read"
    )


def _verify_url(
    url: str,
    references: tuple[str, ...],
    lock_file: Path | None,
    certificate: Path | None,
    figures: dict[str, float],
    *,
    as_json: bool,
    jobs: int,
) -> NoReturn:
    # They read HTTP libraries that no other command needs at its start.
    from seawall.credentials import DockerConfig  # noqa: PLC0415
    from seawall.probe import Server, probe  # noqa: PLC0415

    check_url(url)
    if certificate is not None and not certificate.is_file():
        raise InputError(str(certificate), "is no file", "name a PEM file with a certificate and its key")
    wanted: dict[Reference, Digest | None] = {
        reference: reference.digest for reference in map(Reference.parse, references)
    }
    lock = read_lock(lock_file) if lock_file is not None else None
    wanted |= lock.digests if lock else {}
    with watch() as progress:
        server = Server(url, DockerConfig.load().lookup, certificate)
        report = probe(server, wanted, progress, jobs, lock.listed if lock else {})
    _note(figures, len(report.failures), report)
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
        "findings": _finding_rows(report),
    }


def _finding_rows(report: ScrubReport) -> list[dict[str, str]]:
    return [{"kind": row.kind, "path": row.path, "what": row.what} for row in report.findings]


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
