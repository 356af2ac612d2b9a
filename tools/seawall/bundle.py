"""The bundle: one file with what is new in a tree since a release, for a site that no line leads to.

It is a tar in the tree's own layout: ``bundle.json``, which says what it is based on and what it brings, then
``content/manifests/...`` and ``content/blobs/...``. The same tree and release make the same bytes.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, cast

import pydantic

from seawall.digest import Digest
from seawall.errors import InputError, SourceError, TreeError
from seawall.inventory import Inventory, Links, Needs
from seawall.manifest import MANIFEST_MAX_BYTES, Manifest, parse_manifest
from seawall.media_type import BY_KIND
from seawall.progress import Progress
from seawall.prune import mark
from seawall.reference import Reference, check_own_tag, check_repository, check_tag
from seawall.replacement import replacing
from seawall.tree import BLOBS, MANIFESTS, StoredManifest, Tree, parse_manifest_name

_INDEX = "bundle.json"
_INDEX_MAX_BYTES = 64 * 1024 * 1024
_PIECE = 1024 * 1024
_DISTRUST = "do not trust this file; have it made and carried again"


def _parsed(value: object) -> object:
    try:
        return Digest.parse(value) if isinstance(value, str) else value
    except InputError as error:
        raise ValueError(error.what) from error


_Digest = Annotated[Digest, pydantic.BeforeValidator(_parsed), pydantic.PlainSerializer(str)]
_CONFIG = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class BundledManifest(pydantic.BaseModel):
    """A manifest that a repository comes to serve."""

    model_config = _CONFIG

    digest: _Digest
    kind: Literal["oci-manifest", "oci-index", "docker-manifest", "docker-list"]
    size: int = pydantic.Field(ge=1, le=MANIFEST_MAX_BYTES)

    @property
    def stored(self) -> StoredManifest:
        """Where it lies in a tree."""
        return StoredManifest(self.digest, BY_KIND[self.kind])


class BundledBlob(pydantic.BaseModel):
    """A blob that a repository comes to serve."""

    model_config = _CONFIG

    digest: _Digest
    size: int = pydantic.Field(ge=0)


class BundledTag(pydantic.BaseModel):
    """A tag that moved since the release that the bundle is based on."""

    model_config = _CONFIG

    tag: str
    path: tuple[_Digest | None, ...] = pydantic.Field(min_length=2)
    """What it has pointed at: first when the bundle begins (null: nothing), last when it ends."""


class BundledRepository(pydantic.BaseModel):
    """What changes in one repository."""

    model_config = _CONFIG

    repository: str
    manifests: tuple[BundledManifest, ...]
    """All that its moved tags and new referrers need, in the file or in the tree already."""
    blobs: tuple[BundledBlob, ...]
    tags: tuple[BundledTag, ...]


class Bundle(pydantic.BaseModel):
    """What a bundle is based on, and what it brings."""

    model_config = _CONFIG

    version: Literal[1] = 1
    since: int = pydantic.Field(ge=0)
    """The release, of the tree that it was made from, which has to be there already."""
    release: int = pydantic.Field(ge=0)
    """The release that it leads to."""
    contents: int = pydantic.Field(ge=0)
    """How many manifests and blobs follow in the file."""
    base: dict[str, tuple[_Digest, ...]]
    """By repository, what tags named at the release *since* and still do: it has to be there already."""
    repositories: tuple[BundledRepository, ...]


Contents = Callable[[BundledManifest | BundledBlob], Iterator[bytes]]
"""Returns the bytes of a manifest or blob, in pieces."""


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """What goes into a bundle."""

    bundle: Bundle
    manifests: tuple[BundledManifest, ...]
    blobs: tuple[BundledBlob, ...]

    @property
    def size(self) -> int:
        """Bytes of the contents."""
        return sum(row.size for row in self.manifests) + sum(row.size for row in self.blobs)


def plan_bundle(inventory: Inventory, since: int, where: str) -> BundlePlan:
    """Return what is new in the tree of *inventory* since release *since* (0: all of it); *where* names the tree.

    Raises:
        InputError: there was no such release.
        TreeError: a run was interrupted and its release is half done, or the tree is damaged.
    """
    if inventory.pending:
        raise TreeError(where, "holds a release that was interrupted", "run what was interrupted again, then this")
    last = max((record.release.number for record in inventory.records), default=0)
    if not 0 <= since <= last:
        raise InputError(str(since), f"is no release of {where}", f"give one from 0 to {last}: see seawall releases")
    paths: dict[Reference, list[Digest | None]] = {}
    for record in sorted(inventory.records, key=lambda record: record.release.number):
        for move in record.release.moves if record.release.number > since else ():
            path = paths.setdefault(move.reference, [move.before])
            path += [digest for digest in (move.before, move.after) if digest != path[-1]]
    now = {Reference(links.repository, tag): digest for links in inventory.links for tag, digest in links.tags.items()}
    new = {r for record in inventory.records if record.release.number > since for r in record.release.referrers}
    before = {**now, **{reference: path[0] for reference, path in paths.items()}}
    old = (d for record in inventory.records if record.release.number <= since for _, d in record.release.referrers)
    there = _below((*before.values(), *old), inventory)
    there_blobs = {blob for digest in there for blob in inventory.needs[digest].blobs}
    by_name = {links.repository: links for links in inventory.links}
    repositories = tuple(
        _bundled(
            by_name.get(name, Links(name, {}, {}, {})),
            {str(ref.tag): tuple(path) for ref, path in sorted(paths.items(), key=str) if ref.repository == name},
            {digest for repository, digest in new if repository == name},
            inventory,
            where,
        )
        for name in sorted({*(reference.repository for reference in paths), *(name for name, _ in new)})
    )
    manifests = {m.stored: m for r in repositories for m in r.manifests if m.digest not in there}
    blobs = {b.digest: b for r in repositories for b in r.blobs if b.digest not in there_blobs}
    base = {
        links.repository: tuple(sorted({digest for tag, digest in links.tags.items() if _stayed(links, tag, paths)}))
        for links in inventory.links
    }
    return BundlePlan(
        Bundle(
            since=since,
            release=last,
            contents=len(manifests) + len(blobs),
            base={repository: digests for repository, digests in base.items() if digests},
            repositories=repositories,
        ),
        tuple(sorted(manifests.values(), key=lambda row: (row.digest, row.kind))),
        tuple(sorted(blobs.values(), key=lambda row: row.digest)),
    )


def _stayed(links: Links, tag: str, paths: Mapping[Reference, object]) -> bool:
    return Reference(links.repository, tag) not in paths


def _below(roots: Iterable[Digest | None], inventory: Inventory) -> set[Digest]:
    """Return the manifests at and below *roots* that the tree still has."""
    found: set[Digest] = set()
    left = [digest for digest in roots if digest is not None]
    while left:
        digest = left.pop()
        if digest not in found and digest in inventory.needs:
            found.add(digest)
            left += inventory.needs[digest].manifests
    return found


def _bundled(
    links: Links,
    paths: dict[str, tuple[Digest | None, ...]],
    referrers: set[Digest],
    inventory: Inventory,
    where: str,
) -> BundledRepository:
    # What was pruned since is no loss: a referrer goes with what it refers to.
    ends = {path[-1] for path in paths.values()} - {None} | (referrers & links.manifests.keys())
    needed = mark((digest for digest in ends if digest), links.manifests, inventory.needs) & links.manifests.keys()
    blobs = {blob for digest in needed for blob in inventory.needs[digest].blobs}
    lost = sorted((ends - needed) | (blobs - inventory.blobs.keys()), key=str)
    if lost:
        raise TreeError(where, f"lacks {lost[0]}, which {links.repository} needs", f"run seawall verify {where}")
    manifests = tuple(
        BundledManifest.model_validate({"digest": stored.digest, "kind": stored.kind.kind, "size": content.size})
        for stored, content in sorted(inventory.manifests.items(), key=lambda item: item[0].digest)
        if stored.digest in needed
    )
    return BundledRepository(
        repository=links.repository,
        manifests=manifests,
        blobs=tuple(BundledBlob(digest=digest, size=inventory.blobs[digest].size) for digest in sorted(blobs)),
        tags=tuple(BundledTag(tag=tag, path=path) for tag, path in sorted(paths.items())),
    )


def write_bundle(plan: BundlePlan, tree: Tree, file: Path, progress: Progress) -> None:
    """Write *file*, whole or not at all, with every content hashed on its way.

    Raises:
        TreeError: the tree is damaged, or was pruned meanwhile.
        InputError: *file* cannot be written.
    """
    progress.expect(plan.size, f"{len(plan.manifests)} manifests and {len(plan.blobs)} blobs")
    with replacing(file) as beside:
        try:
            stream_bundle(plan, beside, lambda row: _of_tree(tree, row), progress)
        except SourceError as error:
            raise TreeError(str(tree.root / error.where), error.what, "run seawall verify") from None


def stream_bundle(plan: BundlePlan, file: BinaryIO, contents: Contents, progress: Progress) -> None:
    """Write what *plan* says into *file*, which may be a pipe, with every content hashed on its way.

    Args:
        plan: what goes into the bundle.
        file: where to write it.
        contents: returns the bytes of a manifest or blob, piece by piece.
        progress: hears of every byte of contents.

    Raises:
        SourceError: what came is not what the plan names.
        OSError: *file* cannot be written; a BrokenPipeError where nobody reads it any more.
    """
    index = plan.bundle.model_dump_json().encode()
    with tarfile.open(fileobj=file, mode="w|", bufsize=_PIECE, format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_member(_INDEX, len(index), 1), io.BytesIO(index))
        rows: list[BundledManifest | BundledBlob] = [*plan.manifests, *plan.blobs]
        for row in rows:
            name = _member_name(row)
            pieces = _Pieces(contents(row), progress)
            tar.addfile(_member(name, row.size, row.digest.mtime), cast(BinaryIO, pieces))
            if not pieces.is_whole(row.digest):
                raise SourceError(name, "does not hold what its name says", "do not trust where it comes from")


def _member_name(row: BundledManifest | BundledBlob) -> str:
    tree = Tree(Path())
    path = tree.manifest_path(row.stored) if isinstance(row, BundledManifest) else tree.blob_path(row.digest)
    return path.as_posix()


def _of_tree(tree: Tree, row: BundledManifest | BundledBlob) -> Iterator[bytes]:
    path = tree.manifest_path(row.stored) if isinstance(row, BundledManifest) else tree.blob_path(row.digest)
    try:
        with path.open("rb") as content:
            while piece := content.read(_PIECE):
                yield piece
    except OSError as error:
        raise TreeError(str(path), f"cannot be read ({error.strerror})", "run seawall verify") from None


class _Pieces:
    """Pieces read as a file, and hashed; they are as many bytes as tarfile asks for, or the rest is made up."""

    def __init__(self, pieces: Iterator[bytes], progress: Progress) -> None:
        self._pieces = pieces
        self._progress = progress
        self._hasher = hashlib.sha256()
        self._left = b""
        self._is_short = False

    def read(self, size: int) -> bytes:
        """Return *size* bytes."""
        taken = bytearray()
        while len(taken) < size:
            if not self._left:
                self._left = next(self._pieces, b"")
            if not self._left:
                # The member has to be as long as was said; who reads it will find that its digest is wrong.
                self._is_short = True
                return bytes(taken).ljust(size, b"\0")
            part = self._left[: size - len(taken)]
            self._left = self._left[len(part) :]
            self._hasher.update(part)
            taken += part
        self._progress.advance(size)
        return bytes(taken)

    def is_whole(self, digest: Digest) -> bool:
        """Return whether what was read is all there was, and is what *digest* names."""
        is_over = not self._left and not next(self._pieces, b"")
        return is_over and not self._is_short and self._hasher.hexdigest() == digest.hex


def _member(name: str, size: int, mtime: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, mtime, 0o444
    return info


TakeBlob = Callable[[Digest, int, Iterator[bytes]], bool]
"""Takes a blob, given its size in bytes and its pieces, and checks it; or returns False and leaves it alone."""


@dataclass(frozen=True, slots=True)
class CheckedBundle:
    """A bundle of which every byte was read and is what it should be."""

    bundle: Bundle
    manifests: dict[StoredManifest, Manifest]
    """Those in the file."""
    blobs: dict[Digest, int]
    """Those in the file, with their sizes in bytes."""


def check_bundle(file: Path, progress: Progress) -> CheckedBundle:
    """Read all of *file* and check it; nothing is written.

    Raises:
        InputError: it cannot be read.
        SourceError: it is no bundle, or holds what it should not.
    """
    with _opened(file) as tar:
        progress.expect(file.stat().st_size, str(file))
        return _checked(tar, str(file), lambda _: None, lambda blob, _, pieces: _hash(blob, pieces, progress))


def take_bundle(
    stream: BinaryIO, where: str, begin: Callable[[Bundle], None], take: TakeBlob, progress: Progress
) -> CheckedBundle:
    """Read a bundle from *stream* as it comes, check it, and let each blob be taken; the stream is read to its end.

    Args:
        stream: need not be a file; a pipe will do.
        where: names it in errors.
        begin: called with what the bundle says of itself, before the first content.
        take: called for each blob; it need not read it, which then is only checked.
        progress: hears of the bytes of blobs that are only checked.

    Raises:
        InputError: it cannot be read.
        SourceError: it is no bundle, or holds what it should not; *take* may have got other blobs before.
    """

    def checked(digest: Digest, size: int, pieces: Iterator[bytes]) -> None:
        if not take(digest, size, pieces):
            _hash(digest, pieces, progress)

    with _reading(where), tarfile.open(fileobj=cast(BinaryIO, _Forward(stream)), mode="r:") as tar:
        found = _checked(tar, where, begin, checked)
        # What follows the end of the tar is padding; who writes it should not find the pipe closed.
        while stream.read(_PIECE):
            continue
        return found


def _checked(
    tar: tarfile.TarFile,
    where: str,
    begin: Callable[[Bundle], None],
    take: Callable[[Digest, int, Iterator[bytes]], None],
) -> CheckedBundle:
    bundle = _read_index(tar, where)
    begin(bundle)
    sizes = {row.digest: row.size for own in bundle.repositories for row in own.blobs}
    listed = {row.stored: row.size for own in bundle.repositories for row in own.manifests}
    manifests: dict[StoredManifest, Manifest] = {}
    blobs: dict[Digest, int] = {}
    for info in tar:
        if info.name == _INDEX and info.offset == 0:
            continue
        what = _content(info)
        if what is None or what in manifests or what in blobs:
            raise SourceError(where, f"holds {info.name[:200]!r}, which is no part of a bundle", _DISTRUST)
        size = listed.get(what) if isinstance(what, StoredManifest) else sizes.get(what)
        if size != info.size:
            raise SourceError(where, f"holds {info.name} of {info.size} bytes, not the {size} listed", _DISTRUST)
        if isinstance(what, StoredManifest):
            content = b"".join(_pieces(tar, info))
            manifests[what] = _manifest(content, what, f"{where}: {info.name}")
        else:
            try:
                take(what, info.size, _pieces(tar, info))
            except _OtherBytesError:
                raise SourceError(f"{where}: {info.name}", "holds other bytes", _DISTRUST) from None
            blobs[what] = info.size
    if len(manifests) + len(blobs) != bundle.contents:
        found = f"holds {len(manifests) + len(blobs)} of {bundle.contents} manifests and blobs"
        raise SourceError(where, found, "have it carried again: it was cut or damaged on the way")
    return CheckedBundle(bundle, manifests, blobs)


class _OtherBytesError(Exception):
    """A blob is not what its name says."""


def _hash(digest: Digest, pieces: Iterator[bytes], progress: Progress) -> None:
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
        progress.advance(len(piece))
    if hasher.hexdigest() != digest.hex:
        raise _OtherBytesError


def read_blobs(file: Path, wanted: set[Digest]) -> Iterator[tuple[Digest, int, Iterator[bytes]]]:
    """Yield each of the *wanted* blobs of *file* with its size and its bytes, which are to be read before the next.

    Raises:
        SourceError: it has changed since it was checked.
    """
    left = set(wanted)
    with _opened(file) as tar:
        for info in tar:
            what = _content(info)
            if isinstance(what, Digest) and what in left:
                left.remove(what)
                yield what, info.size, _pieces(tar, info)
    if left:
        raise SourceError(str(file), f"no longer holds {min(left)}", "leave it alone while it is applied")


def whole(own: BundledRepository, manifests: dict[Digest, Manifest], where: str) -> list[Manifest]:
    """Return the manifests of *own*, each after those that it lists.

    Args:
        own: the repository.
        manifests: every manifest that it lists.
        where: the bundle's file, for errors.

    Raises:
        SourceError: it does not list all that they need, or points a tag at what it does not list.
    """
    blobs = {row.digest: row.size for row in own.blobs}
    listed = {row.digest for row in own.manifests}
    lost = {tag.path[-1] for tag in own.tags} - listed - {None}
    lost |= {child.digest for digest in listed for child in manifests[digest].children} - listed
    lost |= {b.digest for digest in listed for b in manifests[digest].blobs if blobs.get(b.digest) != b.size}
    named = {blob for digest in listed for blob in Needs.of(manifests[digest]).blobs}
    if lost:
        raise SourceError(where, f"does not list {min(map(str, lost))}, which {own.repository} needs", _DISTRUST)
    if blobs.keys() - named:
        raise SourceError(where, f"lists {min(blobs.keys() - named)}, which no manifest names", _DISTRUST)
    order = TopologicalSorter({d: sorted(child.digest for child in manifests[d].children) for d in sorted(listed)})
    try:
        return [manifests[digest] for digest in order.static_order()]
    except CycleError:
        raise SourceError(where, f"has indexes in {own.repository} that list each other", _DISTRUST) from None


def _read_index(tar: tarfile.TarFile, where: str) -> Bundle:
    info = tar.next()
    if info is None or info.name != _INDEX or not _is_plain(info) or info.size > _INDEX_MAX_BYTES:
        raise SourceError(where, f"is no bundle: {_INDEX} is not what comes first", "give what seawall bundle wrote")
    try:
        bundle = Bundle.model_validate_json(b"".join(_pieces(tar, info)))
        for repository in bundle.base:
            check_repository(repository, _INDEX)
        for own in bundle.repositories:
            check_repository(own.repository, _INDEX)
            for tag in own.tags:
                check_own_tag(Reference(own.repository, check_tag(tag.tag, _INDEX)))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise SourceError(f"{where}: {_INDEX}", what, _DISTRUST) from None
    except InputError as error:
        raise SourceError(f"{where}: {_INDEX}", error.what, _DISTRUST) from None
    names = [own.repository for own in bundle.repositories]
    if len(set(names)) != len(names):
        raise SourceError(f"{where}: {_INDEX}", "names a repository twice", _DISTRUST)
    return bundle


def _manifest(content: bytes, stored: StoredManifest, where: str) -> Manifest:
    manifest = parse_manifest(content, where, stored.kind.media_type)
    if (manifest.digest, manifest.kind) != (stored.digest, stored.kind):
        raise SourceError(where, f"holds {manifest.digest}, of kind {manifest.kind}", _DISTRUST)
    return manifest


def _content(info: tarfile.TarInfo) -> StoredManifest | Digest | None:
    """Return what the member *info* holds, or None where it is not exactly at a place of the tree's layout."""
    folder, _, name = info.name.rpartition("/")
    if not _is_plain(info):
        return None
    if folder == f"{MANIFESTS}/{name[:2]}":
        return parse_manifest_name(name)
    try:
        return Digest.parse(f"sha256:{name}") if folder == f"{BLOBS}/{name[:2]}" else None
    except InputError:
        return None


