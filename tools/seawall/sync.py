"""Sync: make a tree serve what a lock says. Reads first, then plans, then writes."""

import contextlib
import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from seawall.digest import Digest
from seawall.errors import CredentialsError, InputError, NotFoundError, SourceError, TransientError
from seawall.lists import stale_lists
from seawall.lock import Lock, LockedImage
from seawall.manifest import Descriptor, Manifest, parse_manifest
from seawall.mirrors import Mirror, places
from seawall.plan import BlobFetch, Plan, TreeState, make_plan
from seawall.progress import Progress
from seawall.referrer_list import Row
from seawall.releasing import Change, announce, make_release
from seawall.source import DEFAULT_JOBS, Source
from seawall.sources import Sources
from seawall.subset import parse_platforms, subset
from seawall.tree import Tree
from seawall.writer import TreeWriter

_TRIES = 3
_PAUSE = 1.0
"""Seconds to wait at most before the first new try; later ones wait longer."""
_WORTH_ANOTHER_TRY = 16 * 1024 * 1024
"""Bytes that a try has to bring in order not to count; it bounds how long a source can keep us."""
INDEX_DEPTH = 4
"""How deep an index may list indexes; the deepest seen in the field is 2."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sync did, or with a dry run would do."""

    plan: Plan
    release: int | None
    """The number of the release that was made; None where no tag moved, or for a dry run."""
    requests: int
    """Requests that the sources were asked over the network."""

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return not self.plan.is_empty


def prepare(lock: Lock, tree: Tree, sources: Sources, jobs: int = DEFAULT_JOBS, by: str = "sync") -> Plan:
    """Return the plan that makes *tree* serve what *lock* says, having read what it depends on.

    Asks the sources for no more than the manifests that the tree has not. *by* is what the plan is for: but for
    ``sync``, what *lock* names is added, nothing is withdrawn, and no lock is recorded.

    Raises:
        SeawallError: a source or the tree does not answer, or not truthfully.
    """
    own = tree.applied_lock(lock.name)
    pending = tree.pending_release()
    named = {*lock.pins, *(own.pins if own else ())}
    named |= {move.reference for move in pending.moves} if pending else set()
    tags = tree.digests(named)
    # Other locks, which may be large, only say what must not be withdrawn, or not be moved.
    withdraws = bool(named - lock.pins.keys())
    moves = any(tags.get(reference, pin.digest) != pin.digest for reference, pin in lock.pins.items())
    applied = tree.applied_locks() if withdraws or moves else {lock.name: own} if own else {}
    manifests = _missing_manifests(lock, tree, sources, jobs)
    needed = _needed(lock, manifests)
    unsure = tuple(_unsure(lock, own, manifests, tree))
    state = TreeState(
        tags=tags,
        applied=applied,
        pending=pending,
        linked_manifests=frozenset(
            (repository, digest)
            for repository, digest in needed
            if tree.linked_manifest(repository, str(digest)) is not None
        ),
        linked_blobs=frozenset(
            (repository, blob.digest)
            for repository, digest in needed
            if digest in manifests
            for blob in manifests[digest].blobs
            if tree.links_blob(repository, blob.digest)
        ),
        stored_blobs=frozenset(
            blob.digest
            for manifest in manifests.values()
            for blob in manifest.blobs
            if tree.blob_size(blob.digest) == blob.size
        ),
        stored_manifests=frozenset(digest for digest in manifests if tree.stored_manifest(digest)),
        lists=stale_lists(tree, {reference.repository for reference in lock.pins}),
        unsure=unsure,
        referrers=listed_in(
            tree, (*unsure, *((name, manifests[digest]) for name, digest in needed if digest in manifests))
        ),
    )
    return make_plan(lock, state, manifests, by)


