"""The command line: reads arguments, calls the library, prints. Nothing else is decided here."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from seawall import __version__, interrupt
from seawall.adding import pin_addition, pin_staged
from seawall.bundle import BundlePlan, check_bundle, plan_bundle, write_bundle
from seawall.credentials import CredentialsLookup, named_credentials
from seawall.describe import Description, ImageDescription, describe, describe_all
from seawall.digest import Digest
from seawall.duration import parse_duration
from seawall.errors import ExitCode, InputError, SeawallError, TreeError
from seawall.images import read_images
from seawall.immutable import check_lock
from seawall.in_use import InUse, read_in_use
from seawall.inventory import take_inventory
from seawall.lock import Lock, Move, differences, moves, read_lock, write_lock
from seawall.pinning import pin
from seawall.plan import Plan
from seawall.prune import DEFAULT_GRACE, DEFAULT_KEEP_RELEASES, Keep, PrunePlan, plan_prune, prune
from seawall.quota import Quota
from seawall.reference import ImageSource, LayoutLocation, Reference, RegistryLocation, check_tag, parse_image_source
from seawall.release import Release, TagMove
from seawall.releasing import Change, make_release, plan_rm, plan_rollback, plan_tag
from seawall.scrub import ScrubReport, scrub
from seawall.served import tags_of_server, tags_of_tree
from seawall.server_url import check_url
from seawall.sources import Sources, opener
from seawall.sync import DEFAULT_JOBS, Outcome, apply, prepare
from seawall.terminal import print_table, readable, watch
from seawall.tree import Tree
from seawall.unbundling import Unbundling, plan_unbundle, unbundle
from seawall.writer import hold

if TYPE_CHECKING:
    from seawall.probe import ProbeReport

_PATH = click.Path(path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for machines.")
_dry_run = click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
_plain_http = click.option("--plain-http", is_flag=True, help="Talk HTTP to the source's registry, not HTTPS.")
_jobs = click.option(
    "--jobs", type=click.IntRange(1, 64), default=DEFAULT_JOBS, show_default=True, help="How many at a time."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="seawall")
def cli() -> None:
    """Serve container images out of a tree of files, with no registry on the read path.

    Images are declared in an images file, pinned in a lock, and synced into a tree, whose v2/ any web server
    can serve.
    """


@cli.command("lock")
@click.argument("images_file", type=_PATH)
@click.option("--lock", "lock_file", type=_PATH, help="The lock to write.  [default: images.lock beside IMAGES_FILE]")
@click.option("--upgrade", is_flag=True, help="Ask every filter again, and pin every tag to what it points at now.")
@click.option("--only", metavar="REPO", multiple=True, help="With --upgrade: only in this repository.  [repeatable]")
@_dry_run
@_json
@_jobs
def lock_command(
    images_file: Path,
    lock_file: Path | None,
    upgrade: bool,
    only: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    jobs: int,
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
        location = entry.location
        if isinstance(location, LayoutLocation) and not location.path.is_absolute() and not same_folder:
            raise InputError(
                str(images_file), f"{entry.source} is relative, and the lock is in another folder", "make it absolute"
            )
    old = read_lock(lock_file) if lock_file.exists() else None
    if old is not None and old.name != images.name:
        raise InputError(
            str(lock_file), f"is the lock {old.name!r}, and {images_file} is {images.name!r}", "give another --lock"
        )
    quotas: dict[str, Quota] = {}
    sources = Sources(images_file.parent, opener(quotas=quotas))
    new = pin(images, old, sources, upgrade=upgraded, jobs=jobs)
    check_lock(old, new, str(lock_file))
    changed = new != old
    if changed and not dry_run:
        write_lock(lock_file, new)
    moved = moves(old, new)
    if as_json:
        _print_json(
            {
                "changed": changed,
                "lock": str(lock_file),
                "moved": [_move_row(move) for move in moved],
                "requests": sources.requests,
                "quotas": _quota_rows(quotas),
            }
        )
        return
    if moved:
        rows = [(str(move.reference), _short(move.old), _short(move.new)) for move in moved]
        print_table(("REFERENCE", "FROM", "TO"), rows)
    verb = "would be written" if dry_run else "written"
    click.echo(
        f"{lock_file}: {verb if changed else 'unchanged'}, {_count(len(new.pins), 'tag')}, "
        f"{_count(sources.requests, 'request')}"
    )
    _print_quotas(quotas)


@cli.command("sync")
@click.argument("lock_file", metavar="LOCK", type=_PATH)
@click.argument("tree_root", metavar="TREE", type=_PATH)
@_dry_run
@_json
@_jobs
def sync_command(
    lock_file: Path,
    tree_root: Path,
    dry_run: bool,
    as_json: bool,
    jobs: int,
) -> None:
    """Make TREE serve what LOCK says.

    Fetches what is missing, moves the tags that LOCK names, and withdraws those that it named when it was last
    applied and names no more. What another lock or a person put into the tree stays.
    """
    quotas: dict[str, Quota] = {}
    sources = Sources(lock_file.parent, opener(quotas=quotas))
    outcome = _fill("sync", read_lock(lock_file), tree_root, sources, jobs, dry_run=dry_run)
    if as_json:
        _print_json(_outcome_row(outcome, dry_run=dry_run) | {"quotas": _quota_rows(quotas)})
    else:
        _print_outcome(outcome, tree_root, dry_run=dry_run)
        _print_quotas(quotas)


def _fill(by: str, lock: Lock, tree_root: Path, sources: Sources, jobs: int, *, dry_run: bool) -> Outcome:
    """Plan what makes the tree serve *lock* and, unless it is a rehearsal, do it."""
    tree = Tree.possible(tree_root)
    if dry_run:
        return Outcome(prepare(lock, tree, sources, jobs, by), None, sources.requests)
    with watch() as progress, hold(tree) as writer:
        plan = prepare(lock, tree, sources, jobs, by)
        release = None if plan.is_empty else apply(plan, writer, sources, progress, jobs)
        return Outcome(plan, release, sources.requests)


@cli.command("diff")
@click.argument("lock_file", metavar="LOCK", type=_PATH)
@click.argument("other", metavar="LOCK|TREE|URL")
@click.option("--all", "others", is_flag=True, help="With TREE: also show tags that LOCK does not name.")
@_json
@_jobs
def diff_command(lock_file: Path, other: str, others: bool, as_json: bool, jobs: int) -> None:
    """Compare LOCK with another lock, a tree or a server; exit with 0 if they agree, with 1 if not.

    Of a TREE the tags are compared that LOCK names; a URL (http:// or https://) is asked for the same, with one HEAD
    request a tag. Nothing is changed.
    """
    before = read_lock(lock_file).digests
    is_url = other.startswith(("http://", "https://"))
    is_tree = not is_url and Path(other).is_dir()
    if others and not is_tree:
        raise InputError(other, "is no tree, and --all is about tags of a tree", "leave --all out")
    if is_url:
        after = tags_of_server(other, before, opener(), jobs)
    elif is_tree:
        after = tags_of_tree(Tree.existing(Path(other)), before, others=others)
    else:
        after = read_lock(Path(other)).digests
    found = differences(before, after)
    if as_json:
        _print_json(
            {"equal": not found, "tags": len({*before, *after}), "different": [_move_row(row) for row in found]}
        )
    else:
        if found:
            rows = [(str(row.reference), _short(row.old), _short(row.new)) for row in found]
            print_table(("REFERENCE", str(lock_file), other), rows)
        verdict = f"{len(found)} of {_count(len({*before, *after}), 'tag')} differ" if found else "no difference"
        click.echo(f"{other}: {verdict}")
    sys.exit(ExitCode.DOES_NOT_HOLD if found else ExitCode.OK)


@cli.command("ls")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@_json
def ls_command(tree_root: Path, as_json: bool) -> None:
    """List every tag of TREE with its digest, kind, platforms and size."""
    found = list(describe_all(Tree.existing(tree_root)))
    if as_json:
        _print_json([_description_row(description) for description in found])
        return
    rows = [
        (
            str(description.reference),
            _short(description.manifest.digest),
            str(description.manifest.kind),
            ",".join(description.platforms) or "-",
            readable(description.size),
        )
        for description in found
    ]
    print_table(("REFERENCE", "DIGEST", "KIND", "PLATFORMS", "SIZE"), rows, right=frozenset({"SIZE"}))


@cli.command("inspect")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.argument("reference_text", metavar="REPO:TAG")
@_json
def inspect_command(tree_root: Path, reference_text: str, as_json: bool) -> None:
    """Show what REPO:TAG (or REPO@sha256:...) of TREE is made of."""
    description = describe(Tree.existing(tree_root), Reference.parse(reference_text))
    if as_json:
        _print_json(_description_row(description) | {"images": [_image_row(image) for image in description.images]})
        return
    manifest = description.manifest
    click.echo(f"{description.reference}")
    click.echo(f"  digest      {manifest.digest}")
    click.echo(f"  media type  {manifest.kind.media_type}")
    click.echo(f"  platforms   {', '.join(description.platforms) or '-'}")
    click.echo(f"  size        {readable(description.size)} ({description.size} bytes)")
    for image in description.images:
        click.echo(f"\n{image.platform or 'image'}  {image.manifest.digest}  {readable(image.size)}")
        rows = [(str(blob.digest), blob.media_type, str(blob.size)) for blob in image.manifest.blobs]
        print_table(("  BLOB", "MEDIA TYPE", "BYTES"), [(f"  {a}", b, c) for a, b, c in rows], frozenset({"BYTES"}))


@cli.command("releases")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@_json
def releases_command(tree_root: Path, as_json: bool) -> None:
    """List every release of TREE: when it was made, by what, and how many tags it moved."""
    tree = Tree.existing(tree_root)
    found = [tree.read_release(number) for number in tree.releases()]
    if as_json:
        _print_json([_release_row(release) for release in found])
        return
    rows = [(str(r.number), r.time, r.by, r.lock or "-", str(len(r.moves))) for r in found]
    print_table(("RELEASE", "TIME", "BY", "LOCK", "TAGS"), rows, right=frozenset({"RELEASE", "TAGS"}))


@cli.command("rollback")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.argument("number", metavar="RELEASE", type=click.IntRange(min=0))
@_dry_run
@_json
def rollback_command(tree_root: Path, number: int, dry_run: bool, as_json: bool) -> None:
    """Bring the tags of TREE back to how they were right after RELEASE (0: before the first).

    Only tags move; nothing is fetched. The rollback is a release itself, and can be undone like any other.
    """
    _change(tree_root, lambda tree: plan_rollback(tree, number), dry_run=dry_run, as_json=as_json)


@cli.command("tag")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.argument("source", metavar="REPO:TAG")
@click.argument("tag", metavar="NEW_TAG")
@_dry_run
@_json
def tag_command(tree_root: Path, source: str, tag: str, dry_run: bool, as_json: bool) -> None:
    """Point NEW_TAG at what REPO:TAG (or REPO@sha256:...) names, in the same repository of TREE."""
    reference = Reference.parse(source)
    check_tag(tag, "NEW_TAG")
    _change(tree_root, lambda tree: plan_tag(tree, reference, tag), dry_run=dry_run, as_json=as_json)


@cli.command("rm")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.argument("names", metavar="REPO:TAG...", nargs=-1, required=True)
@_dry_run
@_json
def rm_command(tree_root: Path, names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Take tags away from TREE; what they point at stays, by digest.

    A tag that a lock names comes back when that lock is synced again.
    """
    references = tuple(map(Reference.parse, names))
    _change(tree_root, lambda tree: plan_rm(tree, references), dry_run=dry_run, as_json=as_json)


def _change(tree_root: Path, plan: Callable[[Tree], Change], *, dry_run: bool, as_json: bool) -> None:
    """Plan a change of tags and, unless it is a rehearsal, make it; print what moved."""
    tree = Tree.existing(tree_root)
    release = None
    if dry_run:
        change = plan(tree)
    else:
        with watch() as progress, hold(tree) as writer:
            change = plan(tree)
            if not change.is_empty:
                release = make_release(change, writer, progress)
    if as_json:
        moved = [_tag_move_row(move) for move in change.moves]
        _print_json({"changed": not change.is_empty, "dry_run": dry_run, "release": release, "moved": moved})
        return
    for move in change.moves if dry_run else ():
        click.echo(_tag_move_line(move))
    if change.is_empty:
        click.echo(f"{tree_root}: unchanged")
        return
    would = "would be: " if dry_run else f"release {release}: " if release else ""
    click.echo(f"{tree_root}: {would}{_count(len(change.moves), 'tag')} moved")


@cli.command("add")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.argument("source", metavar="SOURCE")
@click.argument("name", metavar="[REPO[:TAG]]", default="")
@_plain_http
@_dry_run
@_json
@_jobs
def add_command(
    tree_root: Path, source: str, name: str, plain_http: bool, dry_run: bool, as_json: bool, jobs: int
) -> None:
    """Add one image to TREE by hand; no sync of a lock withdraws it.

    SOURCE is docker://HOST/REPO:TAG, docker://HOST/REPO@sha256:... or oci:DIR:TAG. Without REPO[:TAG] the image has
    its source's full name and tag.
    """
    image = parse_image_source(source)
    sources = Sources(Path.cwd(), opener())
    lock, _ = pin_addition(image, name, sources, plain_http=plain_http)
    outcome = _fill("add", lock, tree_root, sources, jobs, dry_run=dry_run)
    if as_json:
        _print_json(_outcome_row(outcome, dry_run=dry_run))
    else:
        _print_outcome(outcome, tree_root, dry_run=dry_run)


@cli.command("stage")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.argument("source", metavar="SOURCE")
@click.argument("repository", metavar="[REPO]", default="")
@click.option(
    "--credentials-env", metavar="NAME", help="The environment variable that holds USER:PASSWORD for SOURCE's host."
)
@click.option("--credentials-file", type=_PATH, help="The file that holds them.")
@_plain_http
@_dry_run
@_json
@_jobs
def stage_command(
    tree_root: Path,
    source: str,
    repository: str,
    credentials_env: str | None,
    credentials_file: Path | None,
    plain_http: bool,
    dry_run: bool,
    as_json: bool,
    jobs: int,
) -> None:
    """Add one image to TREE under a name of its own, and print the reference that pins it: REPO@sha256:...

    The tag is staged-<hex of the digest>, which never names anything else. Credentials that are given live for this
    command alone, and nothing else is then looked up.
    """
    image = parse_image_source(source)
    sources = Sources(Path.cwd(), opener(_staging_credentials(image, credentials_env, credentials_file)))
    lock, reference = pin_staged(image, repository, sources, plain_http=plain_http)
    outcome = _fill("stage", lock, tree_root, sources, jobs, dry_run=dry_run)
    pinned = Reference(reference.repository, digest=lock.pins[reference].digest)
    if as_json:
        _print_json({"pinned": str(pinned), "reference": str(reference), **_outcome_row(outcome, dry_run=dry_run)})
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
        try:
            return named_credentials(image.location.host, file.read_text("utf-8"), str(file))
        except OSError as error:
            raise InputError(str(file), f"cannot be read ({error.strerror})", "give a readable file") from None
        except UnicodeDecodeError:
            raise InputError(str(file), "is not UTF-8 text", "let it hold USER:PASSWORD") from None
    return named_credentials(image.location.host, os.environ.get(str(name), ""), f"${name}")


@cli.command("prune")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.option(
    "--keep-releases",
    metavar="N",
    type=click.IntRange(min=1),
    default=DEFAULT_KEEP_RELEASES,
    show_default=True,
    help="Keep what a rollback to any of the newest N releases needs.",
)
@click.option(
    "--in-use",
    "in_use_files",
    metavar="FILE|-",
    multiple=True,
    help="Keep what this list of references names, or this JSON of docker, crictl or kubectl; may be repeated.",
)
@click.option(
    "--grace",
    metavar="DURATION",
    default=DEFAULT_GRACE,
    show_default=True,
    help="Keep what arrived, or lost its tag, less than this ago.",
)
@_dry_run
@_json
def prune_command(
    tree_root: Path, keep_releases: int, in_use_files: tuple[str, ...], grace: str, dry_run: bool, as_json: bool
) -> None:
    """Remove from TREE what no tag, lock, recent release or running container needs."""
    tree = Tree.existing(tree_root)
    since = time.time() - parse_duration(grace, "--grace")
    in_use = frozenset[InUse]().union(*map(read_in_use, in_use_files))
    keep = Keep(keep_releases, since, in_use)
    if dry_run:
        plan = plan_prune(take_inventory(tree), keep)
    else:
        with watch() as progress, hold(tree) as writer:
            plan = plan_prune(take_inventory(tree), keep)
            prune(plan, writer, progress)
    if as_json:
        _print_json(_prune_row(plan, dry_run=dry_run))
        return
    for line in _prune_lines(plan) if dry_run else ():
        click.echo(line)
    if plan.is_empty:
        click.echo(f"{tree_root}: unchanged, nothing can go")
        return
    click.echo(
        f"{tree_root}: {_count(len(plan.manifests), 'manifest')} and {_count(len(plan.blobs), 'blob')} "
        f"{'would be ' if dry_run else ''}no longer served; "
        f"{_count(len(plan.manifest_contents) + len(plan.blob_contents), 'file')} ({readable(plan.size)}) "
        f"{'would be ' if dry_run else ''}removed"
    )


def _prune_lines(plan: PrunePlan) -> Iterator[str]:
    for repository, digest in plan.manifests:
        yield f"unlink {repository}@{digest}"
    for repository, digest in plan.blobs:
        yield f"unlink blob {digest} of {repository}"
    for repository in plan.repositories:
        yield f"remove repository {repository}"
    for stored in plan.manifest_contents:
        yield f"remove {stored.digest} {stored.kind}"
    for digest in plan.blob_contents:
        yield f"remove blob {digest}"


def _prune_row(plan: PrunePlan, *, dry_run: bool) -> dict[str, Any]:
    return {
        "changed": not plan.is_empty,
        "dry_run": dry_run,
        "manifests": [f"{repository}@{digest}" for repository, digest in plan.manifests],
        "blobs": [{"repository": repository, "digest": str(digest)} for repository, digest in plan.blobs],
        "repositories": list(plan.repositories),
        "removed": [str(stored.digest) for stored in plan.manifest_contents] + [str(d) for d in plan.blob_contents],
        "size": plan.size,
    }


@cli.command("bundle")
@click.argument("tree_root", metavar="TREE", type=_PATH)
@click.argument("file", metavar="FILE", type=_PATH)
@click.option(
    "--since",
    metavar="RELEASE",
    type=click.IntRange(min=0),
    required=True,
    help="The release that the other tree has already; 0: nothing.",
)
@_dry_run
@_json
def bundle_command(tree_root: Path, file: Path, since: int, dry_run: bool, as_json: bool) -> None:
    """Write FILE with only what is new in TREE since RELEASE, for seawall unbundle elsewhere."""
    tree = Tree.existing(tree_root)
    plan = plan_bundle(take_inventory(tree), since, str(tree_root))
    if not dry_run:
        with watch() as progress:
            write_bundle(plan, tree, file, progress)
    if as_json:
        _print_json(_bundle_row(plan, dry_run=dry_run))
        return
    tags = sum(len(own.tags) for own in plan.bundle.repositories)
    click.echo(
        f"{file}: {'would hold' if dry_run else 'holds'} releases {since} to {plan.bundle.release}: "
        f"{_count(tags, 'tag')}, {_count(len(plan.manifests), 'manifest')} and {_count(len(plan.blobs), 'blob')} "
        f"({readable(plan.size)})"
    )


@cli.command("unbundle")
@click.argument("file", metavar="FILE", type=_PATH)
@click.argument("tree_root", metavar="TREE", type=_PATH)
@_dry_run
@_json
def unbundle_command(file: Path, tree_root: Path, dry_run: bool, as_json: bool) -> None:
    """Check every byte of FILE, which seawall bundle wrote, and bring what it holds into TREE."""
    tree = Tree.possible(tree_root)
    release = None
    with watch() as progress:
        checked = check_bundle(file, progress)
        if dry_run:
            unbundling = plan_unbundle(checked, tree, str(file))
        else:
            with hold(tree) as writer:
                unbundling = plan_unbundle(checked, tree, str(file))
                if not unbundling.is_empty:
                    release = unbundle(unbundling, file, writer, progress)
    if as_json:
        _print_json(_unbundle_row(unbundling, release, dry_run=dry_run))
        return
    for move in unbundling.plan.moves if dry_run else ():
        click.echo(_tag_move_line(move))
    if unbundling.is_empty:
        click.echo(f"{tree_root}: unchanged, has all of {file}")
        return
    would = "would be: " if dry_run else f"release {release}: " if release else ""
    click.echo(
        f"{tree_root}: {would}{_count(len(unbundling.plan.moves), 'tag')} moved, "
        f"{_count(len(unbundling.blobs), 'blob')} ({readable(sum(unbundling.blobs.values()))}) brought"
    )


def _bundle_row(plan: BundlePlan, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "since": plan.bundle.since,
        "release": plan.bundle.release,
        "tags": [f"{own.repository}:{tag.tag}" for own in plan.bundle.repositories for tag in own.tags],
        "manifests": [str(row.digest) for row in plan.manifests],
        "blobs": [{"digest": str(row.digest), "size": row.size} for row in plan.blobs],
        "size": plan.size,
    }


def _unbundle_row(unbundling: Unbundling, release: int | None, *, dry_run: bool) -> dict[str, Any]:
    return {
        "changed": not unbundling.is_empty,
        "dry_run": dry_run,
        "release": release,
        "blobs": [{"digest": str(digest), "size": size} for digest, size in unbundling.blobs.items()],
        "stored": [{"digest": str(m.digest), "kind": str(m.kind)} for m in unbundling.plan.manifests],
        "moved": [_tag_move_row(move) for move in unbundling.plan.moves],
    }


@cli.command("verify")
@click.argument("where", metavar="TREE|URL")
@click.argument("references", metavar="[REPO:TAG]...", nargs=-1)
@click.option("--lock", "lock_file", type=_PATH, help="With URL: check every tag that this lock names.")
@_json
@_jobs
def verify_command(
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
        _print_json(_scrub_row(report))
    else:
        for finding in report.findings:
            click.echo(f"{finding.kind}: {finding.path}: {finding.what}")
        click.echo(
            f"{where}: {_count(report.tags, 'tag')}, {_count(report.manifests, 'manifest')} and "
            f"{_count(report.blobs, 'blob')} ({readable(report.size)}) read: {_verdict(len(report.findings))}"
        )
    sys.exit(ExitCode.OK if report.holds else ExitCode.DOES_NOT_HOLD)


def _verify_url(url: str, references: tuple[str, ...], lock_file: Path | None, *, as_json: bool, jobs: int) -> NoReturn:
    # It reads HTTP libraries that no other command needs at its start.
    from seawall.probe import probe  # noqa: PLC0415

    check_url(url)
    wanted: dict[Reference, Digest | None] = {
        reference: reference.digest for reference in map(Reference.parse, references)
    }
    if lock_file is not None:
        wanted |= {reference: pin.digest for reference, pin in read_lock(lock_file).pins.items()}
    with watch() as progress:
        report = probe(url, wanted, progress, jobs)
    if as_json:
        _print_json(_probe_row(report, wanted))
    else:
        for failure in report.failures:
            click.echo(f"{failure.request}: {failure.what}")
        click.echo(
            f"{url}: {_count(len(wanted), 'reference')}, {_count(report.manifests, 'manifest')} and "
            f"{_count(report.blobs, 'blob')} ({readable(report.size)}) pulled in {_count(report.requests, 'request')}: "
            f"{_verdict(len(report.failures))}"
        )
    sys.exit(ExitCode.OK if report.holds else ExitCode.DOES_NOT_HOLD)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error ends here, as one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _terminate)
    try:
        cli.main(arguments, prog_name="seawall", standalone_mode=False)
    except SeawallError as error:
        _die(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _die("interrupted; run again to go on", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.exit(ExitCode.OK)
    except OSError as error:
        _die(
            str(TreeError(str(error.filename or "system"), error.strerror or str(error), "see the system's log")),
            ExitCode.TREE,
        )
    sys.exit(ExitCode.OK)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    interrupt.ask()
    raise KeyboardInterrupt


def _die(line: str, code: ExitCode) -> NoReturn:
    click.echo(f"seawall: {line}", err=True)
    sys.exit(code)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1))


def _print_outcome(outcome: Outcome, root: Path, *, dry_run: bool) -> None:
    for line in _plan_lines(outcome.plan) if dry_run else ():
        click.echo(line)
    plan = outcome.plan
    if plan.is_empty:
        of = f" of the lock {plan.lock.name!r}" if plan.by == "sync" else ""
        click.echo(f"{root}: unchanged, serves {_count(len(plan.lock.pins), 'tag')}{of}")
        return
    release = f"release {outcome.release}: " if outcome.release else ""
    would = "would be: " if dry_run else ""
    click.echo(
        f"{root}: {release}{would}{_count(len(plan.moves), 'tag')} moved, {_count(len(plan.fetches), 'blob')} "
        f"({readable(plan.fetch_bytes)}) fetched; {_count(outcome.requests, 'request')}"
    )


def _print_quotas(quotas: dict[str, Quota]) -> None:
    for host, quota in quotas.items():
        click.echo(f"{host}: {quota}")


def _quota_rows(quotas: dict[str, Quota]) -> list[dict[str, Any]]:
    return [
        {"host": host, "remaining": q.remaining, "limit": q.limit, "window": q.window, "reset": q.reset}
        for host, q in quotas.items()
    ]


def _plan_lines(plan: Plan) -> Iterator[str]:
    for fetch in plan.fetches:
        yield f"fetch {fetch.blob.digest} {fetch.blob.size} bytes from {fetch.image.source}"
    for manifest in plan.manifests:
        yield f"store {manifest.digest} {manifest.kind}"
    for links in plan.links:
        yield f"link {len(links.manifests)} manifests and {len(links.blobs)} blobs in {links.repository}"
    for move in plan.moves:
        yield _tag_move_line(move)
    if plan.pending:
        yield f"finish the interrupted release {plan.pending.number}"
    if plan.applies:
        yield f"record the lock {plan.lock.name}"


def _outcome_row(outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "changed": outcome.changed,
        "dry_run": dry_run,
        "release": outcome.release,
        "requests": outcome.requests,
        "fetched": [{"digest": str(fetch.blob.digest), "size": fetch.blob.size} for fetch in plan.fetches],
        "stored": [{"digest": str(manifest.digest), "kind": str(manifest.kind)} for manifest in plan.manifests],
        "moved": [_tag_move_row(move) for move in plan.moves],
    }


def _tag_move_row(move: TagMove) -> dict[str, Any]:
    return {"reference": str(move.reference), "before": _text(move.before), "after": _text(move.after)}


def _tag_move_line(move: TagMove) -> str:
    return f"move {move.reference} {_short(move.before)} -> {_short(move.after)}"


def _release_row(release: Release) -> dict[str, Any]:
    return {
        "release": release.number,
        "time": release.time,
        "by": release.by,
        "lock": release.lock or None,
        "moved": [_tag_move_row(move) for move in release.moves],
    }


def _move_row(move: Move) -> dict[str, Any]:
    return {"reference": str(move.reference), "before": _text(move.old), "after": _text(move.new)}


def _description_row(description: Description) -> dict[str, Any]:
    return {
        "reference": str(description.reference),
        "digest": str(description.manifest.digest),
        "kind": str(description.manifest.kind),
        "mediaType": description.manifest.kind.media_type,
        "platforms": list(description.platforms),
        "size": description.size,
    }


def _image_row(image: ImageDescription) -> dict[str, Any]:
    return {
        "platform": str(image.platform) if image.platform else None,
        "digest": str(image.manifest.digest),
        "mediaType": image.manifest.kind.media_type,
        "size": image.size,
        "blobs": [
            {"digest": str(blob.digest), "mediaType": blob.media_type, "size": blob.size}
            for blob in image.manifest.blobs
        ],
    }


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


def _verdict(faults: int) -> str:
    return "all holds" if not faults else _count(faults, "fault")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _short(digest: Digest | None) -> str:
    return f"sha256:{digest.hex[:12]}" if digest else "(none)"


def _text(digest: Digest | None) -> str | None:
    return str(digest) if digest else None
