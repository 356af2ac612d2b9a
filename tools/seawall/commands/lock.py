"""``seawall lock``: tags pinned to digests."""

from pathlib import Path

import click

from seawall.commands.options import PATH, as_json_option, dry_run_option, jobs_option, registries_option
from seawall.commands.output import count, move_row, print_json, print_quotas, quota_rows, short
from seawall.commands.sources import open_sources
from seawall.errors import InputError
from seawall.images import is_relative, read_images
from seawall.immutable import check_lock
from seawall.lock import moves, read_lock, write_lock
from seawall.pinning import pin
from seawall.quota import Quota
from seawall.terminal import print_table


@click.command("lock")
@click.argument("images_file", type=PATH)
@click.option("--lock", "lock_file", type=PATH, help="The lock to write.  [default: images.lock beside IMAGES_FILE]")
@click.option("--upgrade", is_flag=True, help="Ask every filter again, and pin every tag to what it points at now.")
@click.option("--only", metavar="REPO", multiple=True, help="With --upgrade: only in this repository.  [repeatable]")
@dry_run_option
@as_json_option
@jobs_option
@registries_option
def command(
    images_file: Path,
    lock_file: Path | None,
    upgrade: bool,
    only: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    jobs: int,
    registries_file: Path | None,
) -> None:
    """Pin the tags that IMAGES_FILE names to digests.

    What is pinned already stays where it is, and costs no request, unless --upgrade is given. A REPO is named as in
    the tree.
    """
    if only and not upgrade:
        raise click.UsageError("--only says what to upgrade: give --upgrade as well.")
    images = read_images(images_file)
    upgraded = images.chosen(only) if upgrade else frozenset[str]()
    lock_file = lock_file or images_file.with_name("images.lock")
    same_folder = lock_file.parent.resolve() == images_file.parent.resolve()
    for entry in images.images:
        file = entry.credentials.file if entry.credentials else ""
        names_relative = is_relative(entry.location) or (file and not Path(file).is_absolute())
        if names_relative and not same_folder:
            what = f"{entry.source} has a relative path, and the lock is in another folder"
            raise InputError(str(images_file), what, "make it absolute")
    old = read_lock(lock_file) if lock_file.exists() else None
    if old is not None and old.name != images.name:
        raise InputError(
            str(lock_file), f"is the lock {old.name!r}, and {images_file} is {images.name!r}", "give another --lock"
        )
    quotas: dict[str, Quota] = {}
    sources = open_sources(images_file.parent, registries_file, quotas)
    new = pin(images, old, sources, upgrade=upgraded, jobs=jobs)
    check_lock(old, new, str(lock_file))
    changed = new != old
    if changed and not dry_run:
        write_lock(lock_file, new)
    moved = moves(old, new)
    if as_json:
        print_json(
            {
                "changed": changed,
                "lock": str(lock_file),
                "moved": [move_row(move) for move in moved],
                "requests": sources.requests,
                "quotas": quota_rows(quotas),
            }
        )
        return
    if moved:
        rows = [(str(move.reference), short(move.old), short(move.new)) for move in moved]
        print_table(("REFERENCE", "FROM", "TO"), rows)
    verb = "would be written" if dry_run else "written"
    click.echo(
        f"{lock_file}: {verb if changed else 'unchanged'}, {count(len(new.pins), 'tag')}, "
        f"{count(sources.requests, 'request')}"
    )
    print_quotas(quotas)
