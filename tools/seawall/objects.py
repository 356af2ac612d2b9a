"""What a tree serves, as objects: a path and what is behind it, for places that know neither links nor maps."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from seawall.cache_control import CONTENT_CACHE, LIVE_CACHE
from seawall.digest import Digest
from seawall.errors import TreeError
from seawall.listing import Shape
from seawall.lists import is_private, private_prefixes
from seawall.media_type import OCI_INDEX
from seawall.publication import JSON, OCTETS
from seawall.reference import listed_subject
from seawall.tree import CATALOG_LINK, V2, Tree


class Part(StrEnum):
    """What an object is, in the order in which objects are published: content first, pointers last."""

    BLOB = "blob"
    MANIFEST = "manifest"
    REFERRERS = "referrers"
    TAGS = "tags"
    CATALOG = "catalog"
    TAG = "tag"


@dataclass(frozen=True, slots=True)
class Object:
    """One path of a tree, and what is behind it."""

    key: str
    """Its path, which begins with ``v2/``."""
    part: Part
    media_type: str
    size: int
    """Bytes."""
    digest: Digest | None
    """Of its bytes; None for a list, whose bytes follow from the names in it."""
    path: Path | None = None
    """The file with its bytes, without a link; None where they are in *content*."""
    content: bytes = b""

    @property
    def repository(self) -> str:
        """The repository that it belongs to, empty for the catalog."""
        return self.key.removeprefix(f"{V2}/").rpartition("/")[0].rpartition("/")[0]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.key.rpartition("/")[2]

    @property
    def is_fixed(self) -> bool:
        """True where its path names its bytes, so that it may be kept for good."""
        return self.part in {Part.BLOB, Part.MANIFEST}

    @property
    def headers(self) -> dict[str, str]:
        """What an answer with it has to say, beside its length."""
        said = {"Content-Type": self.media_type}
        # What the referrers API answers is no manifest that could be asked for by that digest.
        if self.digest is not None and f"/{Part.REFERRERS}/" not in self.key:
            said["Docker-Content-Digest"] = str(self.digest)
        said["Cache-Control"] = CONTENT_CACHE if self.is_fixed else LIVE_CACHE
        return said


def objects_of(tree: Tree) -> tuple[Object, ...]:
    """Return all that *tree* serves to everybody, in the order in which it is published.

    What the tree's file ``private`` names is left out. A list is one object, however many pages the tree has of it.

    Raises:
        TreeError: the tree is damaged, or the disk refuses to answer.
    """
    private = private_prefixes(tree)
    found: list[Object] = []
    listed: list[str] = []
    for repository in tree.repositories():
        if is_private(repository, private):
            continue
        found += _blobs(tree, repository)
        found += _manifests(tree, repository)
        found += _referrers(tree, repository)
        tags = tree.targets(repository)[0]
        if tags:
            listed.append(repository)
            key = f"{V2}/{repository}/tags/list"
            found.append(_list(key, Part.TAGS, Shape.of_tags(repository).page(tags)))
    found.append(_list(f"{V2}/{CATALOG_LINK}", Part.CATALOG, Shape.of_repositories().page(sorted(listed))))
    order = list(Part)
    return tuple(sorted(found, key=lambda one: (order.index(one.part), one.key)))


def _blobs(tree: Tree, repository: str) -> Iterator[Object]:
    for name in _names(tree.repository_path(repository) / "blobs"):
        digest = Digest.parse(name, f"{repository}/blobs/{name}")
        size = tree.blob_size(digest)
        if size is None:
            raise _missing(tree, tree.blob_path(digest))
        yield Object(f"{V2}/{repository}/blobs/{digest}", Part.BLOB, OCTETS, size, digest, tree.blob_path(digest))


def _manifests(tree: Tree, repository: str) -> Iterator[Object]:
    for name in _names(tree.repository_path(repository) / "manifests"):
        stored = tree.linked_manifest(repository, name)
        if stored is None:
            raise _missing(tree, tree.manifest_link(repository, name))
        part = Part.MANIFEST if ":" in name else Part.REFERRERS if listed_subject(name) else Part.TAG
        path = tree.manifest_path(stored)
        media_type = stored.kind.media_type
        yield Object(f"{V2}/{repository}/manifests/{name}", part, media_type, _size(tree, path), stored.digest, path)


def _referrers(tree: Tree, repository: str) -> Iterator[Object]:
    folder = tree.repository_path(repository) / "referrers"
    for name in _names(folder):
        subject = Digest.parse(name, f"{repository}/referrers/{name}")
        path = tree.referrers_path(repository, subject)
        digest = Digest.of(tree.read(path))
        key = f"{V2}/{repository}/referrers/{subject}"
        yield Object(key, Part.REFERRERS, OCI_INDEX.media_type, _size(tree, path), digest, path)


def _list(key: str, part: Part, text: str) -> Object:
    content = text.encode()
    return Object(key, part, JSON, len(content), None, None, content)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TreeError(
            str(folder), f"cannot be read ({error.strerror})", "check the disk and its permissions"
        ) from None


def _size(tree: Tree, path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        raise _missing(tree, path) from None


def _missing(tree: Tree, path: Path) -> TreeError:
    return TreeError(str(path), "is missing, or leads to nothing", f"run seawall verify {tree.root} --repair")
