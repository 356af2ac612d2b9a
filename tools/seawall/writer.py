"""The one writer of a tree: each write lands whole or not at all, in an order that readers can trust."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from seawall.digest import Digest
from seawall.errors import InputError, SourceError, TransientError, TreeError, TreeHeldError
from seawall.listing import FIRST_PAGE
from seawall.lists import ListChange, stored_paths
from seawall.manifest import Descriptor, Manifest
from seawall.reference import list_tag
from seawall.referrer_list import ReferrerList
from seawall.release import Release, release_text
from seawall.tree import (
    CATALOG_LINK,
    CONTENT,
    HELD,
    INCOMING,
    LOCKS,
    PENDING,
    PRIVATE,
    RELEASES,
    V2,
    StoredManifest,
    Tree,
    relative_target,
)

PARTIAL_KEPT = 7 * 24 * 3600
"""Seconds that an interrupted blob is kept in ``.incoming/`` for a run that wants the rest of it."""

_PARTIAL = ".part"
_PIECE_BYTES = 1024 * 1024
_WRITE_BACK_BYTES = 8 * 1024 * 1024
_EMPTY = Digest.of(b"")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class TreeWriter:
    """Writes a tree that it alone holds; made by :func:`hold`.

    Every file is written in ``.incoming/``, on the same file system, hashed as it streams, fsynced and then
    renamed to its place; :meth:`settle` fsyncs the folders that changed. ``add_blob`` and ``partial_size`` may be
    called from several threads, for a blob each; the rest from one.

    Errors of all methods: :class:`~seawall.errors.TreeError` where the disk refuses.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._incoming = tree.root / INCOMING
        self._changed: set[Path] = set()
        self._mutex = threading.Lock()

    def partial_size(self, blob: Descriptor) -> int:
        """Return how many bytes of *blob* an interrupted :meth:`add_blob` left, of this run or of an earlier one."""
        try:
            size = self._partial_path(blob.digest).stat().st_size
        except FileNotFoundError:
            return 0
        # One that is too long is of no use; it is written over.
        return size if size <= blob.size else 0

    def add_blob(
        self, blob: Descriptor, pieces: Iterable[bytes], advance: Callable[[int], None], start: int = 0
    ) -> None:
        """Store *blob*, whose bytes from *start* on are *pieces*; *advance* hears of every so many bytes done.

        What came before *start*, at most :meth:`partial_size`, is read back and hashed again: a power failure may
        have changed it. After a transient failure what came so far is kept for the next time.

        Raises:
            SourceError: the bytes are not those that the digest names, or are too many.
            TransientError: they end early, or what was taken up was not the beginning of this blob.
        """
        path = self.tree.blob_path(blob.digest)
        hasher = hashlib.sha256()
        with self._new_file(path, blob.digest, self._partial_path(blob.digest), start) as file:
            size = 0
            while kept := os.pread(file, _PIECE_BYTES, size):
                hasher.update(kept)
                size += len(kept)
            os.lseek(file, size, os.SEEK_SET)
            advance(size)
            begun = size
            for piece in pieces:
                size += len(piece)
                if size > blob.size:
                    raise SourceError(str(blob.digest), f"source sends more than {blob.size} bytes", _DISTRUST)
                hasher.update(piece)
                _write_all(file, piece)
                if size - begun >= _WRITE_BACK_BYTES:
                    # Linux begins to write this to the disk now, so that the fsync at the end has less to wait for.
                    os.posix_fadvise(file, begun, size - begun, os.POSIX_FADV_DONTNEED)
                    begun = size
                advance(len(piece))
            if size < blob.size:
                raise TransientError(str(blob.digest), f"source sent {size} of {blob.size} bytes", "try again")
            if hasher.hexdigest() != blob.digest.hex and start:
                os.ftruncate(file, 0)
                raise TransientError(str(blob.digest), "does not go on from what was kept of it", "try again")
            if hasher.hexdigest() != blob.digest.hex:
                raise SourceError(str(blob.digest), f"source sent other bytes (sha256:{hasher.hexdigest()})", _DISTRUST)

    def add_manifest(self, manifest: Manifest, *, over: bool = False) -> None:
        """Store *manifest* under ``content/``; one that is there already stays, unless it is written *over*."""
        path = self.tree.manifest_path(StoredManifest(manifest.digest, manifest.kind))
        if over or not path.exists():
            with self._new_file(path, manifest.digest) as file:
                _write_all(file, manifest.content)

    def link_blob(self, repository: str, digest: Digest) -> None:
        """Let *repository* serve the blob *digest*."""
        self._link(self.tree.blob_link(repository, digest), self.tree.blob_path(digest))

    def link_manifest(self, repository: str, target: str, manifest: StoredManifest) -> None:
        """Let *repository* serve *manifest* as *target*: its own digest, or a tag, which moves by one rename."""
        self._link(self.tree.manifest_link(repository, target), self.tree.manifest_path(manifest))

    def set_time(self, path: Path, digest: Digest) -> None:
        """Give *path*, whose bytes are those of *digest*, the modification time that goes with them."""
        with _disk(path):
            os.utime(path, (digest.mtime, digest.mtime), follow_symlinks=False)

    def remove_tag(self, repository: str, tag: str) -> None:
        """Take *tag* away from *repository*; what it pointed at stays, by digest."""
        self._unlink(self.tree.manifest_link(repository, tag))

    def unlink_manifest(self, repository: str, digest: Digest) -> None:
        """Let *repository* no longer serve the manifest *digest*."""
        self._unlink(self.tree.manifest_link(repository, str(digest)))

    def write_referrers(self, lists: Iterable[ReferrerList]) -> None:
        """Put *lists* in their places, after the manifests that they name.

        The file that the API is answered with comes last: where it is right, all of the list is.
        """
        lists = tuple(lists)
        for one in lists:
            self.add_manifest(one.index)
        self.settle()
        for one in lists:
            stored = StoredManifest(one.index.digest, one.index.kind)
            self.link_manifest(one.repository, str(stored.digest), stored)
            self.link_manifest(one.repository, list_tag(one.subject), stored)
        self.settle()
        for one in lists:
            self._write(self.tree.referrers_path(one.repository, one.subject), one.index.content.decode())
        self.settle()

    def remove_referrers(self, repository: str, subject: Digest) -> None:
        """Take away the list of what in *repository* refers to *subject*."""
        self._unlink(self.tree.referrers_path(repository, subject))
        self._unlink(self.tree.manifest_link(repository, list_tag(subject)))

    def unlink_blob(self, repository: str, digest: Digest) -> None:
        """Let *repository* no longer serve the blob *digest*."""
        self._unlink(self.tree.blob_link(repository, digest))

    def remove_repository(self, repository: str) -> None:
        """Remove the folders of *repository*, which serves nothing any more, and those above that hold nothing else."""
        folder = self.tree.repository_path(repository)
        self._unlink(self.tree.tag_list_path(repository) / FIRST_PAGE)
        for path in stored_paths(self.tree.tag_list_path(repository)):
            self._unlink(self.tree.tag_list_path(repository) / path)
        for name in ("after", "to"):
            self._remove_folder(self.tree.tag_list_path(repository) / name)
        # "manifests" is what makes it a repository: it goes last, so that a killed run can be finished.
        for name in ("tags", "referrers", "blobs", "manifests"):
            self._remove_folder(folder / name)
        self._remove_empty(folder, self.tree.root / V2)

    def remove_blob(self, digest: Digest) -> None:
        """Remove the content of the blob *digest*, which no repository serves any more."""
        self._unlink(self.tree.blob_path(digest))

    def remove_content(self, path: Path) -> None:
        """Remove the broken content file *path*, which no repository serves."""
        self._unlink(path)

    def remove_manifest(self, manifest: StoredManifest) -> None:
        """Remove the content of *manifest*, which no repository serves any more."""
        self._unlink(self.tree.manifest_path(manifest))

    def write_lists(self, changes: Iterable[ListChange]) -> None:
        """Do *changes*, all of them in step: what is linked to is on the disk before links lead there."""
        changes = tuple(changes)
        for at in changes:
            for path in at.change.unlinked:
                self._unlink(at.folder / path)
            for path in at.change.names:
                self._touch(at.folder / path)
            for path, names in at.change.pages.items():
                self._write(at.folder / path, at.shape.page(names))
        self.settle()
        for at in changes:
            for path, to in at.change.links.items():
                self._link(at.folder / path, at.folder / to)
        self.settle()
        for at in changes:
            for path in at.change.removed:
                self._unlink(at.folder / path)
                self._remove_empty((at.folder / path).parent, at.folder)
        self.settle()

    def begin_catalog(self) -> None:
        """Note that the catalog is about to change, so that a run after a killed one writes all of it anew."""
        self._unlink(self.tree.catalog_path / PRIVATE)
        self.settle()

    def end_catalog(self, private: str) -> None:
        """Note that the catalog is whole, and leaves out what *private* says; let ``v2/`` serve it."""
        self._write(self.tree.catalog_path / PRIVATE, private)
        self._link(self.tree.root / V2 / CATALOG_LINK, self.tree.catalog_path / FIRST_PAGE)
        self.settle()

    def write_applied_lock(self, name: str, text: str) -> None:
        """Keep *text*, the lock *name*, as the one that was last applied."""
        self._write(self.tree.root / LOCKS / f"{name}.lock", text)

    def begin_release(self, release: Release) -> None:
        """Write down what *release* is about to move, before the first tag moves."""
        self._write(self.tree.root / RELEASES / PENDING, release_text(release))
        self.settle()

    def end_release(self, release: Release) -> None:
        """Put the record of *release* in its place: the very last write of a change."""
        self.settle()
        folder = self.tree.root / RELEASES
        with _disk(folder):
            (folder / PENDING).rename(folder / f"{release.number}.json")
            self._note(folder)
        self.settle()

    def drop_pending(self) -> None:
        """Forget an interrupted release that in the end moved nothing."""
        with _disk(self.tree.root / RELEASES):
            (self.tree.root / RELEASES / PENDING).unlink(missing_ok=True)

    def settle(self) -> None:
        """Make every rename so far durable: fsync the folders that changed."""
        with self._mutex:
            folders, self._changed = self._changed, set()
        for folder in sorted(folders):
            with _disk(folder):
                _fsync_folder(folder)

    def require_space(self, size: int) -> None:
        """Check that *size* bytes can be written.

        Raises:
            TreeError: the file system has less room than that.
        """
        with _disk(self.tree.root):
            figures = os.statvfs(self.tree.root)
        free = figures.f_bavail * figures.f_frsize
        if size > free:
            raise TreeError(
                str(self.tree.root), f"needs {size:,} bytes, and {free:,} are free on its file system", "make room"
            )

    def _unlink(self, path: Path) -> None:
        with _disk(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            self._note(path.parent)

    def _remove_empty(self, folder: Path, top: Path) -> None:
        """Remove *folder* and those above it, up to *top*, which stays, as long as they hold nothing."""
        while folder != top and self._remove_folder(folder):
            folder = folder.parent

    def _remove_folder(self, folder: Path) -> bool:
        """Remove *folder* if it is empty; return whether it is gone."""
        with _disk(folder):
            try:
                folder.rmdir()
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    return False
                raise
        with self._mutex:
            self._changed.discard(folder)
        self._note(folder.parent)
        return True

    def _link(self, link: Path, to: Path) -> None:
        target = relative_target(link, to)
        with _disk(link):
            self._make_folder(link.parent)
            if link.is_symlink() and link.readlink() == Path(target):
                return
            beside = self._incoming / f"link.{threading.get_ident()}"
            beside.unlink(missing_ok=True)
            beside.symlink_to(target)
            beside.rename(link)
            self._note(link.parent)

    def _write(self, path: Path, text: str) -> None:
        """Write a small file that may change, unless it holds *text* already (so that its ETag stays)."""
        content = text.encode()
        with _disk(path):
            with contextlib.suppress(FileNotFoundError):
                if path.read_bytes() == content:
                    return
            with self._new_file(path, Digest.of(content)) as file:
                _write_all(file, content)

    def _touch(self, path: Path) -> None:
        """Make an empty file, unless it is there."""
        with _disk(path), contextlib.suppress(FileExistsError):
            self._make_folder(path.parent)
            if path.is_symlink() or (path.is_file() and path.stat().st_size):
                # Its bytes are what makes it right; links to it find the new one.
                path.unlink()
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o444)
            try:
                os.fchmod(file, 0o444)
                # The same in every tree, as all times in it are.
                os.utime(file, (_EMPTY.mtime, _EMPTY.mtime))
            finally:
                os.close(file)
            self._note(path.parent)

    def _partial_path(self, digest: Digest) -> Path:
        return self._incoming / f"{digest.hex}{_PARTIAL}"

    @contextlib.contextmanager
    def _new_file(self, path: Path, digest: Digest, partial: Path | None = None, start: int = 0) -> Iterator[int]:
        """Open a file to write which becomes *path* at the end, and leaves no trace if something goes wrong.

        Where *partial* is given, that is the file meanwhile. It is cut to its first *start* bytes, and it stays
        after a failure that may pass, or one that came before any byte.
        """
        beside = partial or self._incoming / f"{digest.hex}.{threading.get_ident()}"
        with _disk(path):
            if start:
                # A run that was killed just before the rename has taken the leave to write away already.
                beside.chmod(0o600)
            file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            with _disk(path):
                os.ftruncate(file, start)
                yield file
                # Content never changes once it is there; the mode says so too.
                os.fchmod(file, 0o444)
                os.utime(file, (digest.mtime, digest.mtime))
                os.fsync(file)
                self._make_folder(path.parent)
                beside.rename(path)
            self._note(path.parent)
        except BaseException as error:
            size = os.fstat(file).st_size
            if partial is None or not size or not (_may_go_on(error) or size == start):
                beside.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            # Workers read the tree as another user, whatever the umask of this run.
            folder.chmod(0o755)
        self._note(folder.parent)

    def _note(self, folder: Path) -> None:
        with self._mutex:
            self._changed.add(folder)


