"""The local Docker engine, asked over its HTTP API (Docker Engine API 1.40 and later)."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.errors import CredentialsError, NotFoundError, SourceError
from seawall.manifest import Platform
from seawall.pieces import Pieces
from seawall.reference import full_name, split_tag
from seawall.tar_stream import Readable

if TYPE_CHECKING:
    from docker import APIClient

_WHERE = "docker-daemon"
_SECONDS = 900
"""How long it may be silent: old engines write a large image to their disk before they send its first byte."""
_PIECE_BYTES = 1024 * 1024
_NO_NAME = "<none>"
_READS_ZSTD = (1, 42)
"""The API of Docker 23, the first whose ``docker load`` reads layers that are compressed so."""
_ARM_VARIANTS = {"armv6l": "v6", "armv7l": "v7"}


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """What an engine is."""

    platform: Platform
    """What it runs."""
    reads_zstd: bool
    keeps_manifests: bool
    """True where it keeps images in containerd: it names them by their manifest's digest then, not their config's."""


class Engine:
    """The engine that ``$DOCKER_HOST`` names (``unix://``, ``tcp://``), or the one behind ``/var/run/docker.sock``.

    ``$DOCKER_TLS_VERIFY`` and ``$DOCKER_CERT_PATH`` are obeyed as the ``docker`` command obeys them. It is first asked
    when there is something to ask it; its methods may be called from several threads.

    Errors of all methods: :class:`~seawall.errors.SourceError` where it does not answer, and
    :class:`~seawall.errors.CredentialsError` where it may not be asked.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.requests = 0
        """How many requests it has been asked so far."""

    def image_id(self, name: str) -> str:
        """Return the ID of the image *name*.

        Raises:
            NotFoundError: it has no such image.
        """
        with self._asking(name) as client:
            return str(client.inspect_image(name)["Id"])  # type: ignore[no-untyped-call]

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return the tags that it has of *repository*, which is named in full."""
        with self._asking(repository) as client:
            names = [name for row in client.images() for name in row.get("RepoTags") or () if _NO_NAME not in name]
        split = map(split_tag, names)
        return tuple(sorted({tag for name, tag in split if full_name(name, name) == repository}))

    @contextlib.contextmanager
    def export(self, image_id: str) -> Iterator[Readable]:
        """Yield the archive of an image, as ``docker save`` writes it, while the engine sends it.

        Raises:
            NotFoundError: it has no such image.
        """
        with self._asking(image_id) as client:
            yield Pieces(client.get_image(image_id, chunk_size=_PIECE_BYTES))

    @functools.cached_property
    def traits(self) -> "EngineTraits":
        """What it is, asked once."""
        with self._asking("version") as client:
            version = client.version()
        with self._asking("info") as client:
            info = client.info()
        api = tuple(int(part) for part in str(version["ApiVersion"]).split(".")[:2])
        store = dict(row[:2] for row in info.get("DriverStatus") or () if len(row) == 2)
        variant = _ARM_VARIANTS.get(str(info.get("Architecture")), "")
        return EngineTraits(
            platform=Platform(str(version["Os"]), str(version["Arch"]), variant),
            reads_zstd=api >= _READS_ZSTD,
            keeps_manifests=str(store.get("driver-type", "")).startswith("io.containerd."),
        )

    def has(self, image_id: str, name: str = "") -> bool:
        """Return whether it has the image *image_id* and, where *name* is given, calls it so."""
        try:
            return self.image_id(name or image_id) == image_id
        except NotFoundError:
            return False

    def layers(self) -> frozenset[tuple[str, ...]]:
        """Return the layers of each image that it has, from the lowest up, as the digests of what they unpack to.

        It says nothing of images that are removed while it is asked.
        """
        with self._asking("images") as client:
            names = {str(row["Id"]) for row in client.images(all=True)}
        return frozenset(layers for name in names if (layers := self._layers(name)))

    def _layers(self, image_id: str) -> tuple[str, ...]:
        try:
            with self._asking(image_id) as client:
                rootfs = client.inspect_image(image_id).get("RootFS") or {}  # type: ignore[no-untyped-call]
                return tuple(rootfs.get("Layers") or ())
        except NotFoundError:
            return ()

    def name(self, image_id: str, name: str) -> None:
        """Let *name*, with its tag, be a name of the image *image_id*.

        Raises:
            NotFoundError: it has no such image.
        """
        repository, tag = split_tag(name)
        with self._asking(image_id) as client:
            client.tag(image_id, repository, tag)

    def load(self, archive: Iterator[bytes], what: str) -> None:
        """Load what *archive* holds, as ``docker load`` does; *what* names it in errors.

        What *archive* raises ends the request, and the engine then keeps nothing of it.

        Raises:
            SourceError: the engine refuses it.
        """
        with self._asking(what) as client:
            # With its progress, so that an engine which is busy with large layers does not fall silent.
            for row in client.load_image(archive, quiet=False) or ():  # type: ignore[no-untyped-call]
                if isinstance(row, dict) and row.get("error"):
                    raise SourceError(f"{_WHERE}:{what}", f"the engine refuses ({row['error']})", "see its log")

    @functools.cached_property
    def _client(self) -> "APIClient":
        from docker import APIClient  # noqa: PLC0415 - only those who talk to an engine wait for it
        from docker.utils import kwargs_from_env  # noqa: PLC0415

        return APIClient(**kwargs_from_env(), version="auto", timeout=_SECONDS)

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator["APIClient"]:
        """Yield the client for one request, and turn what goes wrong into an error that says *what* was asked for."""
        from docker.errors import APIError, DockerException, NotFound  # noqa: PLC0415
        from requests import RequestException  # noqa: PLC0415

        where = f"{_WHERE}:{what}"
        try:
            with self._mutex:
                client = self._client
                self.requests += 1
            yield client
        except NotFound:
            raise NotFoundError(where, "the engine has no such image", "see docker image ls") from None
        except APIError as error:
            raise SourceError(where, f"the engine refuses ({error.explanation or error})", "see its log") from None
        except (DockerException, RequestException) as error:
            if "Permission denied" in str(error):
                raise CredentialsError(
                    where, "this user may not ask the engine", "join the group docker, or set DOCKER_HOST"
                ) from None
            raise SourceError(
                where, f"the engine does not answer ({error})", "start it, or set DOCKER_HOST to where it listens"
            ) from None
