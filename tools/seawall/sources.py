"""The sources of one run, each opened when it is first asked for and shared from then on."""

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from seawall.compression import Compression
from seawall.credentials import Credentials, CredentialsFrom, CredentialsLookup, DockerConfig
from seawall.errors import InputError
from seawall.images import absolute
from seawall.manifest import Manifest
from seawall.mirrors import Mirror, MirroredSource
from seawall.place import HttpPlace, PathPlace, Place, S3Place
from seawall.quota import Quota, shortage
from seawall.reference import (
    HUB_API,
    EngineLocation,
    FileLocation,
    Location,
    RegistryLocation,
    TreeLocation,
    api_host,
)
from seawall.registries import RegistriesConf, RegistryPlace
from seawall.source import Source
from seawall.tree_files import TreeFiles

if TYPE_CHECKING:
    from seawall.http_session import HttpSession


class HasSource(Protocol):
    """An entry of an images file or of a lock."""

    @property
    def source(self) -> str:
        """Where its images come from, as it was written."""
        ...

    @property
    def location(self) -> Location:
        """The same, read."""
        ...

    @property
    def plain_http(self) -> bool:
        """Whether to talk HTTP to it."""
        ...

    @property
    def compression(self) -> Compression | None:
        """How layers are compressed that come uncompressed; None for what the source's kind has by default."""
        ...

    @property
    def credentials(self) -> CredentialsFrom | None:
        """Where its credentials are found; None for those of ``docker login``."""
        ...


class OpenSource(Protocol):
    """Opens a source."""

    def __call__(
        self,
        location: Location,
        plain_http: bool,  # noqa: FBT001 - one of those that tell sources apart
        compression: Compression | None = None,
        credentials: CredentialsFrom | None = None,
        /,
    ) -> Source:
        """Return the source at *location*; the rest is as for :class:`HasSource`."""
        ...


class Sources:
    """The sources of one run.

    Args:
        base: the folder that relative paths are taken from: that of the images file or the lock.
        open_source: opens a source.
        quotas: what hosts said of their quotas of requests, by host, as the sources note it.
        say: hears of it where that will not do.
    """

    def __init__(
        self,
        base: Path,
        open_source: OpenSource,
        quotas: Mapping[str, Quota] | None = None,
        say: Callable[[str], object] = lambda _line: None,
    ) -> None:
        self._base = base
        self._open = open_source
        self._quotas: Mapping[str, Quota] = {} if quotas is None else quotas
        self._say = say
        self._said: set[str] = set()
        self.brought: list[Manifest] = []
        """The manifests that the run has fetched so far; a run that ends early does well to keep them."""
        self._sources: dict[tuple[Location, bool, Compression | None, CredentialsFrom | None], Source] = {}
        self._mutex = threading.Lock()

    def of(self, entry: HasSource) -> Source:
        """Return the source of *entry*; may be called from several threads."""
        return self.at(
            entry.location, plain_http=entry.plain_http, compression=entry.compression, credentials=entry.credentials
        )

    def at(
        self,
        location: Location,
        *,
        plain_http: bool,
        compression: Compression | None = None,
        credentials: CredentialsFrom | None = None,
    ) -> Source:
        """Return the source at *location*; may be called from several threads."""
        found = credentials.below(self._base) if credentials else None
        key = (absolute(location, self._base), plain_http, compression, found)
        with self._mutex:
            if key not in self._sources:
                self._sources[key] = self._open(*key)
            return self._sources[key]

    def expect(self, entries: Iterable[HasSource], *, blobs: bool = False) -> None:
        """Say, once for each host, where a request for each of *entries* is more than the host still allows.

        It is no reason to stop: what comes stays, and the next run goes on from there.
        """
        locations = (entry.location for entry in entries)
        needed = Counter(api_host(location) for location in locations if isinstance(location, RegistryLocation))
        if blobs:
            # Docker Hub counts manifests alone.
            del needed[HUB_API]
        for host, number in needed.items():
            line = shortage(host, number, self._quotas.get(host))
            if line is not None and host not in self._said:
                self._said.add(host)
                self._say(line)

    @property
    def requests(self) -> int:
        """How many requests all of them have been asked so far."""
        return sum(source.requests for source in self._sources.values())


def opener(
    credentials: CredentialsLookup | None = None,
    quotas: dict[str, Quota] | None = None,
    spool_folder: Path | None = None,
    registries: RegistriesConf | None = None,
    say: Callable[[str], object] = lambda _line: None,
) -> OpenSource:
    """Return what opens sources; they share their connections.

    Args:
        credentials: looks up what a source does not name itself; in what Docker keeps if left out.
        quotas: what hosts say of their quotas of requests is put into it, by host.
        spool_folder: where temporary files for what has to be compressed are made; see :class:`~seawall.spool.Spool`.
        registries: says which registries have mirrors, or are really elsewhere.
        say: hears of mirrors that are of no use.
    """
    # Read once, when a registry first wants credentials: a file that is not needed can do no harm.
    config = functools.cache(DockerConfig.load)

    @functools.cache
    def session(tries: int | None = None, _for: CredentialsFrom | None = None) -> "HttpSession":
        # Who has credentials of his own shares no connection with others of that host.
        from seawall.http_session import TRIES, HttpSession  # noqa: PLC0415

        return HttpSession(tries=tries or TRIES, quotas=quotas)

    def lookup(host: str) -> Credentials | None:
        return config().lookup(host)

    trees: dict[Place, TreeFiles] = {}

    def open_source(
        location: Location,
        plain_http: bool,  # noqa: FBT001 - the shape of OpenSource
        compression: Compression | None = None,
        own_credentials: CredentialsFrom | None = None,
        /,
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

        own_lookup = own_credentials.lookup(location.host) if own_credentials else None

        def at(place: RegistryPlace, tries: int | None) -> Source:
            is_own = place.location.host == location.host
            return RegistrySource(
                place.location,
                plain_http=(plain_http and is_own) or (None if place.insecure else False),
                credentials=(own_lookup if is_own else None) or credentials or lookup,
                http=session(tries, own_credentials if is_own else None),
            )

        *mirrors, own = registries.places(location) if registries else (RegistryPlace(location),)
        if not mirrors:
            return at(own, None)
        return MirroredSource(
            at(own, None),
            # One try each: where a mirror fails, the next place is the next try.
            [Mirror(at(mirror, 1), str(mirror.location), mirror.tags, mirror.digests, say) for mirror in mirrors],
        )

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
