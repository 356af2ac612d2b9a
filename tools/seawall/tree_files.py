"""The files of a tree that lies elsewhere, whatever leads there."""

from collections.abc import Iterator
from typing import Protocol

TAGS_MAX = 200_000
"""The longest list of tags that is believed."""
PIECE_BYTES = 1024 * 1024
"""The largest piece in which a file is handed on."""


class TreeFiles(Protocol):
    """Reads the files of one tree; a *path* is relative to its root: ``v2/<repository>/blobs/sha256:<hex>``.

    Whoever asked checks what comes against its digest. All methods may be called from several threads, and take
    *where*: what to name in an error.

    Errors of all methods: :class:`~seawall.errors.NotFoundError` where there is no such file,
    :class:`~seawall.errors.TransientError` where trying again may help, :class:`~seawall.errors.CredentialsError`
    where access is refused, and :class:`~seawall.errors.SourceError` else.
    """

    def read(self, path: str, limit: int, where: str) -> bytes:
        """Return the bytes of the file *path*, or its first *limit* + 1 bytes where it has more."""
        ...

    def pieces(self, path: str, size: int, start: int, where: str) -> Iterator[bytes]:
        """Yield the bytes of the file *path*, which has *size*, from byte *start* on, in pieces of at most 1 MiB."""
        ...

    def tags(self, repository: str, where: str) -> tuple[str, ...]:
        """Return every tag of *repository*, each once; a name that is no tag of the specification is not in it."""
        ...

    @property
    def requests(self) -> int:
        """How many requests were sent over the network so far."""
        ...
