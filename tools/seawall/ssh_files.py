"""The files of a tree on another machine, read over one connection of the user's OpenSSH client.

Only sshd and its sftp are wanted over there: no shell is asked, so no name has to be quoted. Links are followed by the
other side; where one leads out of the tree, its bytes are not those of the digest that they are checked against.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from seawall.errors import NotFoundError, SourceError, TransientError
from seawall.place import SshPlace
from seawall.reference import is_tag
from seawall.sftp import READ_TIMEOUT, MissingError, RefusedError, SftpError, SftpSession
from seawall.ssh import SshProcess
from seawall.tree_files import TAGS_MAX

_TRIES = 2
_END_SECONDS = 2.0
_Result = TypeVar("_Result")


class SshFiles:
    """Reads a tree over SFTP; connects when it is first asked, and again after the connection broke.

    Args:
        place: where the tree lies.
        timeout: seconds that the other side may be silent.
    """

    def __init__(self, place: SshPlace, timeout: float = READ_TIMEOUT) -> None:
        self._place = place
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: tuple[SshProcess, SftpSession] | None = None
        self._requests = 0

    @property
    def requests(self) -> int:
        """How many requests were sent so far, over all connections."""
        return self._requests + (self._connection[1].requests if self._connection else 0)

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._requests += connection[1].requests
            connection[0].end(_END_SECONDS)

    def read(self, path: str, limit: int, where: str) -> bytes:
        """Return the bytes of the file *path*, or its first *limit* + 1 bytes where it has more.

        Raises:
            NotFoundError: there is no such file.
            CredentialsError: the host takes none of the keys.
            SourceError: the host cannot be asked, or refuses.
        """

        def whole(session: SftpSession) -> bytes:
            content = bytearray()
            for piece in session.read(self._full(path)):
                content += piece
                if len(content) > limit:
                    break
            return bytes(content[: limit + 1])

        return self._asked(whole, where)

    def pieces(self, path: str, size: int, start: int, where: str) -> Iterator[bytes]:
        """Yield the bytes of the file *path*, which has *size*, from byte *start* on, in pieces of at most 1 MiB.

        Raises:
            NotFoundError: there is no such file.
            TransientError: the connection broke, or fell silent.
            CredentialsError: the host takes none of the keys.
            SourceError: the host cannot be asked, or refuses.
        """
        with self._session(where) as session:
            yield from session.read(self._full(path), size, start)

    def tags(self, repository: str, where: str) -> tuple[str, ...]:
        """Return every tag of *repository*, each once.

        Raises:
            NotFoundError: there is no such repository.
            CredentialsError: the host takes none of the keys.
            SourceError: the host cannot be asked, or refuses.
        """
        folder = self._full(f"v2/{repository}/manifests")
        names = self._asked(lambda session: session.names(folder, TAGS_MAX), where)
        return tuple(sorted(filter(is_tag, names)))

    def sizes(self, paths: list[str], where: str) -> list[int | None]:
        """Return the size in bytes of each of the files *paths*, None where there is no such file; all in one go.

        Raises:
            CredentialsError: the host takes none of the keys.
            SourceError: the host cannot be asked, or refuses.
        """
        full = [self._full(path) for path in paths]
        found = self._asked(lambda session: session.stats(full), where)
        return [figures.size if figures and figures.is_file else None for figures in found]

    def link(self, path: str, where: str) -> str | None:
        """Return where the link *path* leads, as it is written there; None where there is none.

        Raises:
            CredentialsError: the host takes none of the keys.
            SourceError: the host cannot be asked, or refuses.
        """
        return self._asked(lambda session: session.link(self._full(path)), where)

    def _full(self, path: str) -> str:
        return f"{self._place.path.rstrip('/')}/{path}"

    def _asked(self, ask: Callable[[SftpSession], _Result], where: str) -> _Result:
        """Return what *ask* returns; asks once more where the connection broke, as an idle one may have."""
        for left in reversed(range(_TRIES)):
            try:
                with self._session(where) as session:
                    return ask(session)
            except TransientError:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def _session(self, where: str) -> Iterator[SftpSession]:
        process, session = self._connect(where)
        try:
            yield session
        except MissingError:
            raise NotFoundError(where, "is missing", "correct the name") from None
        except RefusedError as error:
            what = f"{self._place.host} does not give it ({error})"
            raise SourceError(where, what, "check that tree, and who may read it") from None
        except SftpError as error:
            raise self._broken(process, error, where) from None

    def _connect(self, where: str) -> tuple[SshProcess, SftpSession]:
        with self._lock:
            if self._connection is None:
                process = SshProcess(self._place, "sftp", subsystem=True)
                try:
                    session = SftpSession(process.stdin, process.stdout, self._timeout)
                except SftpError as error:
                    raise _failure(process, self._place, error, where) from None
                except BaseException:
                    process.kill()
                    raise
                self._connection = (process, session)
            return self._connection

    def _broken(self, process: SshProcess, error: SftpError, where: str) -> Exception:
        with self._lock:
            if self._connection is not None and self._connection[0] is process:
                self._requests += self._connection[1].requests
                self._connection = None
        return _failure(process, self._place, error, where)


def _failure(process: SshProcess, place: SshPlace, error: SftpError, where: str) -> Exception:
    is_ended = "ended" in str(error)
    if not is_ended:
        process.kill()
    process.end(_END_SECONDS)
    if is_ended:
        return process.failure(where)
    return TransientError(where, f"{place.host} {error}", "check that sftp to that host works")
