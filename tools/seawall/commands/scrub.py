"""``seawall scrub``: an edge's cache, read again."""

import sys
from pathlib import Path

import click

from seawall.cache_scrub import remove_wrong, scrub_cache
from seawall.commands.options import PATH, as_json_option, dry_run_option
from seawall.commands.output import count, print_json, verdict
from seawall.errors import ExitCode
from seawall.terminal import readable, watch


@click.command("scrub")
@click.argument("folder", metavar="CACHE", type=PATH)
@dry_run_option
@as_json_option
def command(folder: Path, dry_run: bool, as_json: bool) -> None:
    """Hash what the nginx of an edge keeps in the folder CACHE, and remove what is not what its key says.

    nginx need not be told: it fetches anew what is missing. Exit code 1 if something wrong is left.
    """
    with watch() as progress:
        report = scrub_cache(folder, progress.advance)
    removed = () if dry_run else tuple(remove_wrong(report.wrong))
    if as_json:
        rows = [{"path": str(one.file.path), "key": one.file.key, "what": one.what} for one in report.wrong]
        print_json(
            {
                "changed": bool(removed),
                "dry_run": dry_run,
                "files": report.files,
                "hashed": report.hashed,
                "incomplete": report.incomplete,
                "size": report.size,
                "wrong": rows,
                "removed": [str(one.file.path) for one in removed],
            }
        )
    else:
        for one in report.wrong:
            click.echo(f"{one.file.key}: {one.what}; {'would be removed' if dry_run else 'removed'}")
        click.echo(
            f"{folder}: {count(report.files, 'file')} found, {report.hashed} manifests and blobs "
            f"({readable(report.size)}) hashed, {count(report.incomplete, 'blob')} incomplete: "
            f"{verdict(len(report.wrong))}"
        )
    sys.exit(ExitCode.DOES_NOT_HOLD if dry_run and report.wrong else ExitCode.OK)
