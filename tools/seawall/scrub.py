"""Scrub: read a whole tree again and say what is not as the tree promises."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from seawall.digest import Digest
from seawall.errors import InputError, SeawallError, SourceError, TreeError
from seawall.listing import FIRST_PAGE, page_names
from seawall.lists import Mismatch, catalog_mismatches, tag_list_mismatches
from seawall.manifest import Manifest, parse_manifest
from seawall.progress import Progress
from seawall.reference import Reference, check_repository, check_tag, list_tag, listed_subject
from seawall.referrer_list import make_list, row_of
from seawall.release import Release, parse_release, standing
from seawall.tree import (
    BLOBS,
    CATALOG_LINK,
    CONTENT,
    LOCKS,
    MANIFESTS,
    PENDING,
    RELEASES,
    TOP_LEVEL,
    V2,
    StoredManifest,
    Tree,
    parse_manifest_name,
    relative_target,
)

_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something in a tree that is not as the tree promises."""

    kind: str
    """``wrong bytes``, ``wrong time``, ``missing``, ``dangling``, ``foreign``, ``unnamed`` or ``stale``."""
    path: str
    """Relative to the tree."""
    what: str


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What a scrub read and found."""

    findings: tuple[Finding, ...]
    blobs: int
    manifests: int
    repositories: int
    tags: int
    size: int
    """Bytes of content that were hashed."""
    whole_blobs: frozenset[Digest] = field(default=frozenset(), repr=False)
    """The blobs whose bytes are what their names say."""
    broken_blobs: frozenset[Digest] = field(default=frozenset(), repr=False)
    """Those whose bytes are not."""
    whole_manifests: Mapping[Digest, Manifest] = field(default_factory=dict, repr=False)
    broken_manifests: frozenset[StoredManifest] = field(default=frozenset(), repr=False)

    @property
    def holds(self) -> bool:
        """Whether the tree is all that it promises."""
        return not self.findings


def scrub(tree: Tree, progress: Progress, jobs: int, known: Collection[Digest] = frozenset()) -> ScrubReport:
    """Hash every content file of *tree*, but for the blobs *known* to be whole, and follow every link.

    While a sync runs, or after one was killed, it finds what that has not finished yet: blobs that no manifest
    names so far, and tag lists that are ahead of their tags.

    Raises:
        TreeError: the disk refuses to answer.
    """
    blobs, manifests, findings = _content(tree)
    unread = [digest for digest, _ in blobs if digest not in known]
    if unread:
        progress.expect(sum(size for digest, size in blobs if digest not in known), f"{len(unread)} blobs")
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda digest: _hash(tree.blob_path(digest), progress.advance), unread)
        broken = {digest: hex_ for digest, hex_ in zip(unread, found, strict=True) if hex_ != digest.hex}
    for digest, _ in blobs:
        path = tree.blob_path(digest)
        if digest in broken:
            findings.append(Finding("wrong bytes", _relative(tree, path), f"hashes to sha256:{broken[digest]}"))
        else:
            findings += _time(tree, path, digest)
    read: dict[Digest, Manifest] = {}
    for stored in manifests:
        path = tree.manifest_path(stored)
        content = tree.read(path)
        try:
            manifest = parse_manifest(content, str(path), stored.kind.media_type)
        except SourceError as error:
            findings.append(Finding("wrong bytes", _relative(tree, path), error.what))
            continue
        if manifest.digest != stored.digest:
            findings.append(Finding("wrong bytes", _relative(tree, path), f"hashes to {manifest.digest}"))
        elif manifest.kind != stored.kind:
            findings.append(Finding("wrong bytes", _relative(tree, path), f"is of kind {manifest.kind}"))
        else:
            read[stored.digest] = manifest
            findings += _time(tree, path, stored.digest)
    sizes = dict(blobs)
    tags = 0
    repositories = list(tree.repositories())
    for repository in repositories:
        count, more = _repository(tree, repository, read, sizes)
        tags += count
        findings += more
    findings += _list_findings(tree, tree.catalog_path, catalog_mismatches(tree))
    findings += chain(_record(tree), _lost_tags(tree), _lost_catalog(tree), _foreign_in_v2(tree, set(repositories)))
    return ScrubReport(
        findings=tuple(sorted(set(findings))),
        blobs=len(blobs),
        manifests=len(manifests),
        repositories=len(repositories),
        tags=tags,
        size=sum(sizes.values()) + sum(len(manifest.content) for manifest in read.values()),
        whole_blobs=frozenset(sizes.keys() - broken.keys()),
        broken_blobs=frozenset(broken),
        whole_manifests=read,
        broken_manifests=frozenset(
            stored for stored in manifests if stored.digest not in read or read[stored.digest].kind != stored.kind
        ),
    )


def _content(tree: Tree) -> tuple[list[tuple[Digest, int]], list[StoredManifest], list[Finding]]:
    """Return what lies under ``content/``: blobs with their sizes, manifests, and what does not belong there."""
    findings: list[Finding] = [
        Finding("foreign", name, "is not part of a tree")
        for name in os.listdir(tree.root)  # noqa: PTH208 - names, not paths
        if name not in TOP_LEVEL | {"lost+found"}
    ]
    blobs: list[tuple[Digest, int]] = []
    manifests: list[StoredManifest] = []
    for path in _files(tree.root / CONTENT):
        relative = path.relative_to(tree.root)
        shard = str(relative.parent.parent)
        blob = _blob_name(path.name) if shard == BLOBS else None
        manifest = parse_manifest_name(path.name) if shard == MANIFESTS else None
        if path.is_symlink() or path.parent.name != path.name[:2] or not (blob or manifest):
            findings.append(Finding("foreign", str(relative), "is not part of a tree"))
        elif blob:
            blobs.append((blob, path.stat().st_size))
        elif manifest:
            manifests.append(manifest)
    return blobs, manifests, findings


def _repository(
    tree: Tree, repository: str, manifests: dict[Digest, Manifest], sizes: dict[Digest, int]
) -> tuple[int, list[Finding]]:
    """Check one repository; return how many tags it has, and what is wrong."""
    findings: list[Finding] = []
    folder = tree.repository_path(repository)
    named: set[Digest] = set()
    tags: list[str] = []
    list_tags: dict[Digest, Digest] = {}
    referring: dict[Digest, list[Manifest]] = {}
    manifest_links = folder / "manifests"
    for link in sorted(manifest_links.iterdir()) if manifest_links.is_dir() else ():
        stored, finding = check_manifest_link(tree, link, repository)
        if finding:
            findings.append(finding)
        if stored is None:
            continue
        subject = listed_subject(link.name)
        if subject is not None:
            list_tags[subject] = stored.digest
        elif ":" not in link.name:
            tags.append(link.name)
            if tree.linked_manifest(repository, str(stored.digest)) is None:
                findings.append(
                    Finding("missing", _relative(tree, link), f"{stored.digest} is not served by its digest")
                )
        manifest = manifests.get(stored.digest)
        if manifest is not None:
            named |= {blob.digest for blob in manifest.blobs}
            findings += _needs(tree, repository, link, manifest, sizes)
            if ":" in link.name and manifest.subject is not None:
                referring.setdefault(manifest.subject, []).append(manifest)
    findings += _referrer_lists(tree, repository, referring, list_tags)
    findings += _blob_links(tree, repository, named)
    listed = tree.tag_list_path(repository)
    first = listed / FIRST_PAGE
    if tags and not first.is_file():
        findings.append(Finding("missing", _relative(tree, first), "there are tags, but no list of them"))
    elif first.is_file() and not first.is_symlink():
        # An earlier version's list is one file.
        what = "has no pages" if _lists(tree.read(first), tags) else "does not list what there is"
        findings.append(Finding("stale", _relative(tree, first), f"{what}: seawall lists {tree.root} makes it right"))
    elif first.is_file():
        findings += _list_findings(tree, listed, tag_list_mismatches(tree, repository, tags))
    return len(tags), findings


def _list_findings(tree: Tree, folder: Path, mismatches: Iterable[Mismatch]) -> Iterator[Finding]:
    for mismatch in mismatches:
        relative = _relative(tree, folder / mismatch.path)
        what = "is not part of the list" if mismatch.kind == "foreign" else "does not list what there is"
        yield Finding(mismatch.kind, relative, f"{what}: seawall lists {tree.root} makes it right")


def check_manifest_link(tree: Tree, link: Path, repository: str) -> tuple[StoredManifest | None, Finding | None]:
    """Return what *link* points at, None for one that is not the tree's, and what is wrong with it."""
    relative = _relative(tree, link)
    if not link.is_symlink():
        return None, Finding("foreign", relative, "is not a link")
    stored = parse_manifest_name(link.readlink().name)
    if stored is None or Path(relative_target(link, tree.manifest_path(stored))) != link.readlink():
        return None, Finding("foreign", relative, f"points at {link.readlink()}")
    try:
        is_tag = ":" not in link.name
        right = bool(check_tag(link.name, repository)) if is_tag else Digest.parse(link.name) == stored.digest
    except InputError:
        right = False
    if not right:
        return None, Finding("foreign", relative, f"points at {stored.digest}")
    if not link.exists():
        return stored, Finding("dangling", relative, f"points at {stored.digest}, which is missing")
    return stored, None


