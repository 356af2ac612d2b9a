"""Where the files of an OCI image layout lie: in a folder, or in a tar archive of one."""

import functools
import gzip
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from seawall.errors import SourceError
from seawall.spool import disk, nameless_file
from seawall.tar_stream import Member, TarStream

_REMAKE = "make the layout again"
_PIECE_BYTES = 1024 * 1024


class Readable(Protocol):
    """A file of a layout that is being read."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most *size*; none at the end."""
        ...

    def seek(self, start: int, /) -> object:
        """Go to byte *start*."""
        ...


class LayoutFiles(Protocol):
    """The files of a layout, by their names in it: ``index.json``, ``blobs/sha256/<hex>``."""

    @property
    def where(self) -> str:
        """How errors call the layout."""
        ...

    def where_is(self, name: str) -> str:
        """Return how errors call the file *name*."""
        ...

    def has(self, name: str) -> bool:
        """Return whether there is anything of the name *name*."""
        ...

    def opened(self, name: str) -> AbstractContextManager[tuple[Readable, int]]:
        """Open the file *name*; give it with its size in bytes.

        Raises:
            SourceError: it is missing, is no file, or cannot be read.
        """
        ...


class Folder:
    """A layout in the folder *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.where = str(path)

    def where_is(self, name: str) -> str:
        """Return how errors call the file *name*."""
        return str(self._path / name)

    def has(self, name: str) -> bool:
        """Return whether there is anything of the name *name*."""
        return (self._path / name).exists()

    @contextmanager
    def opened(self, name: str) -> Iterator[tuple[Readable, int]]:
        """Open the file *name*; give it with its size in bytes.

        Raises:
            SourceError: it is missing, is no file, or cannot be read.
        """
        with open_regular(self._path / name) as file:
            yield file, os.fstat(file.fileno()).st_size


class Archive:
    """A layout in the tar archive *path*, which may be gzipped as a whole; it is gone through once.

    Args:
        path: the archive.
        spool_folder: where a gzipped one is unzipped to; see :class:`~seawall.spool.Spool`.
    """

    def __init__(self, path: Path, spool_folder: Path | None = None) -> None:
        self._path = path
        self._spool_folder = spool_folder
        self._mutex = threading.Lock()
        self._read: tuple[BinaryIO, dict[str, Member]] | None = None
        self.where = str(path)

    def where_is(self, name: str) -> str:
        """Return how errors call the file *name*."""
        return f"{self._path}: {name}"

    def has(self, name: str) -> bool:
        """Return whether there is anything of the name *name*."""
        return name in self._members()[1]

    @contextmanager
    def opened(self, name: str) -> Iterator[tuple[Readable, int]]:
        """Open the file *name*; give it with its size in bytes.

        Raises:
            SourceError: it is missing, is no file, or cannot be read.
        """
        file, members = self._members()
        if name not in members:
            raise SourceError(self.where_is(name), "is missing", _REMAKE)
        member = members[name]
        if member.link is not None:
            raise SourceError(self.where_is(name), "is not a file", _REMAKE)
        yield _Part(file, member), member.size

    def _members(self) -> tuple[BinaryIO, dict[str, Member]]:
        """Return the archive, not compressed, and what is where in it."""
        with self._mutex:
            if self._read is None:
                file = self._open()
                members = {member.name: member for member in TarStream(file, self.where).members()}
                self._read = file, members
            return self._read

    def _open(self) -> BinaryIO:
        with open_regular(self._path) as file, plain(file, self._path) as unzipped:
            if unzipped is file:
                return os.fdopen(os.dup(file.fileno()), "rb")
            # Blobs are read from any place, by several threads: that takes an archive that is not compressed.
            copy = nameless_file(self._spool_folder)
            for piece in iter(functools.partial(unzipped.read, _PIECE_BYTES), b""):
                with disk(self._spool_folder):
                    copy.write(piece)
            with disk(self._spool_folder):
                copy.seek(0)
            return copy


class _Part:
    """One file in an archive; has a place of its own in it, so that several threads can read at once."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._number = file.fileno()
        self._start = member.start
        self._size = member.size
        self._at = 0

    def read(self, size: int, /) -> bytes:
        found = os.pread(self._number, min(size, max(self._size - self._at, 0)), self._start + self._at)
        self._at += len(found)
        return found

    def seek(self, start: int, /) -> None:
        self._at = start


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open the regular file *path*.

    Raises:
        SourceError: it is missing, is no file, or cannot be read.
    """
    try:
        # Asked by name first: merely opening a pipe would wait for a writer.
        if not path.is_file():
            raise SourceError(str(path), "is not a file" if path.exists() else "is missing", _REMAKE)
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise SourceError(str(path), f"cannot be read ({error.strerror})", "correct its permissions") from None


@contextmanager
def plain(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Give what *file* holds: itself, or what is in it where it is gzipped.

    Raises:
        SourceError: it is gzipped and damaged; *path* names it.
    """
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not is_gzip:
        yield file
        return
    try:
        with gzip.GzipFile(fileobj=file) as unzipped:
            yield cast("BinaryIO", unzipped)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(str(path), f"is damaged ({error})", "make the archive again") from None
