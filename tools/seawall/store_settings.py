"""How a bucket or a container has to be for a tree to be served out of it: values, and what differs from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

CORS_SECONDS = 3600
"""How long a browser may go by what it was told of CORS."""
CORS_METHODS = ("GET", "HEAD")
CORS_HEADERS = ("Docker-Content-Digest", "Docker-Distribution-Api-Version", "ETag", "Content-Length")
"""What a page of another origin may read of an answer (Fetch, "CORS protocol")."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What is wanted of a bucket or a container."""

    is_public: bool = True
    """Everybody may read its objects; nobody may list them."""
    origins: tuple[str, ...] = ()
    """Whose pages may read it in a browser; ``*`` is anybody's."""
    is_versioned: bool = False
    upload_days: int = 7
    """After so many days the store removes the parts of an upload that was not finished; 0: it keeps them."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not as it is wanted."""

    what: str
    """As ``make the bucket images``."""
    make: Callable[[], None]


def carry_out(changes: Sequence[Change], *, dry_run: bool) -> tuple[str, ...]:
    """Make *changes*, in their order, unless it is a rehearsal; return what they are."""
    for change in changes:
        if not dry_run:
            change.make()
    return tuple(change.what for change in changes)