_DISTRUST = "do not trust this source; nothing of it was kept"


@contextlib.contextmanager
def hold(tree: Tree) -> Iterator[TreeWriter]:
    """Yield the writer of *tree*, making its folders where they are missing; nobody else can have one meanwhile.

    Raises:
        TreeHeldError: another run holds the tree.
        TreeError: the disk refuses, or the tree is another user's.
    """
    root = tree.root
    with _disk(root):
        if not root.exists():
            root.mkdir(parents=True)
            root.chmod(0o755)
        _require_own(root)
        file = os.open(root / HELD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode(errors="replace").strip() or "unknown"
            raise TreeHeldError(
                str(root), f"is held by another run (process {holder})", "wait until it ends, then try again"
            ) from None
        with _disk(root):
            os.truncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            for name in (INCOMING, CONTENT, V2, RELEASES, LOCKS):
                if not (root / name).is_dir():
                    (root / name).mkdir()
                    (root / name).chmod(0o755 if name != INCOMING else 0o700)
            # What a killed run left on its way was never in its place: nobody can miss it.
            for leftover in (root / INCOMING).iterdir():
                if not _is_useful(leftover, tree):
                    leftover.unlink()
            _fsync_folder(root)
        yield TreeWriter(tree)
    finally:
        os.close(file)


def _is_useful(leftover: Path, tree: Tree) -> bool:
    """Return whether *leftover*, of an earlier run, is the beginning of a blob that some run may still want."""
    try:
        digest = Digest.parse(f"sha256:{leftover.name.removesuffix(_PARTIAL)}")
    except InputError:
        return False
    found = leftover.lstat()
    # A publish of another host leaves it under its bare name, which is how rsync keeps what it is to take up.
    is_partial = stat.S_ISREG(found.st_mode) and found.st_size > 0
    # By the time of the last change to the file, which unlike its modification time nobody sets.
    is_fresh = abs(time.time() - found.st_ctime) < PARTIAL_KEPT
    return is_partial and is_fresh and tree.blob_size(digest) is None


def _may_go_on(error: BaseException) -> bool:
    """Return whether what was written before *error* is of use to the next try."""
    return isinstance(error, TransientError | KeyboardInterrupt)


def _require_own(root: Path) -> None:
    """Refuse to write another user's tree: what root leaves in it, its owner could not change any more."""
    owner = root.stat().st_uid
    if owner == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    raise TreeError(str(root), f"belongs to {name}", f"run this as {name}: runuser -u {name} -- seawall ...")


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _fsync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn what the disk says into an error that names *path*."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise TreeError(str(path), "cannot be written: no space is left", "make room and run again") from None
        raise TreeError(
            str(path), f"cannot be written ({error.strerror or error})", "check the disk and the permissions"
        ) from None
