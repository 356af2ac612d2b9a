"""Releasing: move tags so that the change is whole, is recorded, and can be undone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from seawall.digest import Digest
from seawall.errors import InputError
from seawall.immutable import check_moves
from seawall.lists import NONE_STALE, ListChange, StaleLists, catalog_change, private_text, tag_list_change
from seawall.lock import Lock, lock_text
from seawall.progress import Progress
from seawall.reference import Reference, check_own_tag, check_staged, listed_subject
from seawall.release import Release, TagMove, repositories_of, undoing
from seawall.tree import StoredManifest, Tree
from seawall.writer import TreeWriter

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""How a release record tells the time: ISO 8601, UTC, in seconds."""


@dataclass(frozen=True, slots=True)
class Change:
    """Tags to move, all in one release."""

    by: str
    """What makes it: the name of the command."""
    moves: tuple[TagMove, ...]
    targets: Mapping[Digest, StoredManifest] = field(default_factory=dict)
    """Where manifests lie that tags are pointed at, as far as that is known already."""
    pending: Release | None = None
    """A release that an interrupted run left half done."""
    lock: Lock | None = None
    """The lock that is applied, where it is one."""
    applies: bool = False
    """True where *lock* differs from the one of its name that was last applied."""
    lists: StaleLists = NONE_STALE
    """Lists to write anew, whatever moves."""
    referrers: tuple[tuple[str, Digest], ...] = ()
    """Repositories with manifests that come into their lists of referrers."""
    time: str = ""
    """What its record is to say when it was begun, as :attr:`Release.time`; empty: now."""

    def __post_init__(self) -> None:
        """Raise InputError if a staged name would name something else than what it is made from."""
        for move in self.moves:
            if move.after is not None:
                check_staged(move.reference, move.after)

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to do."""
        return not (self.moves or self.applies or self.pending or self.lists or self.referrers)


def plan_rollback(tree: Tree, number: int, time: str = "") -> Change:
    """Return what brings the tags of *tree* back to how they were right after release *number* (0: before the first).

    Args:
        tree: the tree.
        number: the release.
        time: what the record is to say, so that copies of a tree that are rolled back one by one stay copies.

    Raises:
        InputError: there was no such release, or what it served is not in the tree any more.
    """
    last = tree.last_release()
    if not 0 <= number <= last:
        raise InputError(
            str(number), f"is no release of {tree.root}", f"give one from 0 to {last}: see seawall releases"
        )
    pending = tree.pending_release()
    undone = [tree.read_release(n) for n in range(number + 1, last + 1)] + ([pending] if pending else [])
    named = {move.reference for release in undone for move in release.moves}
    moves = undoing(undone, tree.digests(named))
    moves = tuple(move for move in moves if listed_subject(move.tag) is None)
    for move in moves:
        _require_served(tree, move)
    return Change("rollback", moves, pending=pending, time=time)


def plan_tag(tree: Tree, source: Reference, tag: str) -> Change:
    """Return what points *tag* at what *source*, of the same repository, names.

    Raises:
        InputError: the tree has no such reference, or the tag is immutable.
    """
    check_own_tag(Reference(source.repository, tag))
    stored = tree.named_manifest(source)
    before = tree.digests({Reference(source.repository, tag)}).get(Reference(source.repository, tag))
    move = TagMove(source.repository, tag, before, stored.digest)
    moves = (move,) if move.before != move.after else ()
    if moves:
        check_moves(moves, tree.applied_locks().values())
    return Change("tag", moves, {stored.digest: stored}, tree.pending_release())


def plan_rm(tree: Tree, references: tuple[Reference, ...]) -> Change:
    """Return what takes the tags *references* away; what they point at stays, by digest.

    Raises:
        InputError: one of them is no tag, or not in the tree.
    """
    for reference in references:
        if reference.tag is None:
            raise InputError(str(reference), "names a digest, which stays until it is pruned", "give REPO:TAG")
        check_own_tag(reference)
    pending = tree.pending_release()
    # What a run that was interrupted has taken away is in the release that this one takes into its own.
    gone = {move.reference for move in pending.moves if move.after is None} if pending else set()
    gone -= tree.digests(gone).keys()
    moves = tuple(
        TagMove(reference.repository, str(reference.tag), tree.named_manifest(reference).digest, None)
        for reference in sorted(set(references) - gone, key=str)
    )
    return Change("rm", moves, pending=pending)


def announce(change: Change, writer: TreeWriter) -> None:
    """Write down what *change* is about to do, before anything of it can be seen; a killed run is then taken up.

    Raises:
        TreeError: the disk refuses.
    """
    release = _release_of(change, writer.tree)
    if not release.is_empty:
        writer.begin_release(release)


def make_release(change: Change, writer: TreeWriter, progress: Progress) -> int | None:
    """Do *change*; return the number of the release, or None where in the end nothing changed.

    The order is: announcement, lists, tags, the applied lock, the release record. Killed in between, the next
    run takes what was announced into its own release.

    Raises:
        TreeError: the disk refuses.
    """
    tree = writer.tree
    release = _release_of(change, tree)
    if not release.is_empty:
        writer.begin_release(release)
    _write_lists(change, writer)
    for move in change.moves:
        _move_tag(move, change, writer)
        progress.say(f"{move.reference} {_story(move)}")
    writer.settle()
    if change.lock and change.applies:
        writer.write_applied_lock(change.lock.name, lock_text(change.lock))
    if not release.is_empty:
        writer.end_release(release)
        return release.number
    if change.pending:
        writer.drop_pending()
    writer.settle()
    return None


def _write_lists(change: Change, writer: TreeWriter) -> None:
    """Write the tag lists as they will be when the tags have moved, and the catalog with their repositories."""
    tree = writer.tree
    repositories = sorted({*repositories_of(change.moves, change.pending), *change.lists.repositories})
    # What an interrupted run left half written is not to be built upon.
    doubtful = repositories_of((), change.pending)
    lists = []
    for repository in repositories:
        moves = [move for move in change.moves if move.repository == repository]
        tags = {*tree.targets(repository)[0], *(move.tag for move in moves if move.after)}
        tags -= {move.tag for move in moves if not move.after}
        lists.append(tag_list_change(tree, repository, tags, anew=repository in doubtful))
    writer.write_lists(filter(None, lists))
    write_catalog(catalog_change(tree, come=repositories), writer)


def write_catalog(change: ListChange | None, writer: TreeWriter) -> None:
    """Do *change* to the catalog, if there is one to do.

    Raises:
        TreeError: the disk refuses.
    """
    if change is not None:
        writer.begin_catalog()
        writer.write_lists((change,))
        writer.end_catalog(private_text(writer.tree))


def write_stale_lists(stale: StaleLists, writer: TreeWriter) -> None:
    """Write the lists that are *stale* as the tags and repositories of the tree make them.

    Raises:
        TreeError: the disk refuses.
    """
    tree = writer.tree
    for repository in stale.repositories:
        tags = tree.targets(repository)[0]
        writer.write_lists(filter(None, (tag_list_change(tree, repository, tags, anew=True),)))
    write_catalog(catalog_change(tree, come=stale.repositories, anew=stale.catalog), writer)


def _release_of(change: Change, tree: Tree) -> Release:
    """Return the release that records *change*, with the moves that an interrupted one really made."""
    now = change.time or datetime.now(UTC).strftime(TIME_FORMAT)
    name = change.lock.name if change.lock else ""
    release = Release(tree.last_release() + 1, now, change.by, name, change.moves, change.referrers)
    release = release.over(change.pending)
    planned = {move.reference for move in change.moves}
    tags = tree.digests({move.reference for move in release.moves} - planned)
    found = (
        move if move.reference in planned else replace(move, after=tags.get(move.reference)) for move in release.moves
    )
    come = (
        (repository, digest)
        for repository, digest in release.referrers
        if (repository, digest) in change.referrers or tree.linked_manifest(repository, str(digest)) is not None
    )
    return replace(release, moves=tuple(move for move in found if move.before != move.after), referrers=tuple(come))


def _move_tag(move: TagMove, change: Change, writer: TreeWriter) -> None:
    if move.after is None:
        writer.remove_tag(move.repository, move.tag)
        return
    stored = change.targets.get(move.after) or writer.tree.linked_manifest(move.repository, str(move.after))
    if stored is None:
        raise AssertionError(f"{move.reference} moves to {move.after}, which {move.repository} does not serve")
    writer.link_manifest(move.repository, move.tag, stored)


def _require_served(tree: Tree, move: TagMove) -> None:
    if move.after is None:
        return
    stored = tree.linked_manifest(move.repository, str(move.after))
    if stored is None or not tree.manifest_path(stored).is_file():
        raise InputError(
            f"{move.reference} at {move.after}", f"is not in {tree.root} any more", "sync a lock that names it"
        )


def _story(move: TagMove) -> str:
    if move.after is None:
        return f"withdrawn (was {move.before})"
    return f"-> {move.after}" + (f" (was {move.before})" if move.before else "")
