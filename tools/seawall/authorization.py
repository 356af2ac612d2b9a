"""Getting leave to pull from a registry (the distribution project's "Token Authentication Specification")."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from seawall.challenge import Challenge
from seawall.credentials import Credentials, CredentialsLookup
from seawall.errors import CredentialsError, SourceError
from seawall.http_session import HttpRequest, HttpSession, is_loopback, printable
from seawall.reference import RegistryLocation

_LIFETIME_MIN = 60.0
"""Seconds that a token lives where its server does not say, or says less (token specification)."""
_LIFETIME_MARGIN = 10.0
_TOKEN_BODY_BYTES = 1024 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class _Bearer:
    challenge: Challenge
    expires: float


class Authorization:
    """The ``Authorization`` header for one repository, shared by all threads that pull from it.

    Credentials are looked up once a registry asks for them. A token is fetched once for all threads, and again
    when it expires or is refused.

    Args:
        location: the repository.
        credentials: looks up what there is for the registry.
        http: sends the requests for tokens.
        sent: called for each of these requests.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        location: RegistryLocation,
        credentials: CredentialsLookup,
        http: HttpSession,
        sent: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._location = location
        self._lookup = credentials
        self._found: tuple[Credentials | None] | None = None
        self._http = http
        self._sent = sent
        self._clock = clock
        self._lock = threading.Lock()
        self._lookup_lock = threading.Lock()
        self._header: str | None = None
        self._bearer: _Bearer | None = None
        self._refusal: tuple[str, str] | None = None

    def header(self, where: str) -> str | None:
        """Return the header to send, or None as long as the registry has not asked for one.

        Raises:
            CredentialsError: a token has expired and is not renewed.
            SourceError: likewise, for another reason.
        """
        with self._lock:
            if self._bearer is not None and self._clock() >= self._bearer.expires:
                self._header = self._token(self._bearer.challenge, where)
            return self._header

    def renew(self, challenges: Iterable[Challenge], refused: str | None, request: HttpRequest, said: str) -> str:
        """Return a header that answers *challenges*.

        Args:
            challenges: what the registry asked for.
            refused: the header that it refused, None where the request had none.
            request: what it was asked.
            said: what its refusal said.

        Raises:
            CredentialsError: it refuses the credentials, or wants some.
            SourceError: it asks for what nobody can give.
        """
        where = request.where
        with self._lock:
            if self._refusal is not None:
                raise CredentialsError(where, *self._refusal)
            if self._header is not None and self._header != refused:
                return self._header
            by_scheme = {challenge.scheme: challenge for challenge in reversed(tuple(challenges))}
            if "bearer" in by_scheme:
                bearer = by_scheme["bearer"]
                _check_realm(bearer.parameters.get("realm", ""), request.url, where)
                self._header = self._token(bearer, where)
            elif "basic" in by_scheme or not by_scheme:
                self._header = self._basic(where, said)
            else:
                what = f"{self._location.host} asks for {printable(', '.join(by_scheme))}, not a token or a password"
                raise SourceError(where, what, "check that it is a registry")
            return self._header

    def refused(self, where: str, said: str) -> CredentialsError:
        """Return the error for a registry that refuses what it has been given, or wants credentials."""
        host = self._location.host
        because = f" ({said})" if said else ""
        if self._credentials() is None:
            what = f"{host} wants credentials, or has no such repository{because}"
            return CredentialsError(where, what, f"run docker login {host}, or correct the name")
        what = f"{host} refuses these credentials{because}"
        return CredentialsError(where, what, f"run docker login {host} with an account that may pull this")

    def give_up(self, where: str, said: str) -> CredentialsError:
        """Return the error of :meth:`refused`, which from now on answers every challenge.

        Trying once more for each blob would look like guessing, and lock an account.
        """
        with self._lock:
            return self._remembered(self.refused(where, said))

    def _credentials(self) -> Credentials | None:
        # Looked up when first asked for, and once: a helper may ask a person, or take its time.
        with self._lookup_lock:
            if self._found is None:
                self._found = (self._lookup(self._location.host),)
            return self._found[0]

    def _basic(self, where: str, said: str) -> str:
        credentials = self._credentials()
        if credentials is None:
            raise self._remembered(self.refused(where, said))
        if credentials.identity_token:
            what = f"{self._location.host} takes a name and a password, and the credentials are an identity token"
            todo = f"run docker login {self._location.host} with a password"
            raise self._remembered(CredentialsError(where, what, todo))
        return credentials.basic

    def _token(self, challenge: Challenge, where: str) -> str:
        credentials = self._credentials()
        request = self._token_request(challenge, credentials, where)
        status, body, said = self._http.persist(lambda: self._answer(request))
        server = urlsplit(request.url).netloc
        # RFC 6749, section 5.2, has 400 for a refresh token that is not valid.
        if status in {401, 403} or (status == 400 and request.form is not None):
            raise self._remembered(self.refused(where, said))
        if status != 200:
            what = f"the token server {server} answered {status}" + (f" ({said})" if said else "")
            raise SourceError(where, what, f"check that docker login {self._location.host} works")
        try:
            document = json.loads(body)
            token = document.get("token") or document.get("access_token")
            lifetime = float(document.get("expires_in") or 0)
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
            token, lifetime = None, 0
        if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            raise SourceError(where, f"the token server {server} sent no token", "check that it is one")
        self._bearer = _Bearer(challenge, self._clock() + max(lifetime, _LIFETIME_MIN) - _LIFETIME_MARGIN)
        return f"Bearer {token}"

    def _token_request(self, challenge: Challenge, credentials: Credentials | None, where: str) -> HttpRequest:
        realm = challenge.parameters["realm"]
        query = {"scope": f"repository:{self._location.repository}:pull"}
        if challenge.parameters.get("service"):
            query["service"] = challenge.parameters["service"]
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "seawall",
                **query,
            }
            return HttpRequest("POST", realm, where, form=form)
        parts = urlsplit(realm)
        url = urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), *query.items()]), fragment=""))
        return HttpRequest("GET", url, where, authorization=credentials.basic if credentials else None)

    def _answer(self, request: HttpRequest) -> tuple[int, bytes, str]:
        response = self._http.send(request, self._sent)
        if response.status_code != 200:
            return response.status_code, b"", self._http.said(request, response)
        return 200, self._http.read(request, response, _TOKEN_BODY_BYTES), ""

    def _remembered(self, error: CredentialsError) -> CredentialsError:
        self._refusal = (error.what, error.todo)
        self._header, self._bearer = None, None
        return error


def _check_realm(realm: str, url: str, where: str) -> None:
    """Raise SourceError unless *realm* may be sent the credentials of the registry at *url*."""
    try:
        parts = urlsplit(realm)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    registry = urlsplit(url)
    if not host or parts.scheme not in {"http", "https"} or "@" in parts.netloc:
        raise SourceError(where, f"{registry.netloc} names no token server that can be asked", "tell who runs it")
    if parts.scheme == "http" and registry.scheme == "https" and not is_loopback(registry.netloc):
        what = f"{registry.netloc} wants its token fetched over plain http from {host}"
        raise SourceError(where, what, "do not give it credentials, and tell who runs it")
