"""What publishing wants of an object store, whichever API it speaks: objects under the paths of a tree."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seawall.digest import Digest
from seawall.errors import TreeError


@dataclass(frozen=True, slots=True)
class Headers:
    """What an object is stored with."""

    media_type: str
    cache: str
    digest: Digest | None = None
    """Of a manifest: what clients are told as Docker-Content-Digest."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a store says of an object."""

    size: int
    """Bytes."""
    etag: str
    age: float
    """Seconds since it was written, by the store's clock."""
    media_type: str = ""
    digest: str = ""
    """What was kept of :attr:`Headers.digest`."""


class StoreObjects(Protocol):
    """Writes objects of one bucket or container; may be used by several threads.

    Errors of all methods: :class:`~seawall.errors.SeawallError` where the store does not answer, or refuses.
    """

    def where(self, path: str) -> str:
        """Return *path* as errors name it."""
        ...

    def head(self, path: str) -> Found | None:
        """Return what the store says of an object; None where it has none."""
        ...

    def get(self, path: str) -> tuple[bytes, Found] | None:
        """Return the bytes of a small object and what the store says of it; None where it has none."""
        ...

    def listed(self, prefix: str) -> dict[str, Found]:
        """Return every object whose path begins with *prefix*, by its path; a digest or a type may be missing."""
        ...

    def put(self, path: str, body: bytes, headers: Headers) -> None:
        """Put an object in one piece; the store refuses it where it is not what was sent."""
        ...

    def put_if(self, path: str, body: bytes, headers: Headers, etag: str | None) -> str | None:
        """Put an object in the place of the one with *etag*; None: where there is none.

        Returns:
            Its own ETag; None where somebody else was faster.
        """
        ...

    def copy(self, source: str, path: str, size: int, headers: Headers) -> bool:
        """Copy an object of *size* bytes within the store; return whether it was there, and could be."""
        ...

    def send(self, file: Path, path: str, digest: Digest, headers: Headers, advance: Callable[[int], None]) -> None:
        """Send *file*, whose bytes are those of *digest*; what an interrupted run has sent of it is not sent again.

        Raises:
            TreeError: the file cannot be read, or holds other bytes; nothing of it can then be seen.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def unused(self, used: Set[Digest], grace: float) -> list[str]:
        """Return what the store keeps, as pieces of blobs, of none of *used*, and was written *grace* seconds ago."""
        ...

    def remove_unused(self, name: str) -> None:
        """Remove one of :meth:`unused`."""
        ...


def check_content(found: Digest, wanted: Digest, file: Path) -> None:
    """Check that the bytes of *file* are those that its name says.

    Raises:
        TreeError: they are not.
    """
    if found != wanted:
        raise TreeError(str(file), f"holds other bytes than its name says ({found})", "run seawall verify --repair")
