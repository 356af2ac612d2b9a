"""Prune: remove what nothing needs any more. Marks from the roots, then sweeps in the reverse order of publishing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from graphlib import TopologicalSorter
from itertools import chain

from seawall.digest import Digest
from seawall.in_use import InUse
from seawall.inventory import Inventory, Links, Needs
from seawall.lists import catalog_change, is_catalog_unfinished
from seawall.progress import Progress
from seawall.referrer_list import ReferrerList, Row, make_list
from seawall.release import Release, TagMove
from seawall.releasing import write_catalog
from seawall.tree import StoredManifest
from seawall.writer import TreeWriter

DEFAULT_KEEP_RELEASES = 10

Root = tuple[str, Digest]
"""A repository, and a manifest that it has to go on serving."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept beside tags and locks."""

    releases: int
    """How many of the newest releases can still be rolled back to; the newest of all is how the tree is now."""
    since: float
    """Seconds since the epoch: what arrived, or lost its tag, after this stays."""
    in_use: frozenset[InUse] = frozenset()


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune removes, in this order."""

    manifests: tuple[Root, ...]
    """Links of manifests: an index before what it lists."""
    blobs: tuple[tuple[str, Digest], ...]
    """Links of blobs."""
    repositories: tuple[str, ...]
    """Those that serve nothing any more."""
    manifest_contents: tuple[StoredManifest, ...]
    blob_contents: tuple[Digest, ...]
    size: int
    """Bytes that the contents take."""
    unlisted: tuple[Root, ...] = ()
    """Lists of referrers, by their subject, that are about nothing any more; they go before all else."""
    relisted: tuple[ReferrerList, ...] = ()
    """Lists of referrers that are not what they should be, made anew; they are written before anything goes."""

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to do."""
        content = self.manifest_contents or self.blob_contents
        return not (self.manifests or self.blobs or self.repositories or content or self.unlisted or self.relisted)


def find_roots(inventory: Inventory, keep: Keep) -> frozenset[Root]:
    """Return every manifest that has to stay for its own sake; what these need stays with them."""
    roots = {(links.repository, digest) for links in inventory.links for digest in links.tags.values()}
    roots |= {(ref.repository, pin.digest) for lock in inventory.locks for ref, pin in lock.pins.items()}
    roots |= {
        (links.repository, digest)
        for links in inventory.links
        for digest, arrived in links.manifests.items()
        if arrived > keep.since
    }
    newest = max((record.release.number for record in inventory.records), default=0)
    for record in inventory.records:
        # To go back to release n is to undo those after it: what they moved tags away from has to be there.
        needed = record.release.number > newest + 1 - keep.releases
        if needed or max(_began(record.release), record.ended) > keep.since:
            roots |= _ends(record.release.moves)
    if inventory.pending:
        roots |= _ends(inventory.pending.moves)
    return frozenset(roots | _used(inventory, keep.in_use))


def plan_prune(inventory: Inventory, keep: Keep) -> PrunePlan:
    """Return what can go from the tree of *inventory*.

    A manifest keeps what it lists and its blobs; what refers to it (signatures, SBOMs) stays and goes with it, and so
    does the list of that.
    """
    roots: dict[str, set[Digest]] = defaultdict(set)
    for repository, digest in find_roots(inventory, keep):
        roots[repository].add(digest)
    served = {links.repository: links.manifests for links in inventory.links}
    marked = {
        repository: mark(roots[repository], served.get(repository, ()), inventory.needs)
        for repository in {*served, *roots}
    }
    lists = {links.repository: _lists(links, marked[links.repository], inventory) for links in inventory.links}
    for repository, own in lists.items():
        marked[repository] |= {one.index.digest for one in own}
    blob_links: list[tuple[str, Digest]] = []
    empty: list[str] = []
    # Content that came lately may be all that an interrupted run has managed so far: it stays, with what it names.
    young = {stored.digest for stored, content in inventory.manifests.items() if content.arrived > keep.since}
    kept_manifests = mark(young, (), inventory.needs).union(*marked.values())
    kept_blobs = {digest for digest, content in inventory.blobs.items() if content.arrived > keep.since}
    kept_blobs |= _named(kept_manifests, inventory.needs)
    for links in inventory.links:
        stay = marked[links.repository].intersection({*links.manifests, *links.tags.values()})
        named = _named(stay, inventory.needs)
        kept = {digest for digest, arrived in links.blobs.items() if digest in named or arrived > keep.since}
        kept_blobs |= kept
        blob_links += ((links.repository, digest) for digest in sorted(links.blobs.keys() - kept))
        if not stay and not kept:
            empty.append(links.repository)
    manifest_contents = sorted(
        (stored for stored in inventory.manifests if stored.digest not in kept_manifests),
        key=lambda stored: (stored.digest, str(stored.kind)),
    )
    blob_contents = sorted(inventory.blobs.keys() - kept_blobs)
    return PrunePlan(
        manifests=tuple(
            chain.from_iterable(_swept(links, marked[links.repository], inventory) for links in inventory.links)
        ),
        blobs=tuple(blob_links),
        repositories=tuple(empty),
        manifest_contents=tuple(manifest_contents),
        blob_contents=tuple(blob_contents),
        size=sum(inventory.manifests[stored].size for stored in manifest_contents)
        + sum(inventory.blobs[digest].size for digest in blob_contents),
        unlisted=tuple(
            (links.repository, subject)
            for links in inventory.links
            for subject in sorted(
                {*links.referrer_lists, *links.list_tags} - {one.subject for one in lists[links.repository]}
            )
        ),
        relisted=tuple(
            one for links in inventory.links for one in lists[links.repository] if not _is_in_place(one, links)
        ),
    )