def _needs(tree: Tree, repository: str, link: Path, manifest: Manifest, sizes: dict[Digest, int]) -> Iterator[Finding]:
    """Yield what *manifest* needs and *repository* does not serve."""
    if ":" not in link.name:
        return
    relative = _relative(tree, link)
    for child in manifest.children:
        if tree.linked_manifest(repository, str(child.digest)) is None:
            yield Finding("missing", relative, f"names the manifest {child.digest}, which {repository} does not serve")
    for blob in manifest.blobs:
        if not tree.links_blob(repository, blob.digest):
            yield Finding("missing", relative, f"names the blob {blob.digest}, which {repository} does not serve")
        elif sizes.get(blob.digest, blob.size) != blob.size:
            yield Finding("wrong bytes", relative, f"gives {blob.digest} another size than it has")


def _blob_links(tree: Tree, repository: str, named: set[Digest]) -> Iterator[Finding]:
    folder = tree.repository_path(repository) / "blobs"
    for link in sorted(folder.iterdir()) if folder.is_dir() else ():
        relative = _relative(tree, link)
        digest = _blob_name(link.name.removeprefix("sha256:")) if link.name.startswith("sha256:") else None
        if digest is None or not link.is_symlink():
            yield Finding("foreign", relative, "is not part of a tree")
        elif link.readlink() != Path(relative_target(link, tree.blob_path(digest))):
            yield Finding("foreign", relative, f"points at {link.readlink()}")
        elif not link.exists():
            yield Finding("dangling", relative, "its blob is missing")
        elif digest not in named:
            yield Finding("unnamed", relative, f"no manifest of {repository} names it")


