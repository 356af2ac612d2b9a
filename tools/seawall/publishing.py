"""Reading out of a tree what a publish carries.

The tree may be written meanwhile: content and records never change, and what moves is taken as the records say it was
after the last release that had ended. A tag is never read from the disk alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from seawall.digest import Digest
from seawall.errors import InputError, TreeError
from seawall.listing import FIRST_PAGE, Shape
from seawall.manifest import Descriptor, Manifest
from seawall.publication import (
    JSON,
    OCTETS,
    Publication,
    PublishedList,
    Standing,
    TreeObject,
    brought,
    by_depth,
    check_history,
    moved,
    relisted,
    undone,
)
from seawall.reference import Reference, list_tag
from seawall.referrer_list import ReferrerList, make_list
from seawall.release import Release
from seawall.tree import LOCKS, PENDING, RELEASES, V2, StoredManifest, Tree

if TYPE_CHECKING:
    # What reads a lock takes a while to start: only who reads one waits for it.
    from seawall.lock import Lock

_REPAIR = "run seawall verify --repair"


def prepare(tree: Tree, standing: Standing, where: str, *, everything: bool = False) -> Publication:
    """Return what to carry from *tree* to a destination.

    Args:
        tree: the source; it may be written meanwhile, and is then taken as of its last release.
        standing: what the destination says of itself.
        where: the destination, for errors.
        everything: compare all of the tree, whatever the destination has.

    Raises:
        TreeError: the destination's journal is not a beginning of the tree's, or the tree is damaged.
    """
    # Before anything else is read: what is newer than this is left out below.
    numbers = tree.releases()
    last = max(numbers, default=0)
    record = _record(tree, standing.release) if standing.release in numbers else None
    check_history(standing, where, str(tree.root), last, record.digest if record else None)
    wanted = set(range(standing.release + 1, last + 1))
    # Without its records nobody can say what changed.
    is_whole = everything or not standing.release or not wanted <= set(numbers)
    releases = [tree.read_release(number) for number in sorted(wanted & set(numbers))]
    repositories = list(tree.repositories()) if is_whole else sorted(relisted(releases))
    found = {name: tree.targets(name) for name in repositories}
    read = tree.digests(Reference(name, tag) for name in repositories for tag in found[name][0]) if is_whole else {}
    locks = _locks(tree)
    later = _later(tree, last)
    # What a lock pins is in its release, and comes with that.
    locks = {name: content for name, content in locks.items() if name not in {release.lock for release in later}}
    names: dict[str, list[str]] = {name: [] for name in repositories}
    for reference in undone({Reference(name, tag): _ANY for name in repositories for tag in found[name][0]}, later):
        names.setdefault(reference.repository, []).append(str(reference.tag))
    tags: dict[Reference, Digest | None] = dict(undone(read, later)) if is_whole else moved(releases)
    gathered = _Gathered(tree, later)
    for repository, digest in (
        *(root for name in repositories if is_whole for root in _ended(tree, name, found[name][1], later)),
        *brought(releases),
        *_new_pins(locks, standing.locks),
    ):
        gathered.add(repository, digest)
    for reference, after in tags.items():
        if after is not None:
            gathered.require(reference, after)
    gathered.follow()
    listed = [name for name in repositories if (tree.tag_list_path(name) / FIRST_PAGE).exists()]
    return Publication(
        since=standing.release,
        release=last,
        is_whole=is_whole,
        blobs=tuple(sorted(gathered.blobs.values())),
        manifests=tuple(sorted(gathered.contents.values())),
        blob_links=tuple(sorted(gathered.blob_links)),
        manifest_links=gathered.manifest_links,
        list_links=tuple(gathered.list_links()),
        list_files=tuple(gathered.list_files()),
        tag_lists=tuple(
            PublishedList(f"{V2}/{name}/tags", Shape.of_tags(name), tuple(sorted(names[name])))
            for name in repositories
            if not is_whole or name in listed
        ),
        repositories=tuple(listed),
        tags=tuple(
            gathered.link(reference.repository, str(reference.tag), gathered.stored[reference.repository, after])
            for reference, after in sorted(tags.items(), key=lambda item: str(item[0]))
            if after is not None
        ),
        withdrawn=tuple(sorted((ref for ref, after in tags.items() if after is None), key=str)),
        locks=tuple(
            _small(f"{LOCKS}/{name}.lock", content)
            for name, content in sorted(locks.items())
            if standing.locks.get(name) != content
        ),
        records=tuple(_record(tree, number) for number in numbers if is_whole or number > standing.release),
    )


_ANY = Digest.of(b"")
"""Stands for what a tag points at where only its name matters."""


@dataclass(slots=True)
class _Gathered:
    """Everything that some manifests need, as it is found."""

    tree: Tree
    later: tuple[Release, ...]
    stored: dict[tuple[str, Digest], StoredManifest] = field(default_factory=dict)
    """By repository and digest, the manifests to carry."""
    blobs: dict[Digest, TreeObject] = field(default_factory=dict)
    contents: dict[Digest, TreeObject] = field(default_factory=dict)
    blob_links: set[TreeObject] = field(default_factory=set)
    lists: dict[tuple[str, Digest], ReferrerList] = field(default_factory=dict)
    _left: list[tuple[str, Digest]] = field(default_factory=list)
    _read: dict[Digest, Manifest] = field(default_factory=dict)

    def add(self, repository: str, digest: Digest) -> None:
        """Carry the manifest *digest* of *repository*, if it is served there (and was not pruned meanwhile)."""
        if (repository, digest) not in self.stored:
            stored = self.tree.linked_manifest(repository, str(digest))
            if stored is not None:
                self.stored[repository, digest] = stored
                self._left.append((repository, digest))

    def require(self, reference: Reference, digest: Digest) -> None:
        """Carry what a tag points at."""
        self.add(reference.repository, digest)
        if (reference.repository, digest) not in self.stored:
            raise TreeError(f"{self.tree.root}: {reference}", f"points at {digest}, which is not served", _REPAIR)

    def follow(self) -> None:
        """Carry what the manifests so far need, and what refers to them."""
        while self._left:
            repository, digest = self._left.pop()
            stored = self.stored[repository, digest]
            if digest not in self._read:
                manifest = self.tree.read_manifest(stored)
                self._store(stored, manifest)
                # There may be many, and their bytes are in the tree.
                self._read[digest] = replace(manifest, content=b"")
            manifest = self._read[digest]
            for child in manifest.children:
                self.add(repository, child.digest)
            for blob in manifest.blobs:
                self._link_blob(repository, blob)
            self._list(repository, digest)
            if manifest.subject is not None:
                self.add(repository, manifest.subject)
                self._list(repository, manifest.subject)

    def link(self, repository: str, target: str, stored: StoredManifest) -> TreeObject:
        """Return the link of *repository* for *target*, which leads to *stored*."""
        content = self.contents[stored.digest]
        path = self._below(self.tree.manifest_link(repository, target))
        return TreeObject(path, content.media_type, content.digest, content.size, content.path)

    @property
    def manifest_links(self) -> tuple[tuple[TreeObject, ...], ...]:
        """The links by digest, by depth."""
        depths = by_depth({d: [child.digest for child in m.children] for d, m in self._read.items()})
        levels: dict[int, list[TreeObject]] = {}
        for (repository, digest), stored in self.stored.items():
            levels.setdefault(depths[digest], []).append(self.link(repository, str(digest), stored))
        return tuple(tuple(sorted(levels[depth])) for depth in sorted(levels))

    def list_links(self) -> Iterator[TreeObject]:
        """Yield the links of the lists of referrers."""
        for (repository, subject), one in sorted(self.lists.items()):
            stored = StoredManifest(one.index.digest, one.index.kind)
            yield self.link(repository, str(stored.digest), stored)
            yield self.link(repository, list_tag(subject), stored)

    def list_files(self) -> Iterator[TreeObject]:
        """Yield the files of the lists of referrers."""
        for (repository, subject), one in sorted(self.lists.items()):
            path = self._below(self.tree.referrers_path(repository, subject))
            content = one.index.content
            yield TreeObject(path, one.index.kind.media_type, one.index.digest, len(content), content=content)

    def _list(self, repository: str, subject: Digest) -> None:
        """Carry the list of what refers to *subject*, as it was before the releases that are not carried."""
        if (repository, subject) in self.lists:
            return
        too_new = {digest for release in self.later for name, digest in release.referrers if name == repository}
        rows = [row for row in self.tree.referrers(repository, subject) if row.digest not in too_new]
        if rows:
            one = make_list(repository, subject, rows)
            self.lists[repository, subject] = one
            self._store(StoredManifest(one.index.digest, one.index.kind), one.index)
            for row in rows:
                self.add(repository, row.digest)

    def _store(self, stored: StoredManifest, manifest: Manifest) -> None:
        path = self.tree.manifest_path(stored)
        content = None if path.is_file() else manifest.content
        media_type, size = stored.kind.media_type, len(manifest.content)
        self.contents.setdefault(
            stored.digest, TreeObject(self._below(path), media_type, stored.digest, size, content=content)
        )

    def _link_blob(self, repository: str, blob: Descriptor) -> None:
        path = self._below(self.tree.blob_path(blob.digest))
        if blob.digest not in self.blobs:
            size = self.tree.blob_size(blob.digest)
            if size != blob.size:
                found = "is missing" if size is None else f"has {size} bytes, not {blob.size}"
                raise TreeError(f"{self.tree.root}/{path}", found, _REPAIR)
            self.blobs[blob.digest] = TreeObject(path, OCTETS, blob.digest, blob.size)
        link = self._below(self.tree.blob_link(repository, blob.digest))
        self.blob_links.add(TreeObject(link, OCTETS, blob.digest, blob.size, path))

    def _below(self, path: object) -> str:
        return str(path)[len(str(self.tree.root)) :].lstrip("/")


def _later(tree: Tree, last: int) -> tuple[Release, ...]:
    """Return the releases after *last*: ended meanwhile, or under way."""
    # In this order: one that ends in between is read twice rather than not at all.
    try:
        pending = tree.pending_release()
    except TreeError:
        if (tree.root / RELEASES / PENDING).exists():
            raise
        pending = None
    ended = [tree.read_release(number) for number in tree.releases() if number > last]
    return (*ended, *([pending] if pending else []))


def _ended(
    tree: Tree, repository: str, digests: Iterable[Digest], later: tuple[Release, ...]
) -> Iterator[tuple[str, Digest]]:
    """Yield *digests*, which *repository* serves, without those that came with the releases *later*."""
    new = {digest for name, digest in brought(later) if name == repository}
    for digest in digests:
        stored = tree.linked_manifest(repository, str(digest)) if new else None
        # A list of referrers that has a new one in it is new itself.
        names = stored is not None and stored.kind.is_index and tree.read_manifest(stored).children
        if digest not in new and not (names and new.intersection(child.digest for child in names)):
            yield repository, digest


def _locks(tree: Tree) -> dict[str, bytes]:
    return {path.name.removesuffix(".lock"): tree.read(path) for path in (tree.root / LOCKS).glob("*.lock")}


def _new_pins(locks: Mapping[str, bytes], there: Mapping[str, bytes]) -> Iterator[tuple[str, Digest]]:
    """Yield what *locks* pin and those that are *there* do not, each with its repository."""
    for name, content in locks.items():
        if there.get(name) != content:
            yield from _pins(_parsed(content, name)) - _pins(_parsed(there.get(name, b""), name))


def _pins(lock: "Lock | None") -> set[tuple[str, Digest]]:
    return {(image.name, pin.digest) for image in (lock.images if lock else ()) for pin in image.roots}


def _parsed(content: bytes, where: str) -> "Lock | None":
    from seawall.lock import parse_lock  # noqa: PLC0415 - as above

    try:
        return parse_lock(content, where)
    except InputError:
        return None  # What it pins is compared whole.


def _record(tree: Tree, number: int) -> TreeObject:
    path = f"{RELEASES}/{number}.json"
    return _small(path, tree.read(tree.root / path))


def _small(path: str, content: bytes) -> TreeObject:
    return TreeObject(path, JSON, Digest.of(content), len(content), content=content)