def _lists(links: Links, marked: set[Digest], inventory: Inventory) -> tuple[ReferrerList, ...]:
    """Return the lists of referrers that one repository is to have, in order of their subjects."""
    rows: dict[Digest, list[Row]] = defaultdict(list)
    for digest in links.manifests.keys() & marked:
        own = inventory.needs[digest]
        if own.subject is not None and own.row is not None:
            rows[own.subject].append(own.row)
    return tuple(make_list(links.repository, subject, rows[subject]) for subject in sorted(rows))


def _is_in_place(one: ReferrerList, links: Links) -> bool:
    digest = one.index.digest
    return (
        digest == links.referrer_lists.get(one.subject) == links.list_tags.get(one.subject)
        and digest in links.manifests
    )


def mark(roots: Iterable[Digest], served: Iterable[Digest], needs: Mapping[Digest, Needs]) -> set[Digest]:
    """Return *roots* and all that is reachable from them, in one repository.

    Args:
        roots: where to start.
        served: the manifests of the repository; those that refer to a marked one are marked too.
        needs: what each manifest names.
    """
    referrers: dict[Digest, list[Digest]] = defaultdict(list)
    for digest in served:
        subject = needs[digest].subject
        if subject is not None:
            referrers[subject].append(digest)
    marked: set[Digest] = set()
    left = list(roots)
    while left:
        digest = left.pop()
        if digest in marked:
            continue
        marked.add(digest)
        own = needs.get(digest, Needs())
        left += [*own.manifests, *referrers[digest]]
        # A signature without what it signs is worth nothing. It also means that all which refer to one manifest stay
        # or go together, and with them the list of them.
        if own.subject is not None:
            left.append(own.subject)
    return marked


def prune(plan: PrunePlan, writer: TreeWriter, progress: Progress) -> None:
    """Remove what *plan* names: pointers first, content last.

    Killed at any moment, it leaves a tree that serves all that is kept, and the next prune finishes.

    Raises:
        TreeError: the disk refuses.
    """
    changes_catalog = plan.repositories or is_catalog_unfinished(writer.tree)
    catalog = catalog_change(writer.tree, gone=plan.repositories) if changes_catalog else None
    if catalog is not None:
        # It is written at the end, when there is room again; killed before, the next run that writes does it.
        writer.begin_catalog()
    writer.write_referrers(plan.relisted)
    for repository, subject in plan.unlisted:
        writer.remove_referrers(repository, subject)
    writer.settle()
    for repository, digest in plan.manifests:
        writer.unlink_manifest(repository, digest)
        progress.say(f"removed {repository}@{digest}")
    # Each stage is on the disk before the next begins: power may fail, and links must not outlive their content.
    writer.settle()
    for repository, digest in plan.blobs:
        writer.unlink_blob(repository, digest)
    writer.settle()
    for repository in plan.repositories:
        writer.remove_repository(repository)
    writer.settle()
    for stored in plan.manifest_contents:
        writer.remove_manifest(stored)
    for digest in plan.blob_contents:
        writer.remove_blob(digest)
    writer.settle()
    write_catalog(catalog, writer)


def _swept(links: Links, marked: set[Digest], inventory: Inventory) -> list[Root]:
    """Return the links of manifests that go from one repository, an index before what it lists."""
    gone = links.manifests.keys() - marked
    order = TopologicalSorter({digest: sorted(inventory.needs[digest].manifests & gone) for digest in sorted(gone)})
    return [(links.repository, digest) for digest in reversed(tuple(order.static_order()))]


def _used(inventory: Inventory, in_use: frozenset[InUse]) -> set[Root]:
    """Return what *in_use* may be, in every repository that serves it."""
    whole = {used.hex for used in in_use if len(used.hex) == 64}
    beginnings = tuple(used.hex for used in in_use if 0 < len(used.hex) < 64)
    by_digest = {
        digest
        for digest, needs in inventory.needs.items()
        # An engine's image id is the digest of the config, which is a blob to the manifest.
        if any(known.hex in whole or known.hex.startswith(beginnings) for known in (digest, *needs.blobs))
    }
    found = {(links.repository, digest) for links in inventory.links for digest in by_digest & links.manifests.keys()}
    # What a tag named when something was started by it is only known to be one of those that it has ever named.
    moves: dict[str, set[TagMove]] = defaultdict(set)
    for record in inventory.records:
        for move in record.release.moves:
            moves[move.tag].add(move)
    for used in in_use:
        for move in moves.get(used.tag, ()):
            if used.may_be(move.repository):
                found |= _ends((move,))
    return found


def _ends(moves: Iterable[TagMove]) -> set[Root]:
    """Return what *moves* moved tags from and to."""
    return {(move.repository, digest) for move in moves for digest in (move.before, move.after) if digest is not None}


def _named(manifests: Iterable[Digest], needs: Mapping[Digest, Needs]) -> set[Digest]:
    return {blob for digest in manifests if digest in needs for blob in needs[digest].blobs}


def _began(release: Release) -> float:
    try:
        return datetime.fromisoformat(release.time).timestamp()
    except ValueError:
        return 0.0  # The time of the record's file is then all that is known.
