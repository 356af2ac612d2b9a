"""The inventory of a tree: all that lies in it, since when, and what needs what."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seawall.digest import Digest
from seawall.errors import InputError, TreeError
from seawall.lock import Lock
from seawall.manifest import Manifest
from seawall.reference import listed_subject
from seawall.referrer_list import Row, row_of
from seawall.release import Release
from seawall.tree import BLOBS, MANIFESTS, RELEASES, StoredManifest, Tree, parse_manifest_name


@dataclass(frozen=True, slots=True)
class Content:
    """A file below ``content/``."""

    size: int
    """Bytes."""
    arrived: float
    """Seconds since the epoch: when its inode last changed (ctime), which is when it was renamed to its place.

    Its mtime is made from its digest and says nothing; ctime cannot be set back, and a copy of a tree is as young as
    the copying.
    """


@dataclass(frozen=True, slots=True)
class Needs:
    """What a manifest names."""

    manifests: frozenset[Digest] = frozenset()
    blobs: frozenset[Digest] = frozenset()
    subject: Digest | None = None
    """What it refers to, as a signature does."""
    row: Row | None = None
    """What a list of referrers says of it, where it has a subject."""

    @classmethod
    def of(cls, manifest: Manifest) -> "Needs":
        """Return what *manifest* names."""
        children = frozenset(child.digest for child in manifest.children)
        blobs = frozenset(blob.digest for blob in manifest.blobs)
        return cls(children, blobs, manifest.subject, row_of(manifest) if manifest.subject else None)


@dataclass(frozen=True, slots=True)
class Links:
    """What one repository serves."""

    repository: str
    tags: Mapping[str, Digest]
    manifests: Mapping[Digest, float]
    """By digest, with when the link came (its ctime, seconds since the epoch)."""
    blobs: Mapping[Digest, float]
    referrer_lists: Mapping[Digest, Digest] = field(default_factory=dict)
    """By subject, the digest of the list of its referrers: of the file that the API is answered with."""
    list_tags: Mapping[Digest, Digest] = field(default_factory=dict)
    """By subject, what the tag of that list points at."""


@dataclass(frozen=True, slots=True)
class Record:
    """A release, and when its record was put in its place (seconds since the epoch)."""

    release: Release
    ended: float


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that lies in a tree."""

    links: tuple[Links, ...]
    manifests: Mapping[StoredManifest, Content]
    blobs: Mapping[Digest, Content]
    needs: Mapping[Digest, Needs]
    """Of every manifest in *manifests*."""
    locks: tuple[Lock, ...] = ()
    """Each as it was last applied."""
    records: tuple[Record, ...] = ()
    pending: Release | None = None


def take_inventory(tree: Tree) -> Inventory:
    """Return all that lies in *tree*; reads every manifest, and no blob.

    Raises:
        TreeError: the disk refuses, or the tree is damaged so that it cannot be told what needs what.
    """
    manifests = {
        stored: content
        for path, content in _contents(tree.root / MANIFESTS)
        if (stored := parse_manifest_name(path.name)) is not None
    }
    blobs = {}
    for path, content in _contents(tree.root / BLOBS):
        try:
            blobs[Digest.parse(f"sha256:{path.name}")] = content
        except InputError:
            continue  # Not the tree's: for verify to name, and not for prune to remove.
    needs = {stored.digest: Needs.of(tree.read_manifest(stored)) for stored in manifests}
    return Inventory(
        links=tuple(_links(tree, repository, needs) for repository in tree.repositories()),
        manifests=manifests,
        blobs=blobs,
        needs=needs,
        locks=tuple(tree.applied_locks().values()),
        records=tuple(
            Record(tree.read_release(number), _arrived(tree.root / RELEASES / f"{number}.json"))
            for number in tree.releases()
        ),
        pending=tree.pending_release(),
    )


def _contents(top: Path) -> Iterator[tuple[Path, Content]]:
    for folder in _entries(top):
        for entry in _entries(Path(folder.path)) if folder.is_dir(follow_symlinks=False) else ():
            if entry.is_file(follow_symlinks=False):
                figures = entry.stat(follow_symlinks=False)
                yield Path(entry.path), Content(figures.st_size, figures.st_ctime)


def _links(tree: Tree, repository: str, known: Mapping[Digest, Needs]) -> Links:
    folder = tree.repository_path(repository)
    tags: dict[str, Digest] = {}
    list_tags: dict[Digest, Digest] = {}
    manifests: dict[Digest, float] = {}
    for entry in _entries(folder / "manifests"):
        stored = tree.linked_manifest(repository, entry.name) if entry.is_symlink() else None
        if stored is None or stored.digest not in known:
            raise TreeError(entry.path, "points at no manifest of this tree", f"run seawall verify {tree.root}")
        listed = listed_subject(entry.name)
        if ":" in entry.name:
            manifests[stored.digest] = entry.stat(follow_symlinks=False).st_ctime
        elif listed is not None:
            list_tags[listed] = stored.digest
        else:
            tags[entry.name] = stored.digest
    blobs = {
        Digest.parse(entry.name, entry.path): entry.stat(follow_symlinks=False).st_ctime
        for entry in _entries(folder / "blobs")
        if entry.is_symlink()
    }
    lists = {
        Digest.parse(entry.name, entry.path): Digest.of(tree.read(Path(entry.path)))
        for entry in _entries(folder / "referrers")
    }
    return Links(repository, tags, manifests, blobs, lists, list_tags)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TreeError(
            str(folder), f"cannot be read ({error.strerror})", "check the disk and the permissions"
        ) from None


def _arrived(path: Path) -> float:
    try:
        return path.lstat().st_ctime
    except OSError as error:
        raise TreeError(str(path), f"cannot be read ({error.strerror})", "check the disk and the permissions") from None