def apply(plan: Plan, writer: TreeWriter, sources: Sources, progress: Progress, jobs: int = DEFAULT_JOBS) -> int | None:
    """Do what *plan* says, content first and pointers last; return the number of the release, if tags moved.

    Killed at any moment, it leaves a tree that serves all that it served before; the next run finishes.

    Raises:
        SeawallError: a source or the tree fails; no tag has moved then unless the tree itself failed meanwhile.
    """
    if plan.fetches:
        sources.expect((fetch.image for fetch in plan.fetches), blobs=True)
        writer.require_space(plan.fetch_bytes - sum(writer.partial_size(fetch.blob) for fetch in plan.fetches))
        _fetch_blobs(plan.fetches, writer, sources, progress, jobs)
    return publish(plan, writer, progress)


def publish(plan: Plan, writer: TreeWriter, progress: Progress) -> int | None:
    """Do what *plan* says after its blobs are there; return the number of the release, if tags moved.

    Raises:
        TreeError: the disk refuses.
    """
    lock = plan.lock if plan.by == "sync" else None
    change = Change(
        by=plan.by,
        moves=plan.moves,
        targets=plan.targets,
        pending=plan.pending,
        lock=lock,
        applies=plan.applies,
        lists=plan.lists,
        referrers=plan.referrers,
    )
    for manifest in plan.manifests:
        writer.add_manifest(manifest)
    writer.settle()
    if plan.referrers:
        # Whoever is killed after this finds out what has come into the lists meanwhile.
        announce(change, writer)
    for links in plan.links:
        for digest in links.blobs:
            writer.link_blob(links.repository, digest)
        writer.settle()
        for stored in links.manifests:
            writer.link_manifest(links.repository, str(stored.digest), stored)
    writer.settle()
    writer.write_referrers(plan.referrer_lists)
    return make_release(change, writer, progress)


def listed_in(tree: Tree, manifests: Iterable[tuple[str, Manifest]]) -> dict[tuple[str, Digest], tuple[Row, ...]]:
    """Return what is listed in *tree* as referrers of what *manifests*, given with their repositories, refer to.

    Raises:
        TreeError: a list is damaged.
    """
    subjects = {(repository, manifest.subject) for repository, manifest in manifests if manifest.subject is not None}
    return {(repository, subject): tree.referrers(repository, subject) for repository, subject in subjects}


def _unsure(
    lock: Lock, own: Lock | None, manifests: Mapping[Digest, Manifest], tree: Tree
) -> Iterator[tuple[str, Manifest]]:
    """Yield manifests at and below what *lock* pins and *own*, as it was last applied, does not, if they are linked.

    A run that was killed may have linked them, and not have come to list what they refer to.
    """
    applied = {(image.name, pin.digest) for image in (own.images if own else ()) for pin in image.roots}
    left = [(image.name, pin.digest) for image in lock.images for pin in image.roots]
    left = [root for root in left if root not in applied]
    seen = set(left)
    while left:
        repository, digest = left.pop()
        stored = tree.linked_manifest(repository, str(digest))
        manifest = manifests.get(digest) or (tree.read_manifest(stored) if stored else None)
        if manifest is None:
            continue
        if stored is not None:
            yield repository, manifest
        below = {(repository, child.digest) for child in manifest.children} - seen
        seen |= below
        left += below


def _fetch_blobs(
    fetches: Iterable[BlobFetch], writer: TreeWriter, sources: Sources, progress: Progress, jobs: int
) -> None:
    """Fetch several blobs at a time; the first failure stops the others and is raised."""
    fetches = tuple(fetches)
    progress.expect(sum(fetch.blob.size for fetch in fetches), f"{len(fetches)} blob{'' if len(fetches) == 1 else 's'}")
    stop = threading.Event()

    def fetch_one(fetch: BlobFetch) -> None:
        fetch_blob(fetch, sources.of(fetch.image), writer, progress, stop)

    with ThreadPoolExecutor(jobs, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(fetch_one, fetch) for fetch in fetches]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _copy(fetch: BlobFetch, source: Source, writer: TreeWriter, progress: Progress, stop: threading.Event) -> None:
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        progress.advance(size)

    try:
        start = writer.partial_size(fetch.blob)
        writer.add_blob(fetch.blob, until(stop, _pieces(fetch, source, start)), advance, start)
    except BaseException:
        progress.advance(-done)
        raise


