"""The tree: the only state, and everything that is served is a file in it (read side).

Layout, below the root::

    content/blobs/sha256/ab/<hex>                one file per blob, whatever repositories use it
    content/manifests/sha256/ab/<hex>.<kind>     kind is one of the four manifest media types
    v2/<repository>/blobs/sha256:<hex>           relative symlink into content/blobs
    v2/<repository>/manifests/sha256:<hex>       relative symlink into content/manifests
    v2/<repository>/manifests/<tag>              the same target
    v2/<repository>/manifests/sha256-<hex>       the list of what refers to a manifest, as a manifest of its own
    v2/<repository>/referrers/sha256:<hex>       the same list
    v2/<repository>/tags/                        the tag list and its pages (see seawall.listing)
    v2/_catalog                                  link to the first page of the catalog
    catalog/                                     the list of repositories, and its pages
    private                                      prefixes of repositories that the catalog leaves out, one a line
    releases/<n>.json                            what release n moved
    releases/pending.json                        what a release that is under way is moving
    locks/<name>.lock                            each lock as it was last applied
    .incoming/                                   files on their way to their place; nothing that is served
    .held                                        held (flock) by the run that writes
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from seawall.digest import Digest
from seawall.errors import InputError, TreeError
from seawall.manifest import Manifest, parse_manifest
from seawall.media_type import BY_KIND, MANIFEST_KINDS, ManifestKind
from seawall.reference import Reference, listed_subject
from seawall.referrer_list import Row, read_rows
from seawall.release import Release, parse_release

if TYPE_CHECKING:
    # What reads a lock takes a tenth of a second to start: only who reads one waits for it.
    from seawall.lock import Lock

CONTENT = "content"
BLOBS = f"{CONTENT}/blobs/sha256"
MANIFESTS = f"{CONTENT}/manifests/sha256"
V2 = "v2"
RELEASES = "releases"
LOCKS = "locks"
INCOMING = ".incoming"
HELD = ".held"
PENDING = "pending.json"
CATALOG = "catalog"
CATALOG_LINK = "_catalog"
PRIVATE = "private"
TOP_LEVEL = frozenset({CONTENT, V2, RELEASES, LOCKS, CATALOG, PRIVATE, INCOMING, HELD})

_IGNORED = frozenset({"lost+found"})


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """Where a manifest lies: its digest and its kind are the name of its file."""

    digest: Digest
    kind: ManifestKind


class Tree:
    """A tree on disk, to read from; nothing here changes it.

    Errors of all methods: :class:`~seawall.errors.TreeError` where the disk refuses to answer.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def existing(cls, root: Path) -> "Tree":
        """Return the tree at *root*.

        Raises:
            TreeError: there is none.
        """
        tree = cls.possible(root)
        if not (root / V2).is_dir():
            raise TreeError(str(root), "is not a tree", "give the folder that seawall sync filled")
        return tree

    @classmethod
    def possible(cls, root: Path) -> "Tree":
        """Return the tree at *root*, which may not be there yet.

        Raises:
            TreeError: something else is at *root* that must not be mixed with a tree.
        """
        try:
            present = set(os.listdir(root)) - _IGNORED  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            present = set()
        except OSError as error:
            raise TreeError(str(root), f"cannot be read ({error.strerror})", "give a folder that can be") from None
        if not present <= TOP_LEVEL and not {CONTENT, V2} <= present:
            raise TreeError(
                str(root),
                f"is not a tree and not empty (it holds {min(present - TOP_LEVEL)!r})",
                "give an empty folder",
            )
        return cls(root)

    # Where things lie.

    def blob_path(self, digest: Digest) -> Path:
        """Return where the blob *digest* lies or would lie."""
        return self.root / BLOBS / digest.hex[:2] / digest.hex

    def manifest_path(self, manifest: StoredManifest) -> Path:
        """Return where *manifest* lies or would lie."""
        hex_ = manifest.digest.hex
        return self.root / MANIFESTS / hex_[:2] / f"{hex_}.{manifest.kind}"

    def repository_path(self, repository: str) -> Path:
        """Return the folder of *repository*."""
        return self.root / V2 / repository

    def blob_link(self, repository: str, digest: Digest) -> Path:
        """Return the link through which *repository* serves the blob *digest*."""
        return self.repository_path(repository) / "blobs" / str(digest)

    def manifest_link(self, repository: str, target: str) -> Path:
        """Return the link of *repository* for *target*, a tag or a digest as text."""
        return self.repository_path(repository) / "manifests" / target

    def tag_list_path(self, repository: str) -> Path:
        """Return the folder with the tag list of *repository*."""
        return self.repository_path(repository) / "tags"

    @property
    def catalog_path(self) -> Path:
        """The folder with the list of repositories."""
        return self.root / CATALOG

    def referrers_path(self, repository: str, subject: Digest) -> Path:
        """Return the file with the list of what in *repository* refers to the manifest *subject*."""
        return self.repository_path(repository) / "referrers" / str(subject)

    # What is there.

    def linked_manifest(self, repository: str, target: str) -> StoredManifest | None:
        """Return what the link for *target* (a tag or a digest as text) points at; None where there is no such link.

        Only the link is read, not what it points at.
        """
        link = self.manifest_link(repository, target)
        try:
            to = link.readlink()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return None
        except OSError as error:
            raise _unreadable(link, error) from None
        return parse_manifest_name(to.name)

    def named_manifest(self, reference: Reference) -> StoredManifest:
        """Return what *reference* names.

        Raises:
            InputError: the tree has no such reference.
        """
        stored = self.linked_manifest(reference.repository, reference.target)
        if stored is None:
            raise InputError(str(reference), f"is not in {self.root}", f"see seawall ls {self.root}")
        return stored

    def digests(self, tags: Iterable[Reference]) -> dict[Reference, Digest]:
        """Return what each of *tags* points at now; without those that are missing, or whose link is not the tree's.

        A reference by digest points at that digest, if its repository serves it.
        """
        return {
            reference: stored.digest
            for reference in tags
            if (stored := self.linked_manifest(reference.repository, reference.target)) is not None
        }

    def referrers(self, repository: str, subject: Digest) -> tuple[Row, ...]:
        """Return what the list of *repository* names that refers to *subject*; nothing where there is no list.

        Raises:
            TreeError: the list is damaged.
        """
        path = self.referrers_path(repository, subject)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _unreadable(path, error) from None
        rows = read_rows(content)
        if rows is None:
            raise TreeError(
                str(path), "is not a list of referrers", f"run seawall prune {self.root}, which makes it anew"
            )
        return rows

    def links_blob(self, repository: str, digest: Digest) -> bool:
        """Return whether *repository* serves the blob *digest*."""
        return self.blob_link(repository, digest).is_symlink()

    def blob_size(self, digest: Digest) -> int | None:
        """Return the size in bytes of the blob *digest*, or None where the tree has it not."""
        try:
            return self.blob_path(digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self.blob_path(digest), error) from None

    def stored_manifest(self, digest: Digest) -> StoredManifest | None:
        """Return the manifest *digest* as it lies under ``content/``, or None where the tree has it not."""
        for kind in MANIFEST_KINDS:
            stored = StoredManifest(digest, kind)
            if self.manifest_path(stored).is_file():
                return stored
        return None

    def read_manifest(self, stored: StoredManifest) -> Manifest:
        """Return the manifest *stored*.

        Raises:
            TreeError: its file is missing, or is not what its name says.
        """
        path = self.manifest_path(stored)
        manifest = parse_manifest(self.read(path), str(path), stored.kind.media_type)
        if manifest.digest != stored.digest:
            raise TreeError(
                str(path), "does not hold what its name says", "run seawall verify, and sync again without that file"
            )
        return manifest

    def read(self, path: Path) -> bytes:
        """Return the bytes of the small file *path* of the tree."""
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from None

    def repositories(self) -> Iterator[str]:
        """Yield every repository in order of its name."""
        top = self.root / V2
        for folder, names, _ in os.walk(top, onerror=_raise_unreadable):
            # A run that was killed may have come no further than the links of the blobs.
            if "manifests" in names or "blobs" in names:
                yield str(Path(folder).relative_to(top))
            names[:] = sorted(set(names) - {"manifests", "blobs", "tags", "referrers"})

    def targets(self, repository: str) -> tuple[list[str], list[Digest]]:
        """Return the tags of *repository*, sorted, and the digests of the manifests that it serves, sorted.

        The tags of the tree's own lists of referrers are not in it: they follow from the digests.
        """
        folder = self.repository_path(repository) / "manifests"
        try:
            names = os.listdir(folder)  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise _unreadable(folder, error) from None
        digests = [Digest.parse(name, str(folder / name)) for name in names if ":" in name]
        tags = sorted(name for name in names if ":" not in name and listed_subject(name) is None)
        return tags, sorted(digests)

    def references(self) -> Iterator[tuple[Reference, StoredManifest | None]]:
        """Yield every tag of the tree in order, with what it points at (None for a link that is not the tree's)."""
        for repository in self.repositories():
            for tag in self.targets(repository)[0]:
                yield Reference(repository, tag), self.linked_manifest(repository, tag)

    # The record.

    def applied_locks(self) -> "dict[str, Lock]":
        """Return each lock by its name, as it was last applied."""
        names = sorted(path.name.removesuffix(".lock") for path in (self.root / LOCKS).glob("*.lock"))
        return {name: lock for name in names if (lock := self.applied_lock(name)) is not None}

    def applied_lock(self, name: str) -> "Lock | None":
        """Return the lock *name* as it was last applied, or None where it never was."""
        from seawall.lock import parse_lock  # noqa: PLC0415 - as above

        path = self.root / LOCKS / f"{name}.lock"
        try:
            return parse_lock(self.read(path), str(path)) if path.exists() else None
        except InputError as error:
            raise TreeError(error.where, error.what, "restore it from a copy of the tree") from None

    def pending_release(self) -> Release | None:
        """Return the release that an interrupted run left half done, if there is one."""
        path = self.root / RELEASES / PENDING
        return parse_release(self.read(path).decode(errors="replace"), str(path)) if path.exists() else None

    def read_release(self, number: int) -> Release:
        """Return the record of release *number*."""
        path = self.root / RELEASES / f"{number}.json"
        return parse_release(self.read(path).decode(errors="replace"), str(path))

    def releases(self) -> list[int]:
        """Return the numbers of all releases, in order."""
        return sorted(int(path.stem) for path in (self.root / RELEASES).glob("*.json") if path.stem.isdigit())

    def last_release(self) -> int:
        """Return the number of the newest release, 0 in a new tree."""
        return max(self.releases(), default=0)


def parse_manifest_name(name: str) -> StoredManifest | None:
    """Return what a file name ``<hex>.<kind>`` under ``content/manifests`` stands for, or None."""
    hex_, _, kind = name.partition(".")
    if kind not in BY_KIND:
        return None
    try:
        return StoredManifest(Digest.parse(f"sha256:{hex_}"), BY_KIND[kind])
    except InputError:
        return None


def relative_target(link: Path, to: Path) -> PurePosixPath:
    """Return the relative target that makes *link* point at *to*, both below one tree."""
    return PurePosixPath(os.path.relpath(to, link.parent))


def _unreadable(path: Path, error: OSError) -> TreeError:
    return TreeError(str(path), f"cannot be read ({error.strerror})", "check the disk and the permissions")


def _raise_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise _unreadable(Path(str(error.filename)), error) from None
