"""A spool: what a source had to compress, kept in a file without a name until the run ends, however it ends."""

import contextlib
import errno
import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from seawall.digest import Digest
from seawall.errors import TreeError

_PIECE_BYTES = 1024 * 1024
_LARGE_FILES = "/var/tmp"  # noqa: S108 - the file gets no name there
"""Where temporary files go that may not fit into memory, as a ``/tmp`` often is (file-hierarchy(7))."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes that a spool holds."""

    digest: Digest
    start: int
    size: int


class Spool:
    """Bytes in the order in which they came; may be used by several threads.

    Args:
        folder: where the file is made; ``$TMPDIR`` or ``/var/tmp`` where it is left out or cannot be written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._mutex = threading.Lock()
        self._end = 0

    def add(self, pieces: Iterable[bytes]) -> Extent:
        """Keep *pieces*, hashed as they come; one call after the other.

        Raises:
            TreeError: the disk refuses.
        """
        hasher = hashlib.sha256()
        with self._mutex:
            start = self._end
            for piece in pieces:
                hasher.update(piece)
                self._write(piece)
            return Extent(Digest(hasher.hexdigest()), start, self._end - start)

    def read(self, extent: Extent, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of *extent* from *start* on, in pieces of at most 1 MiB."""
        at, end = extent.start + start, extent.start + extent.size
        while at < end:
            piece = os.pread(self._file.fileno(), min(end - at, _PIECE_BYTES), at)
            at += len(piece)
            yield piece

    @functools.cached_property
    def _file(self) -> BinaryIO:
        return nameless_file(self._folder)

    def _write(self, piece: bytes) -> None:
        view = memoryview(piece)
        with disk(self._folder):
            while view:
                written = os.pwrite(self._file.fileno(), view, self._end)
                self._end += written
                view = view[written:]


def nameless_file(folder: Path | None) -> BinaryIO:
    """Return a new file without a name, for what may not fit into memory; it is gone when it is closed.

    Args:
        folder: where; ``$TMPDIR`` or ``/var/tmp`` where it is None or cannot be written.

    Raises:
        TreeError: the disk refuses.
    """
    with disk(folder):
        return tempfile.TemporaryFile(dir=_usable(folder))


@contextlib.contextmanager
def disk(folder: Path | None) -> Iterator[None]:
    """Turn what the disk of *folder* says into an error that names it."""
    try:
        yield
    except OSError as error:
        what = "no space is left" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror
        raise TreeError(
            str(_usable(folder)), f"cannot be written ({what})", "make room, or set TMPDIR to a folder that has some"
        ) from None


def _usable(folder: Path | None) -> Path:
    is_usable = folder is not None and os.access(folder, os.W_OK | os.X_OK)
    return folder if folder is not None and is_usable else Path(os.environ.get("TMPDIR") or _LARGE_FILES)
