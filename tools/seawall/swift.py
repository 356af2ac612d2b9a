"""A container of an OpenStack Swift store: connections to it, and its errors as ours."""

import http.client
import os
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import keystoneauth1.exceptions
import keystoneauth1.session
import requests
import urllib3
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException

from seawall.errors import CredentialsError, NotFoundError, SeawallError, SourceError, TransientError
from seawall.openstack import find_account, open_session
from seawall.place import SwiftPlace

CONNECT_TIMEOUT = 10
"""Seconds until a connection has to stand."""
READ_TIMEOUT = 60
"""Seconds that the store may be silent."""

_RETRIES = 2
_MAX_BACKOFF = 4
_SAID_CHARACTERS = 200
_LATER = "try again later"
_REFUSED = frozenset({http.client.UNAUTHORIZED, http.client.FORBIDDEN})
_Answer = TypeVar("_Answer")


class Container:
    """Asks the container of *place*; may be used by several threads.

    Raises:
        CredentialsError: nobody said as whom.
        InputError: what was said is malformed.
    """

    def __init__(self, place: SwiftPlace) -> None:
        self.place = place
        self._account = find_account(os.environ, str(place))
        self._login = _Login(open_session(self._account, str(place)))
        # A connection is one thread's at a time; they share the token.
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()

    def ask(self, where: str, question: Callable[[Connection], _Answer]) -> _Answer:
        """Return what *question* returns, asked over a connection of its own.

        Raises:
            NotFoundError: there is no such object.
            CredentialsError: the store, or Keystone, refuses access.
            TransientError: the connection broke; trying again may help.
            SourceError: the store cannot be asked, or refuses for another reason.
        """
        with self._asked(where), self._connection() as connection:
            return question(connection)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = Connection(
                session=self._login,
                retries=_RETRIES,
                max_backoff=_MAX_BACKOFF,
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                insecure=self._account.verify is False,
                cacert=self._account.verify if isinstance(self._account.verify, str) else None,
                os_options={
                    "region_name": self._account.region,
                    "endpoint_type": self._account.interface,
                    "object_storage_url": self._account.storage_url or self._endpoint(),
                },
            )
        try:
            yield connection
        finally:
            self._idle.put(connection)

    def _endpoint(self) -> str:
        found = self._login.session.get_endpoint(
            service_type="object-store", interface=self._account.interface, region_name=self._account.region
        )
        if found is None:
            raise keystoneauth1.exceptions.EndpointNotFound("object-store")
        return str(found)

    @contextmanager
    def _asked(self, where: str) -> Iterator[None]:
        try:
            yield
        except ClientException as error:
            raise self._refusal(where, error) from None
        except (keystoneauth1.exceptions.Unauthorized, keystoneauth1.exceptions.Forbidden) as error:
            what = f"{_line(str(error.url or 'Keystone'))} refuses these credentials"
            raise CredentialsError(where, what, "correct the OpenStack credentials") from None
        except keystoneauth1.exceptions.CatalogException as error:
            todo = "correct OS_REGION_NAME and OS_INTERFACE, or set OS_STORAGE_URL"
            raise SourceError(where, f"the cloud names no store ({_line(str(error))})", todo) from None
        except keystoneauth1.exceptions.ClientException as error:
            raise SourceError(where, f"cannot authenticate ({_line(str(error))})", "check OS_AUTH_URL") from None
        except requests.exceptions.SSLError:
            raise SourceError(where, "the store's certificate is not trusted", "check OS_CACERT") from None
        except requests.exceptions.ConnectionError as error:
            what = f"the store is not reached, or broke off ({type(error).__name__})"
            raise TransientError(where, what, _LATER) from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(where, f"the store broke off ({type(error).__name__})", _LATER) from None

    def _refusal(self, where: str, error: ClientException) -> SeawallError:
        status = int(error.http_status or 0)
        if status == http.client.NOT_FOUND:
            return NotFoundError(where, "is missing", "correct the name, or make the container")
        said = error.http_response_content or b""
        words = _line(said.decode(errors="replace") if isinstance(said, bytes) else said)
        words = words or _line(str(error.http_reason or ""))
        because = f" ({words})" if words and "<" not in words else ""
        if status in _REFUSED:
            what = f"the store refuses these credentials{because}"
            return CredentialsError(where, what, "use some that may write this container")
        if status == 0:
            return SourceError(where, f"cannot be asked ({_line(str(error))})", "check the OpenStack settings")
        if status == http.client.UNPROCESSABLE_ENTITY:
            return TransientError(where, "arrived with other bytes than were sent", "run again")
        if status >= http.client.INTERNAL_SERVER_ERROR or status == http.client.TOO_MANY_REQUESTS:
            return SourceError(where, f"the store answered {status}{because}, {_RETRIES + 1} times in a row", _LATER)
        return SourceError(where, f"the store answered {status}{because}", "check the store and its settings")


@dataclass(frozen=True, slots=True)
class _Login:
    """The session, as connections of several threads can share it."""

    session: keystoneauth1.session.Session

    def get_endpoint(self, **wanted: Any) -> str | None:
        """Return where the store is."""
        return self.session.get_endpoint(**wanted)

    def get_token(self) -> str | None:
        """Return a token, a new one where the last has expired."""
        return self.session.get_token()

    def invalidate(self) -> bool:
        """Forget the token, which the store refused; return whether to go on with another.

        The session says no where another thread came first, and swiftclient would give up.
        """
        self.session.invalidate()
        return True


def _line(text: str) -> str:
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:_SAID_CHARACTERS]