def _pieces(fetch: BlobFetch, source: Source, start: int) -> Iterator[bytes]:
    """Return the blob from *start* on; the source is asked by tag first if that is how it comes to know it."""
    try:
        return source.blob(fetch.blob, start)
    except NotFoundError:
        if not (isinstance(fetch.image, LockedImage) and fetch.image.is_made):
            raise
        for tag in sorted(fetch.image.tags):
            with contextlib.suppress(NotFoundError):
                source.resolve(tag)
                return source.blob(fetch.blob, start)
        raise


def until(stop: threading.Event, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield *pieces*, and raise TransientError once *stop* is set."""
    for piece in pieces:
        if stop.is_set():
            raise TransientError("fetch", "was stopped", "run again")
        yield piece


def fetch_blob(fetch: BlobFetch, source: Source, writer: TreeWriter, progress: Progress, stop: threading.Event) -> None:
    """Fetch a blob from *source*, or from one of its mirrors.

    Raises:
        SourceError: it does not come; the error names source and blob.
        CredentialsError: the source refuses access.
    """
    for place in places(source):
        if not isinstance(place, Mirror):
            _persist(fetch, place, writer, progress, stop)
            return
        try:
            _persist(fetch, place.source, writer, progress, stop)
        except (SourceError, CredentialsError) as error:
            if stop.is_set():
                raise
            place.fell(error)
        else:
            return


def _persist(fetch: BlobFetch, source: Source, writer: TreeWriter, progress: Progress, stop: threading.Event) -> None:
    """Fetch a blob, and go on from where it stopped after a failure that may pass.

    A try that brought the blob much farther than all before it does not count: a large blob on a line that is
    cut now and then arrives in the end.

    Raises:
        SourceError: it does not come; the error names source and blob.
    """
    blob = fetch.blob
    where = f"{fetch.image.source} blob {blob.digest}"
    tries, farthest = 0, writer.partial_size(blob)
    while True:
        try:
            _copy(fetch, source, writer, progress, stop)
        except TransientError as error:
            tries += 1
            if writer.partial_size(blob) >= farthest + _WORTH_ANOTHER_TRY:
                tries, farthest = 0, writer.partial_size(blob)
            if tries == _TRIES or stop.is_set():
                raise SourceError(where, f"{error.what} ({_TRIES} tries)", "run again when it answers") from None
            # Jitter, so that many clients cut off at once do not come back at once.
            stop.wait(_PAUSE * random.uniform(0.2, 1.0) * (tries + 1))  # noqa: S311
        except SourceError as error:
            raise type(error)(where, error.what, error.todo) from None
        else:
            return


def _missing_manifests(lock: Lock, tree: Tree, sources: Sources, jobs: int) -> dict[Digest, Manifest]:
    """Return every manifest at and below the locked digests that a repository does not serve yet."""
    found: dict[Digest, Manifest] = {}
    wanted: dict[Digest, tuple[LockedImage, Descriptor]] = {
        pin.digest: (image, Descriptor(pin.media_type, pin.digest, pin.size))
        for image in lock.images
        for pin in image.roots
        if tree.linked_manifest(image.name, str(pin.digest)) is None
    }
    origins = {pin.digest: pin.source_digest for pin in lock.pins.values() if pin.source_digest}

    def read(row: tuple[LockedImage, Descriptor]) -> Manifest:
        return _manifest(row[1], row[0], origins.get(row[1].digest), tree, sources)

    with ThreadPoolExecutor(jobs, thread_name_prefix="manifest") as pool:
        # One of each source first: its answer says how many more there may be.
        heads = {image.source: (image, row) for image, row in reversed(wanted.values())}.values()
        first = {manifest.digest: manifest for manifest in pool.map(read, heads)}
        for _ in range(INDEX_DEPTH):
            images = [image for image, _ in wanted.values()]
            rows = [(image, row) for image, row in wanted.values() if row.digest not in first]
            sources.expect(image for image, row in rows if tree.stored_manifest(row.digest) is None)
            below = pool.map(lambda row: first.get(row[1].digest) or read(row), wanted.values())
            wanted = {}
            for image, manifest in zip(images, below, strict=True):
                found[manifest.digest] = manifest
                wanted |= {child.digest: (image, child) for child in manifest.children if child.digest not in found}
            if not wanted:
                return found
    image, child = next(iter(wanted.values()))
    raise SourceError(
        f"{image.source}@{child.digest}", f"is an index more than {INDEX_DEPTH} deep", "pin what it lists instead"
    )


def _manifest(wanted: Descriptor, image: LockedImage, origin: Digest | None, tree: Tree, sources: Sources) -> Manifest:
    """Return the manifest *wanted*; where it is a subset, it is made from the source's index *origin*."""
    stored = tree.stored_manifest(wanted.digest)
    if stored is not None:
        manifest = tree.read_manifest(stored)
    else:
        manifest = fetch_manifest(wanted.digest, wanted.media_type, image, origin, sources)
    if len(manifest.content) != wanted.size:
        where = f"{image.source}@{wanted.digest}"
        raise SourceError(
            where, f"has {len(manifest.content)} bytes, but is said to have {wanted.size}", "run seawall lock again"
        )
    return manifest


def fetch_manifest(
    digest: Digest, media_type: str, image: LockedImage, origin: Digest | None, sources: Sources
) -> Manifest:
    """Return the manifest *digest* of *image*; where it is a subset, it is made from the source's index *origin*.

    Raises:
        SeawallError: the source does not answer, or not truthfully.
    """
    where = f"{image.source}@{digest}"
    content, said = _sent(image, origin or digest, sources.of(image))
    manifest = parse_manifest(content, where, said or media_type)
    if origin is not None:
        manifest = _subset(manifest, digest, image, origin)
    if manifest.digest != digest:
        raise SourceError(where, f"source sent another manifest ({manifest.digest})", "do not trust this source")
    sources.brought.append(manifest)
    return manifest


def _sent(image: LockedImage, digest: Digest, source: Source) -> tuple[bytes, str]:
    """Return what *source* sends as the manifest *digest*; it is asked by tag first if that is what it knows it by."""
    try:
        return source.manifest(digest)
    except NotFoundError:
        if not image.is_made:
            raise
    for tag in sorted(tag for tag, pin in image.tags.items() if digest in {pin.digest, pin.source_digest}):
        found = source.resolve(tag)
        if found.digest != digest:
            raise SourceError(
                f"{image.source}:{tag}",
                f"is {found.digest} now, and the lock says {digest}",
                "run seawall lock --upgrade, or bring back what it was",
            )
    return source.manifest(digest)


def _subset(index: Manifest, wanted: Digest, image: LockedImage, origin: Digest) -> Manifest:
    where = f"{image.source}@{origin}"
    if index.digest != origin or not index.kind.is_index:
        raise SourceError(where, f"source sent another manifest ({index.digest})", "do not trust this source")
    made = subset(index, parse_platforms(image.platforms), where)
    if made.digest != wanted:
        platforms = ", ".join(image.platforms)
        raise InputError(
            where,
            f"for {platforms} becomes {made.digest}, and the lock says {wanted}",
            "run seawall lock --upgrade, and see who changed the lock",
        )
    return made


def _needed(lock: Lock, manifests: Mapping[Digest, Manifest]) -> set[tuple[str, Digest]]:
    """Return (repository, digest) of every manifest at and below the locked ones, as far as *manifests* tells."""
    needed: set[tuple[str, Digest]] = set()

    def visit(repository: str, digest: Digest) -> None:
        if (repository, digest) in needed:
            return
        needed.add((repository, digest))
        if digest in manifests:
            for child in manifests[digest].children:
                visit(repository, child.digest)

    for image in lock.images:
        for pin in image.roots:
            visit(image.name, pin.digest)
    return needed
