"""What every source of images can do."""

from collections.abc import Iterator
from typing import Protocol

from seawall.digest import Digest
from seawall.manifest import Descriptor

DEFAULT_JOBS = 6
"""Blobs that are fetched at a time: enough to fill a line that is shared among connections."""


class Source(Protocol):
    """One repository that images come from.

    A source hands out what it has; whoever asked checks it against its digest. All methods may be
    called from several threads.

    Errors of all methods: :class:`~seawall.errors.SourceError` where it lacks or misrepresents something,
    :class:`~seawall.errors.TransientError` where trying again may help, and
    :class:`~seawall.errors.CredentialsError` where it refuses access.
    """

    def resolve(self, tag: str) -> Descriptor:
        """Return media type, digest and size of the manifest that *tag* names now."""
        ...

    def tags(self) -> tuple[str, ...]:
        """Return every tag there is now, each once; a name that is no tag of the specification is not in it."""
        ...

    def manifest(self, digest: Digest) -> tuple[bytes, str]:
        """Return the bytes of the manifest *digest* (at most 4 MiB) and the media type it came with, or ``""``."""
        ...

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Return what the source says refers to the manifest *subject*: claims, which only the manifests can prove.

        Digests and media types that a tree cannot serve are not in it.
        """
        ...

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of *blob* from byte *start* on, in pieces of at most 1 MiB; never many more than its size."""
        ...

    @property
    def requests(self) -> int:
        """How many requests this source has been asked over the network so far."""
        ...
