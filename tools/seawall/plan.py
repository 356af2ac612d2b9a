"""The plan of a sync: pure values in, pure values out, so that a dry run shows what a real run does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seawall.digest import Digest
from seawall.immutable import check_moves
from seawall.lists import NONE_STALE, StaleLists
from seawall.lock import Lock
from seawall.manifest import Descriptor, Manifest
from seawall.reference import Reference, check_own_tag, check_staged, listed_subject
from seawall.referrer_list import ReferrerList, Row, merged, newly_listed
from seawall.release import Release, TagMove
from seawall.tree import StoredManifest

if TYPE_CHECKING:
    from seawall.sources import HasSource


@dataclass(frozen=True, slots=True)
class TreeState:
    """What a plan needs to know of a tree; only of what the lock and its forerunners name."""

    tags: Mapping[Reference, Digest]
    """Tags and what they point at now; a missing tag is not in it."""
    linked_manifests: frozenset[tuple[str, Digest]]
    """(repository, digest) of manifests that a repository serves already, with all that they need."""
    linked_blobs: frozenset[tuple[str, Digest]]
    stored_blobs: frozenset[Digest]
    stored_manifests: frozenset[Digest]
    applied: Mapping[str, Lock]
    """Each lock by its name, as it was last applied; others than the one to apply only where something may go."""
    pending: Release | None = None
    """A release that an interrupted run left half done."""
    lists: StaleLists = NONE_STALE
    unsure: tuple[tuple[str, Manifest], ...] = ()
    """Manifests, with their repositories, that an interrupted run may have linked and not listed as referrers."""
    referrers: Mapping[tuple[str, Digest], tuple[Row, ...]] = field(default_factory=dict)
    """By repository and subject, what is listed as its referrers; of all subjects that may get more of them."""


@dataclass(frozen=True, slots=True)
class BlobFetch:
    """A blob that the tree lacks, and the image whose source has it."""

    blob: Descriptor
    image: "HasSource"


@dataclass(frozen=True, slots=True)
class Links:
    """What one repository is to serve that it does not yet, by digest."""

    repository: str
    blobs: tuple[Digest, ...]
    manifests: tuple[StoredManifest, ...]
    """In the order in which they have to appear: what an index lists comes before the index."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sync or an addition does.

    In this order: fetches, manifests, links, lists of referrers, tag lists, moves, the applied lock.
    """

    lock: Lock
    fetches: tuple[BlobFetch, ...]
    """Largest first, so that the last ones to end are small."""
    manifests: tuple[Manifest, ...]
    links: tuple[Links, ...]
    moves: tuple[TagMove, ...]
    targets: Mapping[Digest, StoredManifest]
    """Where the manifests lie that the moves point tags at."""
    applies: bool
    """True where the lock differs from the one of this name that was last applied."""
    pending: Release | None
    by: str = "sync"
    """What it is for; but for ``sync``, *lock* only says what to add, and is no lock to record."""
    lists: StaleLists = NONE_STALE
    """Lists to write anew, whatever moves."""
    referrer_lists: tuple[ReferrerList, ...] = ()
    """Lists of referrers that are not yet as they come to be."""
    referrers: tuple[tuple[str, Digest], ...] = ()
    """What is new in them, with its repository."""

    @property
    def is_empty(self) -> bool:
        """True where the tree serves what the lock says, and knows that it does."""
        content = self.fetches or self.manifests or self.links or self.referrer_lists
        return not (content or self.moves or self.applies or self.pending or self.lists)

    @property
    def fetch_bytes(self) -> int:
        """How many bytes of blobs are to be fetched."""
        return sum(fetch.blob.size for fetch in self.fetches)


def make_plan(lock: Lock, state: TreeState, manifests: Mapping[Digest, Manifest], by: str = "sync") -> Plan:
    """Return what makes a tree in *state* serve what *lock* says.

    Args:
        lock: the lock to apply.
        state: what the tree holds now.
        manifests: every manifest below the locked digests that its repository does not serve yet.
        by: what the plan is for; but for ``sync`` it only adds, withdraws nothing and records no lock.

    Raises:
        InputError: an immutable tag or a staged name would come to name another image.
    """
    moves = _tag_moves(lock, state, by)
    check_moves(moves, state.applied.values(), lock)
    links: dict[str, tuple[dict[Digest, None], dict[Digest, StoredManifest]]] = {}
    fetches: dict[Digest, BlobFetch] = {}
    for image in lock.images:
        blobs, linked = links.setdefault(image.name, ({}, {}))
        for pin in image.roots:
            for manifest in _unlinked(pin.digest, image.name, state, manifests):
                linked.setdefault(manifest.digest, StoredManifest(manifest.digest, manifest.kind))
                for blob in manifest.blobs:
                    if (image.name, blob.digest) not in state.linked_blobs:
                        blobs.setdefault(blob.digest)
                    if blob.digest not in state.stored_blobs:
                        fetches.setdefault(blob.digest, BlobFetch(blob, image))
    stored = {digest: stored for _, linked in links.values() for digest, stored in linked.items()}
    new = [(repository, manifests[digest]) for repository, (_, linked) in links.items() for digest in linked]
    lists = merged(state.referrers, (*new, *state.unsure))
    return Plan(
        lock=lock,
        fetches=tuple(sorted(fetches.values(), key=lambda fetch: (-fetch.blob.size, fetch.blob.digest))),
        manifests=tuple(manifests[digest] for digest in stored if digest not in state.stored_manifests),
        links=tuple(
            Links(repository, tuple(blobs), tuple(linked.values()))
            for repository, (blobs, linked) in sorted(links.items())
            if blobs or linked
        ),
        moves=moves,
        targets=stored,
        applies=by == "sync" and state.applied.get(lock.name) != lock,
        pending=state.pending,
        by=by,
        lists=state.lists,
        referrer_lists=lists,
        referrers=newly_listed(lists, state.referrers),
    )


def _unlinked(
    digest: Digest, repository: str, state: TreeState, manifests: Mapping[Digest, Manifest]
) -> list[Manifest]:
    """Return the manifests at and below *digest* that *repository* lacks, each after those that it lists."""
    order: dict[Digest, Manifest] = {}

    def visit(at: Digest) -> None:
        if at in order or (repository, at) in state.linked_manifests:
            return
        for child in manifests[at].children:
            visit(child.digest)
        order[at] = manifests[at]

    visit(digest)
    return list(order.values())


def _tag_moves(lock: Lock, state: TreeState, by: str) -> tuple[TagMove, ...]:
    wanted = {reference: pin.digest for reference, pin in lock.pins.items()}
    for reference, digest in wanted.items():
        check_own_tag(reference)
        check_staged(reference, digest)
    moves = [
        TagMove(reference.repository, str(reference.tag), state.tags.get(reference), digest)
        for reference, digest in wanted.items()
        if state.tags.get(reference) != digest
    ]
    others = {reference for name, other in state.applied.items() if name != lock.name for reference in other.pins}
    for reference, digest in _put_by(lock.name, state).items() if by == "sync" else ():
        # What another lock names too, or a person has moved since, is no longer this lock's to withdraw; nor is the
        # place of a list of referrers, which is the tree's own.
        stays = reference in wanted or reference in others or listed_subject(str(reference.tag)) is not None
        if not stays and state.tags.get(reference) == digest:
            moves.append(TagMove(reference.repository, str(reference.tag), digest, None))
    return tuple(sorted(moves, key=lambda move: str(move.reference)))


def _put_by(name: str, state: TreeState) -> dict[Reference, Digest]:
    """Return the tags that the lock *name* put into the tree, with what it pointed them at."""
    applied = state.applied.get(name)
    put = {reference: pin.digest for reference, pin in applied.pins.items()} if applied else {}
    if state.pending and state.pending.lock == name:
        put |= {move.reference: move.after for move in state.pending.moves if move.after}
    return put
