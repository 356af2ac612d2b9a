"""Exporting a tree: a plain directory, without links, for a static host.

The directory is written as a tree is: what a digest names first, tags last, each file beside its place and renamed. A
run that is killed leaves what was served before, with some of the new beside it, and the next one finishes.
``headers.json`` is written first and last: it names all that a run may have left, so that nothing else is ever
removed.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from seawall.digest import Digest
from seawall.errors import InputError, TreeError, TreeHeldError
from seawall.objects import Object, Part
from seawall.progress import Progress
from seawall.static_host import Excess, Site, headers_text, plan_site
from seawall.tree import INCOMING

HEADERS = "headers.json"
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What makes a directory serve a site."""

    site: Site
    folder: Path
    files: tuple[Object, ...]
    """What is new or has changed, in the order in which it is written."""
    texts: tuple[str, ...]
    """Paths of the host's own files that are new or have changed."""
    removed: tuple[str, ...]
    """Paths of an earlier run that the site has no more."""
    moved: frozenset[str]
    """Keys of files that are there with other bytes."""
    is_unfinished: bool = False
    """True where a run was killed, and left what it was writing."""

    @property
    def excesses(self) -> tuple[Excess, ...]:
        """The limits of the host that the tree does not keep."""
        return self.site.excesses

    @property
    def size(self) -> int:
        """How many bytes of content are written."""
        return sum(one.size for one in self.files)

    @property
    def is_empty(self) -> bool:
        """True where the directory is as it should be."""
        return not (self.files or self.texts or self.removed or self.is_unfinished)


def plan_export(site: Site, folder: Path) -> ExportPlan:
    """Return what makes *folder* serve *site*.

    Raises:
        InputError: *folder* has something in it, and was not written by an export.
        TreeError: it cannot be read.
    """
    known = _known(folder)
    files, moved = [], set()
    for one in site.objects:
        at = folder / one.key
        if not _is_there(one, at):
            files.append(one)
            if at.exists():
                moved.add(one.key)
    final = {**site.texts, HEADERS: headers_text(site, complete=True)}
    texts = tuple(path for path, text in final.items() if not _holds(folder / path, text.encode()))
    wanted = {*final, *(one.key for one in site.objects)}
    removed = tuple(sorted(path for path in known - wanted if (folder / path).exists()))
    unfinished = (folder / INCOMING).exists()
    return ExportPlan(site, folder, tuple(files), texts, removed, frozenset(moved), unfinished)


def export(plan: ExportPlan, progress: Progress) -> None:
    """Execute *plan*.

    Raises:
        TreeError: the disk refuses, or a file of the tree does not hold what its name says.
        TreeHeldError: another export writes the same directory.
    """
    folder, site = plan.folder, plan.site
    progress.expect(plan.size, "export")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder):
            incoming = folder / INCOMING
            if incoming.exists():
                shutil.rmtree(incoming)
            incoming.mkdir()
            left = set(_known(folder)) | {*plan.removed}
            _write(folder, HEADERS, headers_text(site, complete=False, also=left))
            copies: dict[Digest, Path] = {}
            for one in plan.files:
                if one.part is not Part.TAG:
                    _place(folder, one, copies, progress)
            if plan.moved:
                # Between two files there is always a moment; until the tags have moved, nothing wrong is said of them.
                told = tuple(replace(one, digest=None) if one.key in plan.moved else one for one in site.objects)
                _write_all(folder, plan_site(site.host, told, site.blobs_url).texts)
            else:
                _write_all(folder, {path: site.texts[path] for path in plan.texts if path in site.texts})
            for one in plan.files:
                if one.part is Part.TAG:
                    _place(folder, one, copies, progress)
            _write_all(folder, site.texts)
            for path in sorted(plan.removed, key=lambda path: _depth(folder, path)):
                (folder / path).unlink(missing_ok=True)
                _remove_empty(folder, (folder / path).parent)
            _write(folder, HEADERS, headers_text(site, complete=True))
            shutil.rmtree(incoming)
    except OSError as error:
        where = str(error.filename or folder)
        raise TreeError(where, f"cannot be written ({error.strerror})", "check the disk and its permissions") from None