def _is_plain(info: tarfile.TarInfo) -> bool:
    # No links, devices or holes; nothing is ever written where a member's name says.
    return info.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and info.sparse is None


def _pieces(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    content = tar.extractfile(info)
    left = info.size
    while content is not None and left:
        try:
            piece = content.read(min(left, _PIECE))
        except tarfile.TarError:
            piece = b""
        if not piece:
            raise SourceError(info.name, "ends early in the bundle", "have it carried again: it was cut on the way")
        left -= len(piece)
        yield piece


@dataclass
class _Bounded:
    """A file of which nobody reads much at once: a header that claims to be huge does not fill the memory."""

    file: BinaryIO

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 4 * _PIECE:
            raise tarfile.ReadError("a header is too large")
        return self.file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()


@dataclass
class _Forward:
    """A pipe, as tarfile reads a file: it only ever seeks forward, and asks where it is."""

    stream: BinaryIO
    place: int = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 4 * _PIECE:
            raise tarfile.ReadError("a header is too large")
        taken = bytearray()
        while len(taken) < size and (piece := self.stream.read(size - len(taken))):
            taken += piece
        self.place += len(taken)
        return bytes(taken)

    def seek(self, place: int) -> int:
        while self.place < place and self.read(min(place - self.place, _PIECE)):
            continue
        if self.place > place:
            raise tarfile.ReadError("a header leads back")
        return self.place

    def tell(self) -> int:
        return self.place


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    with _reading(str(file)):
        if not file.is_file():
            raise InputError(str(file), "is not a file", "give what seawall bundle wrote")
        with file.open("rb") as opened, tarfile.open(fileobj=cast(BinaryIO, _Bounded(opened)), mode="r:") as tar:
            yield tar


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError, OverflowError) as error:
        # The last two are what tarfile makes of numbers in headers that are none.
        raise SourceError(where, f"is no whole bundle ({error})", "give what seawall bundle wrote") from None
    except OSError as error:
        raise InputError(where, f"cannot be read ({error.strerror})", "give a readable file") from None
