"""The files of a tree in a folder of this machine."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from seawall.errors import NotFoundError, SourceError
from seawall.place import PathPlace
from seawall.reference import is_tag
from seawall.tree import CONTENT, V2
from seawall.tree_files import PIECE_BYTES


class PathFiles:
    """Reads a tree that somebody else may write: no link is followed to anywhere but its ``content/``."""

    def __init__(self, place: PathPlace) -> None:
        self._root = place.path

    @property
    def requests(self) -> int:
        """0: a folder is not asked over the network."""
        return 0

    def read(self, path: str, limit: int, where: str) -> bytes:
        """Return the bytes of the file *path*, or its first *limit* + 1 bytes where it has more.

        Raises:
            NotFoundError: there is no such file.
            SourceError: it is no tree, the file is not one of its contents, or the disk refuses.
        """
        with self._opened(path, where) as (file, _):
            return file.read(limit + 1)

    def pieces(self, path: str, size: int, start: int, where: str) -> Iterator[bytes]:
        """Yield the bytes of the file *path*, which has *size*, from byte *start* on, in pieces of at most 1 MiB.

        Raises:
            NotFoundError: there is no such file.
            SourceError: it has another size, and as :meth:`read`.
        """
        with self._opened(path, where) as (file, found):
            if found != size:
                raise SourceError(where, f"has {found} bytes, not the {size} of its descriptor", "verify that tree")
            file.seek(start)
            left = size - start
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece

    def tags(self, repository: str, where: str) -> tuple[str, ...]:
        """Return every tag of *repository*, each once.

        Raises:
            NotFoundError: there is no such repository.
            SourceError: it is no tree, or the disk refuses.
        """
        self._require_tree(where)
        with _disk(where):
            names = os.listdir(self._root / V2 / repository / "manifests")  # noqa: PTH208 - names, not paths
        return tuple(sorted(filter(is_tag, names)))

    @contextmanager
    def _opened(self, path: str, where: str) -> Iterator[tuple[BinaryIO, int]]:
        self._require_tree(where)
        with _disk(where):
            content = (self._root / CONTENT).resolve()
            target = (self._root / path).resolve(strict=True)
            # Asked before it is opened: merely opening a pipe would wait for a writer.
            if not target.is_relative_to(content) or not stat.S_ISREG(target.lstat().st_mode):
                raise SourceError(where, f"is not a file of {content}, as in a tree", "do not trust this tree")
            file = target.open("rb")
        with file, _disk(where):
            yield file, os.fstat(file.fileno()).st_size

    def _require_tree(self, where: str) -> None:
        if not (self._root / V2).is_dir():
            raise SourceError(where, f"{self._root} is not a tree", "give the folder that seawall sync filled")


@contextmanager
def _disk(where: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(where, "is missing", "correct the name") from None
    except (OSError, RuntimeError) as error:
        # A RuntimeError is what pathlib makes of links that go round in a circle.
        why = error.strerror if isinstance(error, OSError) else "its links go round in a circle"
        raise SourceError(where, f"cannot be read ({why})", "correct its permissions") from None