def _referrer_lists(
    tree: Tree, repository: str, referring: dict[Digest, list[Manifest]], list_tags: dict[Digest, Digest]
) -> Iterator[Finding]:
    """Yield what is wrong with the lists of referrers: each is to name exactly what refers to its subject."""
    folder = tree.repository_path(repository) / "referrers"
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for subject in sorted(referring):
        path = tree.referrers_path(repository, subject)
        wanted = make_list(repository, subject, map(row_of, referring[subject])).index
        served = tree.linked_manifest(repository, str(wanted.digest))
        if not path.is_file():
            yield Finding("stale", _relative(tree, path), "there is no list of what refers to it")
        elif tree.read(path) != wanted.content:
            yield Finding("stale", _relative(tree, path), "does not list what refers to it")
        if list_tags.get(subject) != wanted.digest or served is None:
            link = tree.manifest_link(repository, list_tag(subject))
            yield Finding("stale", _relative(tree, link), f"is not the list of what refers to {subject}")
    for name in sorted(names - {str(subject) for subject in referring}):
        yield Finding("foreign", _relative(tree, folder / name), "nothing refers to it")
    for subject in sorted(list_tags.keys() - referring.keys()):
        yield Finding("foreign", _relative(tree, tree.manifest_link(repository, list_tag(subject))), "lists nothing")


