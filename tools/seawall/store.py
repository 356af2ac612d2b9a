"""A tree in an object store: its files under ``v2/`` as objects, brought to a release content first, pointers last.

``releases/last.json`` says what the store has; it is read first and written last, and only if nobody changed it
meanwhile. Who publishes holds the object ``.held`` as long as the work lasts, and writes it anew now and then: one that
fell silent is taken over. Stores without conditional writes hold nobody off.
"""

import contextlib
import hashlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from seawall.cache_control import CONTENT_CACHE, LIVE_CACHE
from seawall.digest import Digest
from seawall.errors import InputError, SourceError, TransientError, TreeError, TreeHeldError
from seawall.listing import FIRST_PAGE, Shape
from seawall.lists import is_private, parse_prefixes, private_text
from seawall.manifest import parse_manifest
from seawall.progress import Progress
from seawall.publication import JSON, Publication, PublishedList, Standing, TreeObject, Wishes, by_depth
from seawall.publishing import prepare
from seawall.store_objects import Found, Headers, StoreObjects
from seawall.tree import CATALOG_LINK, HELD, LOCKS, RELEASES, V2, Tree

STANDING = f"{RELEASES}/last.json"
_PING = f"{V2}/"
_CATALOG = f"{V2}/{CATALOG_LINK}"
_JSON = Headers(JSON, LIVE_CACHE)
_HEARTBEAT = 15.0
_SILENCE = 60.0
"""Seconds after which a run that gave no sign of life is taken to be dead."""
_UNTOLD = "run again; if it says so again, empty the bucket's prefix"
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of publishing to one store."""

    publication: Publication
    sent: int = 0
    """Objects."""
    size: int = 0
    """Bytes of them."""
    copied: int = 0
    """Blobs that were copied within the store."""
    removed: int = 0

    @property
    def changed(self) -> bool:
        """True where anything was written or removed."""
        return bool(self.sent or self.copied or self.removed)


def publish(tree: Tree, objects: StoreObjects, jobs: int, progress: Progress, wishes: Wishes) -> Stored:
    """Bring the store of *objects* to the last release of *tree*.

    Killed at any moment it leaves a store that serves all that it served, and the next run finishes.

    Args:
        tree: the source, which may be written meanwhile.
        objects: the store.
        jobs: how many objects are sent at a time.
        progress: hears of the bytes that are sent.
        wishes: what else is wanted.

    Raises:
        TreeHeldError: somebody else publishes there.
        SeawallError: the store holds another tree, does not answer or refuses.
    """
    work = _Work.begin(tree, objects, jobs, progress, wishes)
    if work.is_done or wishes.dry_run:
        return work.rehearsed()
    with _held(objects) as hold:
        # Whoever held it before may have published meanwhile.
        work = _Work.begin(tree, objects, jobs, progress, wishes)
        if not work.is_done:
            work.do(hold)
        return work.stored


@dataclass(slots=True)
class _Hold:
    """The lease on a store."""

    where: str
    is_lost: bool = False

    def check(self) -> None:
        """Raise TreeHeldError if somebody else has taken it over."""
        if self.is_lost:
            raise TreeHeldError(self.where, "was taken over by another run, as this one was silent", "run again")


@contextlib.contextmanager
def _held(objects: StoreObjects) -> Iterator[_Hold]:
    me = {"host": socket.gethostname(), "process": os.getpid(), "run": uuid.uuid4().hex}
    body = json.dumps(me).encode()
    etag = objects.put_if(HELD, body, _JSON, None) or _taken_over(objects, body)
    hold, over = _Hold(objects.where("")), threading.Event()

    def beat() -> None:
        current: str | None = etag
        while not over.wait(_HEARTBEAT):
            # The store may be out of reach for a moment; whether it was too long, the next answer tells.
            with contextlib.suppress(SourceError):
                current = objects.put_if(HELD, body, _JSON, current)
                hold.is_lost = current is None
                if hold.is_lost:
                    return

    beater = threading.Thread(target=beat, name="heartbeat", daemon=True)
    beater.start()
    try:
        yield hold
    finally:
        over.set()
        beater.join()
        if not hold.is_lost:
            objects.remove(HELD)


def _taken_over(objects: StoreObjects, body: bytes) -> str:
    """Return the ETag of the hold that a dead run left, now ours.

    Raises:
        TreeHeldError: it is not dead, or somebody else was faster.
    """
    found = objects.get(HELD)
    holder: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        holder = dict(json.loads(found[0])) if found else {}
    if not found or found[1].age > _SILENCE or _is_dead(holder):
        etag = objects.put_if(HELD, body, _JSON, found[1].etag if found else None)
        if etag is not None:
            return etag
    who = f"process {holder.get('process', 'unknown')} on {holder.get('host', 'unknown')}"
    raise TreeHeldError(objects.where(""), f"is being published to by another run ({who})", "wait until it ends")


def _is_dead(holder: dict[str, Any]) -> bool:
    """Return whether *holder* ran on this machine, and does so no more."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("process"), int):
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@dataclass(slots=True)
class _Work:
    """One publication on its way to one store."""

    tree: Tree
    objects: StoreObjects
    jobs: int
    progress: Progress
    wishes: Wishes
    publication: Publication
    standing: Standing
    etag: str | None
    """Of what says what the store has."""
    private: str
    stored: Stored
    made: Mapping[Digest, bytes]
    """Manifests that are in no file of the tree."""
    there: dict[str, Found] = field(default_factory=dict)
    """What is known to be in the store, by path."""
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def begin(cls, tree: Tree, objects: StoreObjects, jobs: int, progress: Progress, wishes: Wishes) -> "_Work":
        standing, etag = _standing(objects, tree)
        everything = wishes.everything or wishes.delete is not None
        private = private_text(tree)
        publication = prepare(tree, standing, objects.where(""), everything=everything)
        made = {one.digest: one.content for one in publication.manifests if one.content is not None}
        stored = Stored(publication)
        return cls(tree, objects, jobs, progress, wishes, publication, standing, etag, private, stored, made)

    @property
    def is_done(self) -> bool:
        """True where there is nothing to do."""
        return self.publication.is_empty and self.standing.catalog_private == self.private

    def rehearsed(self) -> Stored:
        """Return what would be sent, from what is there."""
        if self.is_done:
            return self.stored
        self._look()
        missing = [one for one in self._links() if not self._has(one)]
        links = set(self.publication.blob_links)
        blobs = {one.digest: one.size for one in missing if one in links}
        size = sum(blobs.values()) + sum(one.size for one in missing if one.digest not in blobs)
        gone = self._gone()
        return replace(self.stored, sent=len(missing), size=size, removed=len(gone) + len(self._unused(gone)))

    def do(self, hold: _Hold) -> None:
        plan = self.publication
        self._look()
        self._blobs()
        for level in (*plan.manifest_links, plan.list_links):
            self._each(lambda one: self._put_manifest(one, CONTENT_CACHE), (one for one in level if _is_content(one)))
        hold.check()
        pointers = [one for one in plan.list_links if not _is_content(one)]
        self._each(lambda one: self._put_manifest(one, LIVE_CACHE), pointers)
        self._each(self._put_small, plan.list_files)
        self._lists()
        hold.check()
        self._each(lambda one: self._put_manifest(one, LIVE_CACHE), plan.tags)
        withdrawn = {f"{V2}/{one.repository}/manifests/{one.tag}" for one in plan.withdrawn}
        gone = self._gone()
        for stage in self._stages(withdrawn | gone):
            hold.check()
            self._each(self._remove, stage)
        self._each(self._remove_unused, self._unused(gone))
        self._each(self._put_small, plan.locks)
        self._records()
        hold.check()
        self._end()
        self.progress.say(f"{self.objects.where('')}: release {plan.release}")

    # What is there.

    def _look(self) -> None:
        """Learn which of what is wanted the store has: by listing where all is wanted, else one by one."""
        if self.publication.is_whole:
            self.there = self.objects.listed(_PING)
            return

        def look(one: TreeObject) -> None:
            found = self.objects.head(one.path)
            if found is not None:
                with self._mutex:
                    self.there[one.path] = found

        self._each(look, self._links())

    def _links(self) -> list[TreeObject]:
        plan = self.publication
        return [
            *plan.blob_links,
            *(one for level in plan.manifest_links for one in level),
            *plan.list_links,
            *plan.tags,
        ]

    def _has(self, one: TreeObject) -> bool:
        found = self.there.get(one.path)
        if found is None or found.size != one.size:
            return False
        if found.media_type and found.media_type != one.media_type:
            return False
        # A digest's object of the right size is right: it was checked as it was put there.
        return _is_content(one) or str(one.digest) == found.digest or self._is_same(found, self._bytes(one))

    def _is_same(self, found: Found, content: bytes) -> bool:
        return found.etag.strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest()

    # Content.

    def _blobs(self) -> None:
        wanted: dict[Digest, list[TreeObject]] = {}
        source: dict[Digest, str] = {}
        for one in self.publication.blob_links:
            if self._has(one):
                source[one.digest] = one.path
            else:
                wanted.setdefault(one.digest, []).append(one)
        if set(wanted) - set(source):
            source = {**self._elsewhere(set(wanted) - set(source)), **source}
        unsent = [links[0].size for digest, links in wanted.items() if digest not in source]
        self.progress.expect(sum(unsent), f"{len(unsent)} blobs for {self.objects.where('')}")

        def bring(links: list[TreeObject]) -> None:
            known = source.get(links[0].digest)
            for one in links:
                headers = Headers(one.media_type, CONTENT_CACHE)
                if known and self.objects.copy(known, one.path, one.size, headers):
                    self._count(copied=1)
                    continue
                file = self.tree.root / one.target
                self.objects.send(file, one.path, one.digest, headers, self.progress.advance)
                self._count(sent=1, size=one.size)
                known = one.path

        # The largest first, so that none is left to the end alone.
        self._each(bring, sorted(wanted.values(), key=lambda links: -links[0].size))

    def _elsewhere(self, digests: set[Digest]) -> dict[Digest, str]:
        """Return where else the tree serves each of *digests*; the store most likely has it there."""
        if self.publication.is_whole:
            return {}
        found: dict[Digest, str] = {}
        coming = {one.path for one in self.publication.blob_links}
        for repository in self.tree.repositories():
            for digest in digests - found.keys():
                path = f"{V2}/{repository}/blobs/{digest}"
                if path not in coming and self.tree.links_blob(repository, digest):
                    found[digest] = path
        return found

    def _bytes(self, one: TreeObject) -> bytes:
        content = one.content
        if content is None and one.target:
            content = self.made.get(one.digest)
        if content is None:
            content = self.tree.read(self.tree.root / one.file)
        if Digest.of(content) != one.digest:
            raise TreeError(
                f"{self.tree.root}/{one.file}", "holds other bytes than its name says", "run seawall verify"
            )
        return content

    def _put_manifest(self, one: TreeObject, cache: str) -> None:
        if not self._has(one):
            self.objects.put(one.path, self._bytes(one), Headers(one.media_type, cache, one.digest))
            self._count(sent=1, size=one.size)

    def _put_small(self, one: TreeObject) -> None:
        self._put_text(one.path, self._bytes(one), one.media_type)

    def _put_text(self, path: str, content: bytes, media_type: str) -> None:
        found = self.there.get(path)
        if found is None or found.size != len(content) or not self._is_same(found, content):
            self.objects.put(path, content, Headers(media_type, LIVE_CACHE))
            self._count(sent=1, size=len(content))

    # Lists and records.

    def _lists(self) -> None:
        plan = self.publication
        known = {f"{V2}/{name}/tags" for name in plan.repositories}

        def put_list(one: PublishedList) -> None:
            path = f"{one.folder}/{FIRST_PAGE}"
            if one.folder in known or path in self.there or self.objects.head(path):
                self._put_text(path, one.shape.page(one.names).encode(), JSON)

        self._each(put_list, plan.tag_lists)
        # Some stores keep no bytes under a name that ends so; that it answers is what counts.
        if plan.is_whole and self.objects.head(_PING) is None:
            self._put_text(_PING, b"{}", JSON)
        if plan.is_whole or plan.repositories or self.standing.catalog_private != self.private:
            prefixes = parse_prefixes(self.private)
            names = {*plan.repositories, *(() if plan.is_whole else self._catalog())}
            public = sorted(name for name in names if not is_private(name, prefixes))
            self._put_text(_CATALOG, Shape.of_repositories().page(public).encode(), JSON)

    def _catalog(self) -> Iterable[str]:
        if self.standing.catalog_private != self.private:
            # What was left out so far is in no catalog.
            return self.tree.repositories()
        found = self.objects.get(_CATALOG)
        try:
            names = json.loads(found[0])["repositories"] if found else []
        except (ValueError, LookupError, TypeError):
            raise SourceError(self.objects.where(_CATALOG), "is not a catalog", "publish with --all") from None
        return map(str, names)

    def _records(self) -> None:
        plan = self.publication
        there = self.objects.listed(f"{RELEASES}/") if plan.is_whole else {}

        def record(one: TreeObject) -> None:
            if one.path in there and there[one.path].size == one.size:
                return
            content = self._bytes(one)
            if self.objects.put_if(one.path, content, _JSON, None) is not None:
                self._count(sent=1, size=one.size)
                return
            found = self.objects.get(one.path)
            if found is None or found[0] != content:
                what = "is a release that was made there: the store has a history of its own"
                raise TreeError(self.objects.where(one.path), what, "publish to an empty bucket or prefix")

        self._each(record, plan.records[:-1])
        self._each(record, plan.records[-1:])

    def _end(self) -> None:
        plan, standing = self.publication, self.standing
        last = plan.records[-1].digest if plan.records else standing.record
        locks = {path.name.removesuffix(".lock"): path for path in (self.tree.root / LOCKS).glob("*.lock")}
        changed = {one.path.removeprefix(f"{LOCKS}/").removesuffix(".lock"): one.digest for one in plan.locks}
        known = {name: Digest.of(content) for name, content in standing.locks.items() if name in locks}
        document = {
            "version": 1,
            "release": plan.release,
            "record": str(last) if last else None,
            "locks": {name: str(digest) for name, digest in sorted({**known, **changed}.items())},
            "private": self.private,
        }
        body = json.dumps(document, indent=1).encode() + b"\n"
        if self.objects.put_if(STANDING, body, _JSON, self.etag) is None:
            raise TreeHeldError(self.objects.where(""), "was published to by another run meanwhile", "run again")

    # Removing.

    def _gone(self) -> set[str]:
        """Return what the store has and the tree serves no more, where it is to go."""
        plan, grace = self.publication, self.wishes.delete
        if not plan.is_whole:
            return set()
        wanted = {one.path for one in (*self._links(), *plan.list_files)} | {_PING, _CATALOG}
        wanted |= {f"{one.folder}/{FIRST_PAGE}" for one in plan.tag_lists}
        left = {path: found for path, found in self.there.items() if path not in wanted}
        tags = {path for path in left if "/manifests/" in path and ":" not in path.rpartition("/")[2]}
        if grace is None:
            # Without its records nobody can say what was withdrawn; what has no tag in the tree is.
            return tags if plan.since else set()
        return tags | {path for path, found in left.items() if found.age > grace}

    def _stages(self, paths: set[str]) -> list[list[str]]:
        """Return *paths* in the order in which they may go: what points, then what it points at."""
        by_digest = {path for path in paths if ":" in path.rpartition("/")[2] and "/referrers/" not in path}
        manifests = {path for path in by_digest if "/manifests/" in path}
        below: dict[Digest, list[Digest]] = {}
        for path in manifests:
            found = self.objects.get(path)
            with contextlib.suppress(InputError, SourceError):
                manifest = parse_manifest(found[0] if found else b"", path)
                below[manifest.digest] = [child.digest for child in manifest.children]
        depths = by_depth(below)
        levels: dict[int, list[str]] = {}
        for path in manifests:
            levels.setdefault(-depths.get(Digest(path.rpartition(":")[2]), 0), []).append(path)
        return [sorted(paths - by_digest), *(levels[depth] for depth in sorted(levels)), sorted(by_digest - manifests)]

    def _remove(self, path: str) -> None:
        self.objects.remove(path)
        self._count(removed=1)

    def _unused(self, gone: Set[str]) -> list[str]:
        """Return the pieces of blobs that no object is made of any more, once *gone* is."""
        if self.wishes.delete is None:
            return []
        paths = {*(self.there.keys() - gone), *(one.path for one in self.publication.blob_links)}
        names = (path.rpartition("/")[2] for path in paths if "/blobs/" in path)
        return self.objects.unused({Digest.parse(name) for name in names}, self.wishes.delete)

    def _remove_unused(self, name: str) -> None:
        self.objects.remove_unused(name)
        self._count(removed=1)

    # Work in parallel.

    def _each(self, work: Callable[[_Row], None], rows: Iterable[_Row]) -> None:
        """Do *work* for each of *rows*, several at a time; the first failure stops the others and is raised."""
        stop = threading.Event()

        def one(row: _Row) -> None:
            if stop.is_set():
                raise TransientError(self.objects.where(""), "was stopped", "run again")
            work(row)

        with ThreadPoolExecutor(self.jobs, thread_name_prefix="put") as pool:
            try:
                done, _ = wait([pool.submit(one, row) for row in rows], return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)

    def _count(self, *, sent: int = 0, size: int = 0, copied: int = 0, removed: int = 0) -> None:
        with self._mutex:
            now = self.stored
            self.stored = Stored(
                now.publication, now.sent + sent, now.size + size, now.copied + copied, now.removed + removed
            )


def _is_content(one: TreeObject) -> bool:
    return ":" in one.path.rpartition("/")[2]


def _standing(objects: StoreObjects, tree: Tree) -> tuple[Standing, str | None]:
    """Return what the store says it has, and the ETag of where it says so; None where it says nothing."""
    found = objects.get(STANDING)
    if found is None:
        return Standing(), None
    try:
        document = json.loads(found[0])
        locks = {str(name): Digest.parse(digest) for name, digest in document["locks"].items()}
        release, record = int(document["release"]), document["record"]
        digest = Digest.parse(record) if record else None
        private = str(document["private"])
    except (InputError, ValueError, LookupError, TypeError, AttributeError):
        raise TreeError(objects.where(STANDING), "does not say what the store has", _UNTOLD) from None
    texts = {}
    for name, wanted in locks.items():
        own = tree.root / LOCKS / f"{name}.lock"
        text = tree.read(own) if own.exists() else b""
        if Digest.of(text) != wanted:
            kept = objects.get(f"{LOCKS}/{name}.lock")
            text = kept[0] if kept else b""
        texts[name] = text
    return Standing(release, digest, texts, private, private), found[1].etag
