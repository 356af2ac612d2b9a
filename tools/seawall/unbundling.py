"""Unbundling: bring into a tree what a bundle holds, in the order of publishing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from seawall.bundle import Bundle, BundledRepository, CheckedBundle, read_blobs, take_bundle, whole
from seawall.digest import Digest
from seawall.errors import InputError
from seawall.immutable import check_moves
from seawall.lock import Lock
from seawall.manifest import Descriptor, Manifest
from seawall.plan import Links, Plan
from seawall.progress import Progress
from seawall.referrer_list import merged, newly_listed
from seawall.release import TagMove
from seawall.sync import listed_in, publish
from seawall.tree import StoredManifest, Tree
from seawall.writer import TreeWriter


@dataclass(frozen=True, slots=True)
class Unbundling:
    """What a bundle changes in a tree."""

    plan: Plan
    """What is to be published once the blobs are there."""
    blobs: dict[Digest, int]
    """Blobs that the tree lacks, with their sizes in bytes."""

    @property
    def is_empty(self) -> bool:
        """True where the tree has all of it already."""
        return self.plan.is_empty and not self.blobs


def plan_unbundle(checked: CheckedBundle, tree: Tree, file: str) -> Unbundling:
    """Return what brings *tree* to where the bundle leads; *file* names it in errors.

    Raises:
        InputError: the tree has not what the bundle is based on, or a tag is immutable there.
        SourceError: the bundle is not whole.
        TreeError: the tree is damaged there.
    """
    _require_base(checked, tree, file)
    targets: dict[Digest, StoredManifest] = {}
    links: list[Links] = []
    moves: list[TagMove] = []
    brought: list[tuple[str, Manifest]] = []
    for own in checked.bundle.repositories:
        stored = {row.digest: row.stored for row in own.manifests}
        read = {digest: checked.manifests.get(at) or tree.read_manifest(at) for digest, at in stored.items()}
        order = [manifest.digest for manifest in whole(own, read, file)]
        missing = tuple(stored[d] for d in order if tree.linked_manifest(own.repository, str(d)) is None)
        blobs = tuple(row.digest for row in own.blobs if not tree.links_blob(own.repository, row.digest))
        if missing or blobs:
            links.append(Links(own.repository, blobs, missing))
        targets |= stored
        brought += ((own.repository, manifest) for manifest in read.values())
        moves += _moves(own, tree, file, checked.bundle.since)
    if moves:
        check_moves(moves, tree.applied_locks().values())
    manifests: dict[Digest, Manifest] = {
        stored.digest: manifest
        for stored, manifest in checked.manifests.items()
        if not tree.manifest_path(stored).is_file()
    }
    there = listed_in(tree, brought)
    lists = merged(there, brought)
    plan = Plan(
        lock=Lock(name="by-hand"),
        fetches=(),
        manifests=tuple(manifests.values()),
        links=tuple(links),
        moves=tuple(sorted(moves, key=lambda move: str(move.reference))),
        targets=targets,
        applies=False,
        pending=tree.pending_release(),
        by="unbundle",
        referrer_lists=lists,
        referrers=newly_listed(lists, there),
    )
    return Unbundling(plan, {d: size for d, size in checked.blobs.items() if tree.blob_size(d) != size})


def unbundle(unbundling: Unbundling, file: Path, writer: TreeWriter, progress: Progress) -> int | None:
    """Do what *unbundling* says; return the number of the release, if tags moved.

    Killed at any moment, it leaves a tree that serves all that it served before; the next run finishes.

    Raises:
        SourceError: *file* has changed since it was checked; no tag has moved then.
        TreeError: the disk refuses.
    """
    size = sum(unbundling.blobs.values())
    writer.require_space(size)
    progress.expect(size, f"{len(unbundling.blobs)} blobs")
    if unbundling.blobs:
        for digest, length, pieces in read_blobs(file, set(unbundling.blobs)):
            writer.add_blob(Descriptor("", digest, length), pieces, progress.advance)
    return publish(unbundling.plan, writer, progress)


def take_stream(stream: BinaryIO, where: str, writer: TreeWriter, progress: Progress) -> tuple[Unbundling, int | None]:
    """Bring into the tree what a bundle holds that comes as a stream; return what that was, and the release's number.

    A blob is checked while it is written to its place under ``content/``, and nothing serves it until all of the
    bundle was checked. So nothing is written twice, and after a cut the next run need not be sent what arrived.

    Raises:
        InputError: the tree has not what the bundle is based on, or a tag may not move.
        SourceError: it is no whole bundle.
        TreeError: the disk refuses.
    """
    tree = writer.tree
    taken: dict[Digest, int] = {}

    def begin(bundle: Bundle) -> None:
        rows = {row.digest: row.size for own in bundle.repositories for row in own.blobs}
        lacking = sum(size for digest, size in rows.items() if tree.blob_size(digest) != size)
        writer.require_space(lacking)
        progress.expect(lacking, where)

    def take(digest: Digest, size: int, pieces: Iterator[bytes]) -> bool:
        if tree.blob_size(digest) == size:
            return False
        writer.add_blob(Descriptor("", digest, size), pieces, progress.advance)
        taken[digest] = size
        return True

    checked = take_bundle(stream, where, begin, take, progress)
    unbundling = replace(plan_unbundle(checked, tree, where), blobs=taken)
    release = None if unbundling.plan.is_empty else publish(unbundling.plan, writer, progress)
    return unbundling, release


def check_stream(stream: BinaryIO, where: str, tree: Tree, progress: Progress) -> Unbundling:
    """Return what :func:`take_stream` would change in *tree*; nothing is written.

    Raises:
        InputError: the tree has not what the bundle is based on, or a tag may not move.
        SourceError: it is no whole bundle.
        TreeError: the tree is damaged there.
    """
    return plan_unbundle(take_bundle(stream, where, lambda _: None, lambda *_: False, progress), tree, where)


def _require_base(checked: CheckedBundle, tree: Tree, file: str) -> None:
    """Check that what is neither in the bundle nor new is in *tree*."""
    lost = {
        f"{repository}@{digest}"
        for repository, digests in checked.bundle.base.items()
        for digest in digests
        if tree.linked_manifest(repository, str(digest)) is None
    }
    for own in checked.bundle.repositories:
        for manifest in own.manifests:
            if manifest.stored not in checked.manifests and not tree.manifest_path(manifest.stored).is_file():
                lost.add(str(manifest.digest))
        for blob in own.blobs:
            if blob.digest not in checked.blobs and tree.blob_size(blob.digest) != blob.size:
                lost.add(str(blob.digest))
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise _not_based(file, checked.bundle.since, f"{tree.root} lacks {min(lost)}{more}")


def _moves(own: BundledRepository, tree: Tree, file: str, since: int) -> list[TagMove]:
    """Return the moves of the tags of *own*; each tag has to be somewhere on the path that it took."""
    moves = []
    for tag in own.tags:
        stored = tree.linked_manifest(own.repository, tag.tag)
        now = stored.digest if stored else None
        if now not in tag.path:
            raise _not_based(file, since, f"{own.repository}:{tag.tag} is {now or 'missing'} in {tree.root}")
        if now != tag.path[-1]:
            moves.append(TagMove(own.repository, tag.tag, now, tag.path[-1]))
    return moves


def _not_based(file: str, since: int, what: str) -> InputError:
    return InputError(
        file,
        f"is based on release {since} of the tree that it was made from, and {what}",
        "apply the bundles before it, or make one since an older release",
    )