def _record(tree: Tree) -> Iterator[Finding]:
    """Yield what is wrong with locks and releases."""
    for path in _files(tree.root / RELEASES):
        relative = _relative(tree, path)
        if path.name == PENDING:
            continue  # A run that is under way, or was interrupted: the next one finishes it.
        try:
            release = parse_release(tree.read(path).decode(errors="replace"), str(path))
            if path.name != f"{release.number}.json":
                yield Finding("foreign", relative, f"records release {release.number}")
        except TreeError as error:
            yield Finding("foreign", relative, error.what)
    try:
        tree.applied_locks()
    except SeawallError as error:
        yield Finding("wrong bytes", LOCKS, error.what)


def recorded_tags(tree: Tree) -> dict[Reference, tuple[int, Digest]]:
    """Return every tag that *tree* has by its releases: the one that moved it last, and where to.

    Only what is recorded without a gap counts: what a lost record moved or withdrew nobody knows. Nor does what a
    release under way is about to move.
    """
    releases: list[Release] = []
    for number in reversed(tree.releases()):
        try:
            release = tree.read_release(number)
        except TreeError:
            break
        if release.number != number or (releases and number != releases[-1].number - 1):
            break
        releases.append(release)
    try:
        pending = tree.pending_release()
    except TreeError:
        return {}
    moving = {move.reference for move in pending.moves} if pending else set()
    return {reference: last for reference, last in standing(releases).items() if reference not in moving}


def _lost_tags(tree: Tree) -> Iterator[Finding]:
    """Yield the tags that there are by the releases, and not in ``v2/``."""
    for reference, (number, digest) in recorded_tags(tree).items():
        link = tree.manifest_link(reference.repository, str(reference.tag))
        if not os.path.lexists(link):
            yield Finding("missing", _relative(tree, link), f"release {number} pointed it at {digest}")


def _lost_catalog(tree: Tree) -> Iterator[Finding]:
    link = tree.root / V2 / CATALOG_LINK
    if tree.catalog_path.exists() and not link.is_symlink():
        yield Finding("missing", _relative(tree, link), "there is a catalog, and nothing leads to it")


def _time(tree: Tree, path: Path, digest: Digest) -> Iterator[Finding]:
    """Yield what is wrong with the modification time of *path*, whose bytes are those of *digest*."""
    if int(path.stat().st_mtime) != digest.mtime:
        yield Finding("wrong time", _relative(tree, path), "its ETag is not that of the same bytes elsewhere")


def _foreign_in_v2(tree: Tree, repositories: set[str]) -> Iterator[Finding]:
    """Yield files below ``v2/`` that are in no repository's place for files."""
    for path in _files(tree.root / V2):
        relative = path.relative_to(tree.root / V2)
        if str(relative) == CATALOG_LINK and path.is_symlink():
            continue
        # What is in a list's folder was looked at with the list.
        places = {*relative.parents} & {Path(repository, "tags") for repository in repositories}
        if relative.parent.name in {"manifests", "blobs", "referrers"} and str(relative.parent.parent) in repositories:
            continue
        if not places:
            yield Finding("foreign", f"{V2}/{relative}", "is not part of a tree")
    for repository in repositories:
        try:
            check_repository(repository, V2)
        except InputError as error:
            yield Finding("foreign", f"{V2}/{repository}", error.what)


def _lists(content: bytes, tags: list[str]) -> bool:
    try:
        return page_names(content.decode(errors="replace")) == tuple(sorted(tags))
    except ValueError:
        return False


def _files(top: Path) -> Iterator[Path]:
    """Yield everything below *top* that is not a folder; links are not followed."""
    for folder, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            yield Path(folder) / name
        for name in names:
            if (Path(folder) / name).is_symlink():
                yield Path(folder) / name


def _blob_name(name: str) -> Digest | None:
    try:
        return Digest.parse(f"sha256:{name}")
    except InputError:
        return None


def _hash(path: Path, advance: Callable[[int], None]) -> str:
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                hasher.update(piece)
                advance(len(piece))
    except OSError as error:
        raise TreeError(str(path), f"cannot be read ({error.strerror})", "check the disk") from None
    return hasher.hexdigest()


def _relative(tree: Tree, path: Path) -> str:
    return str(path.relative_to(tree.root))
