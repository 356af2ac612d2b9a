"""What a publish carries: the objects of a tree that a destination may lack, in the order in which it is to get them.

A tree's release records say what changed; nothing is found by listing the tree. What is here are values and pure
functions: the same plan fills a replica on another host, a bucket, or a folder of another shape.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from seawall.digest import Digest
from seawall.errors import TreeError
from seawall.listing import Shape
from seawall.reference import Reference, listed_subject
from seawall.release import Release

OCTETS = "application/octet-stream"
JSON = "application/json"


@dataclass(frozen=True, slots=True, order=True)
class TreeObject:
    """A file of a tree, or a link in it."""

    path: str
    """Below the tree."""
    media_type: str
    digest: Digest
    """Of its bytes; of a link, of those that it leads to."""
    size: int
    """Of its bytes, as above."""
    target: str = ""
    """Of a link: the file under ``content/`` that it leads to."""
    content: bytes | None = None
    """The bytes of what is small and may change meanwhile; None where the tree has them for good."""

    @property
    def file(self) -> str:
        """Where its bytes lie, below the tree."""
        return self.target or self.path


@dataclass(frozen=True, slots=True)
class PublishedList:
    """A list of names, to be written as :mod:`seawall.listing` lays it out, or as the destination can hold it."""

    folder: str
    """Below the tree."""
    shape: Shape
    names: tuple[str, ...]
    """Sorted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a destination says of itself before anything is sent."""

    release: int = 0
    """The number of its last release; 0 where it has none."""
    record: Digest | None = None
    """Of the record of that release."""
    locks: Mapping[str, bytes] = field(default_factory=dict)
    """Each lock by its name, as it was last applied."""
    private: str | None = None
    """The destination's own file ``private``; None where it has none."""
    catalog_private: str | None = None
    """What its catalog leaves out; None where the catalog is not whole."""
    is_pending: bool = False
    """True where a release of its own was begun and not ended."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What to carry. The fields stand in the order in which a destination gets them."""

    since: int
    """The release that the destination has."""
    release: int
    """The one that it comes to."""
    is_whole: bool
    """True where all of the tree is in it, and not only what came after *since*."""
    blobs: tuple[TreeObject, ...] = ()
    manifests: tuple[TreeObject, ...] = ()
    blob_links: tuple[TreeObject, ...] = ()
    manifest_links: tuple[tuple[TreeObject, ...], ...] = ()
    """Links by digest: first those that list nothing, then those that list only the former, and so on."""
    list_links: tuple[TreeObject, ...] = ()
    """Of lists of referrers: the links by digest, and those that stand in for the API."""
    list_files: tuple[TreeObject, ...] = ()
    """Of lists of referrers: what the API is answered with."""
    tag_lists: tuple[PublishedList, ...] = ()
    """Those that change; one of a repository that is not in *repositories* only where the destination has it."""
    repositories: tuple[str, ...] = ()
    """Those that come into the catalog, if they are not there yet."""
    tags: tuple[TreeObject, ...] = ()
    withdrawn: tuple[Reference, ...] = ()
    locks: tuple[TreeObject, ...] = ()
    records: tuple[TreeObject, ...] = ()
    """In order of their numbers; the last one ends it all."""

    @property
    def contents(self) -> tuple[TreeObject, ...]:
        """The files under ``content/``."""
        return (*self.blobs, *self.manifests)

    @property
    def size(self) -> int:
        """Bytes of all contents, whether or not the destination has some of them."""
        return sum(one.size for one in self.contents)

    @property
    def is_empty(self) -> bool:
        """True where the destination has all of it, as far as its records say."""
        return not (self.is_whole or self.records or self.locks)


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to publish."""

    everything: bool = False
    """Compare all of the tree, whatever the destination's records say."""
    delete: float | None = None
    """Also remove what the tree has no more and what is older than so many seconds; None: withdraw tags only."""
    dry_run: bool = False
    """See what would be sent, and change nothing."""


def check_history(standing: Standing, where: str, source: str, last: int, record: Digest | None) -> None:
    """Check that the journal of a destination is a beginning of the source's.

    Args:
        standing: what the destination says of itself.
        where: the destination, for errors.
        source: the source, for errors.
        last: the number of the source's last release.
        record: of what the source has as the destination's last release; None where it has no such record.

    Raises:
        TreeError: it is none.
    """
    apart = "publish to an empty folder instead, or empty this one"
    if standing.is_pending:
        raise TreeError(where, "is in the middle of a release of its own, so it is no copy", apart)
    if standing.release > last:
        what = f"has release {standing.release}, and {source} ends with release {last}"
        raise TreeError(where, what, f"publish from the tree that it was filled from, or {apart}")
    if standing.release and record is None:
        what = f"ends with release {standing.release}, whose record {source} has lost"
        raise TreeError(where, what, f"copy releases/{standing.release}.json back from there, if it is a copy")
    if standing.release and record != standing.record:
        what = f"has another release {standing.release} than {source}: it has a history of its own"
        raise TreeError(where, what, apart)


def undone(tags: Mapping[Reference, Digest], later: Iterable[Release]) -> dict[Reference, Digest]:
    """Return *tags* as they were before the releases *later*."""
    before: dict[Reference, Digest | None] = {}
    for release in sorted(later, key=lambda release: -release.number):
        before |= {move.reference: move.before for move in release.moves}
    then: dict[Reference, Digest | None] = {**tags, **before}
    return {reference: digest for reference, digest in then.items() if digest is not None}


def moved(releases: Iterable[Release]) -> dict[Reference, Digest | None]:
    """Return every tag that *releases* moved, with where the last of them left it; None where it was withdrawn."""
    last: dict[Reference, Digest | None] = {}
    for release in sorted(releases, key=lambda release: release.number):
        last |= {move.reference: move.after for move in release.moves if listed_subject(move.tag) is None}
    return last


def relisted(releases: Iterable[Release]) -> frozenset[str]:
    """Return the repositories in which *releases* added tags or withdrew some."""
    return frozenset(
        move.repository for release in releases for move in release.moves if move.before is None or move.after is None
    )


def brought(releases: Iterable[Release]) -> frozenset[tuple[str, Digest]]:
    """Return every repository with a manifest that *releases* pointed a tag at, or listed as a referrer."""
    rows: set[tuple[str, Digest]] = set()
    for release in releases:
        rows.update(release.referrers)
        rows.update((move.repository, move.after) for move in release.moves if move.after is not None)
    return frozenset(rows)


def by_depth(children: Mapping[Digest, Sequence[Digest]]) -> dict[Digest, int]:
    """Return how deep each manifest lists others: 0 where it lists none; *children* names all of them."""
    depths: dict[Digest, int] = {}
    left = list(children)
    while left:
        digest = left[-1]
        below = [child for child in children[digest] if child in children]
        missing = [child for child in below if child not in depths]
        if digest in depths or not missing:
            # A digest is of bytes that name others: it can be in no circle.
            depths.setdefault(digest, 1 + max(depths[child] for child in below) if below else 0)
            left.pop()
        else:
            left += missing
    return depths