def _known(folder: Path) -> set[str]:
    """Return the paths that earlier exports may have written to *folder*."""
    try:
        present = set(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise TreeError(str(folder), f"cannot be read ({error.strerror})", "check its permissions") from None
    if not present - {INCOMING}:
        return set()
    try:
        document = json.loads((folder / HEADERS).read_text("utf-8"))
        paths = {str(row["path"]) for row in document["files"]} | {str(path) for path in document["own"]}
    except (OSError, ValueError, KeyError, TypeError):
        paths = {".."}
    if not all(map(_is_inside, paths)):
        raise InputError(
            str(folder), f"is not empty, and has no {HEADERS} of an export", "give an empty or a new folder"
        )
    return paths - {HEADERS}


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and pure.parts != ()


def _is_there(one: Object, at: Path) -> bool:
    """Return whether *at* holds what *one* is."""
    try:
        if at.is_symlink() or at.stat().st_size != one.size:
            return False
        # Where the path names the bytes, they were hashed when they were written.
        return one.is_fixed or at.read_bytes() == _bytes(one)
    except OSError:
        return False


def _bytes(one: Object) -> bytes:
    return one.path.read_bytes() if one.path is not None else one.content


def _holds(path: Path, content: bytes) -> bool:
    try:
        return not path.is_symlink() and path.read_bytes() == content
    except OSError:
        return False


def _place(folder: Path, one: Object, copies: dict[Digest, Path], progress: Progress) -> None:
    """Write *one* to its place; what is there already under another name is not copied again."""
    at = folder / one.key
    beside = folder / INCOMING / "file"
    at.parent.mkdir(parents=True, exist_ok=True)
    beside.unlink(missing_ok=True)
    if one.digest is not None and one.digest in copies:
        os.link(copies[one.digest], beside)
    elif one.path is not None:
        _copy(one, one.path, beside)
    else:
        beside.write_bytes(one.content)
    beside.replace(at)
    if one.digest is not None:
        copies[one.digest] = at
    progress.advance(one.size)


def _copy(one: Object, source: Path, to: Path) -> None:
    hashed = hashlib.sha256()
    with source.open("rb") as reader, to.open("wb") as writer:
        while piece := reader.read(_PIECE_BYTES):
            hashed.update(piece)
            writer.write(piece)
    if one.digest is not None and hashed.hexdigest() != one.digest.hex:
        todo = "run seawall verify with --repair on the tree, and export again"
        raise TreeError(str(source), "does not hold what its name says", todo)
    # From the time a web server makes its ETag: it is that of the tree.
    figures = source.stat()
    os.utime(to, ns=(figures.st_atime_ns, figures.st_mtime_ns))


def _write_all(folder: Path, texts: Mapping[str, str]) -> None:
    for path, text in texts.items():
        if not _holds(folder / path, text.encode()):
            _write(folder, path, text)


def _write(folder: Path, path: str, text: str) -> None:
    at = folder / path
    at.parent.mkdir(parents=True, exist_ok=True)
    beside = folder / INCOMING / "text"
    beside.write_text(text, "utf-8")
    beside.replace(at)


def _depth(folder: Path, path: str) -> int:
    """Return how deep *path* lies below tags: what names something goes before what it names."""
    if "/sha256:" not in path:
        return 0
    if "/manifests/" not in path:
        return 3
    try:
        return 1 if "manifests" in json.loads((folder / path).read_bytes()) else 2
    except (OSError, ValueError, RecursionError):
        return 2


def _remove_empty(top: Path, folder: Path) -> None:
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise TreeHeldError(str(folder), "is being written by another export", "wait for its end") from None
    try:
        yield
    finally:
        os.close(handle)
