"""The sources of one run, each opened when it is first asked for and shared from then on."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from seawall.compression import Compression
from seawall.credentials import Credentials, CredentialsLookup, DockerConfig
from seawall.errors import InputError
from seawall.images import absolute
from seawall.place import HttpPlace, PathPlace, Place, S3Place
from seawall.quota import Quota
from seawall.reference import EngineLocation, FileLocation, Location, TreeLocation
from seawall.source import Source
from seawall.tree_files import TreeFiles

if TYPE_CHECKING:
    from seawall.http_session import HttpSession


class HasSource(Protocol):
    """An entry of an images file or of a lock."""

    @property
    def location(self) -> Location:
        """Where its images come from."""
        ...

    @property
    def plain_http(self) -> bool:
        """Whether to talk HTTP to it."""
        ...

    @property
    def compression(self) -> Compression | None:
        """How layers are compressed that come uncompressed; None for what the source's kind has by default."""
        ...


class OpenSource(Protocol):
    """Opens a source."""

    def __call__(
        self,
        location: Location,
        plain_http: bool,  # noqa: FBT001 - one of the three that tell sources apart
        compression: Compression | None = None,
        /,
    ) -> Source:
        """Return the source at *location*; the rest is as for :class:`HasSource`."""
        ...


class Sources:
    """The sources of one run.

    Args:
        base: the folder that relative paths are taken from: that of the images file or the lock.
        open_source: opens a source.
    """

    def __init__(self, base: Path, open_source: OpenSource) -> None:
        self._base = base
        self._open = open_source
        self._sources: dict[tuple[Location, bool, Compression | None], Source] = {}
        self._mutex = threading.Lock()

    def of(self, entry: HasSource) -> Source:
        """Return the source of *entry*; may be called from several threads."""
        return self.at(entry.location, plain_http=entry.plain_http, compression=entry.compression)

    def at(self, location: Location, *, plain_http: bool, compression: Compression | None = None) -> Source:
        """Return the source at *location*; may be called from several threads."""
        key = (absolute(location, self._base), plain_http, compression)
        with self._mutex:
            if key not in self._sources:
                self._sources[key] = self._open(*key)
            return self._sources[key]

    @property
    def requests(self) -> int:
        """How many requests all of them have been asked so far."""
        return sum(source.requests for source in self._sources.values())


def opener(
    credentials: CredentialsLookup | None = None,
    quotas: dict[str, Quota] | None = None,
    spool_folder: Path | None = None,
) -> OpenSource:
    """Return what opens sources; they share their connections.

    Args:
        credentials: looks credentials up; those that Docker keeps if left out.
        quotas: what hosts say of their quotas of requests is put into it, by host.
        spool_folder: where temporary files for what has to be compressed are made; see :class:`~seawall.spool.Spool`.
    """
    # Read once, when a registry first wants credentials: a file that is not needed can do no harm.
    config = functools.cache(DockerConfig.load)

    @functools.cache
    def session() -> "HttpSession":
        from seawall.http_session import HttpSession  # noqa: PLC0415

        return HttpSession(quotas=quotas)

    def lookup(host: str) -> Credentials | None:
        return config().lookup(host)

    trees: dict[Place, TreeFiles] = {}

    def open_source(
        location: Location,
        plain_http: bool,  # noqa: FBT001 - the shape of OpenSource
        compression: Compression | None = None,
    ) -> Source:
        # Each kind's libraries are read where it is asked for: most runs ask none.
        if isinstance(location, FileLocation | EngineLocation):
            from seawall.local_sources import open_local  # noqa: PLC0415

            return open_local(location, compression, spool_folder)
        if isinstance(location, TreeLocation):
            if plain_http:
                raise InputError(str(location), "says itself how it is reached, not by plain_http", "leave that out")
            from seawall.tree_source import TreeSource  # noqa: PLC0415

            is_new = location.place not in trees
            if is_new:
                trees[location.place] = _tree_files(location.place, credentials or lookup, session)
            return TreeSource(location, trees[location.place], counts=is_new)
        from seawall.registry import RegistrySource  # noqa: PLC0415

        return RegistrySource(location, plain_http=plain_http, credentials=credentials or lookup, http=session())

    return open_source


def _tree_files(place: Place, credentials: CredentialsLookup, session: "Callable[[], HttpSession]") -> TreeFiles:
    """Return what reads the tree at *place*; each kind's libraries are read where it is the one."""
    if isinstance(place, PathPlace):
        from seawall.path_files import PathFiles  # noqa: PLC0415

        return PathFiles(place)
    if isinstance(place, HttpPlace):
        from seawall.http_files import HttpFiles  # noqa: PLC0415

        return HttpFiles(place, credentials=credentials, http_session=session())
    if isinstance(place, S3Place):
        from seawall.s3_files import S3Files  # noqa: PLC0415

        return S3Files(place)
    from seawall.ssh_files import SshFiles  # noqa: PLC0415

    return SshFiles(place)
