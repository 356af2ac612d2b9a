"""HTTP as a puller needs it: bounded in time, in bytes and in redirects, and careful with credentials."""

import http.client
import ipaddress
import json
import random
import socket
import ssl
import threading
import time
import weakref
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.cookiejar import DefaultCookiePolicy
from typing import TypeVar
from urllib.parse import parse_qs, urljoin, urlsplit, urlunsplit

import requests
import urllib3
from urllib3.util import Retry

from seawall import __version__
from seawall.connection import DRIP_TIMEOUTS, BoundedAdapter, DripError, TlsSocket, bounded, limit
from seawall.errors import SourceError, TransientError
from seawall.interrupt import check, pause
from seawall.quota import Quota, parse_quota

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection has to stand."""
READ_TIMEOUT = 60.0
"""Seconds that a server may be silent in the middle of an answer."""
MIN_RATE = 8 * 1024
"""Bytes per second that a blob has to come with, on average over :data:`READ_TIMEOUT`; so its size bounds its time."""
TRIES = 3
RETRY_AFTER_MAX = 60
"""Seconds that are waited at most before another request; who wants to be left alone for longer is."""
PIECE_BYTES = 1024 * 1024
"""The largest piece in which a body is handed on."""
QUOTA_WAITS_MAX = 15 * 60
"""Seconds that a session waits for one host's quota in all, however little the host says each time."""

_REDIRECTS_MAX = 5
_BACKOFF = 1.0
_RETRY_AFTER_SENSE = 30 * 24 * 3600
"""Seconds beyond which a ``Retry-After`` is nonsense, and as good as none."""
_SMALL_BODY_TIMEOUTS = 3
_ERROR_BODY_BYTES = 16 * 1024
_SAID_CHARACTERS = 200
_LATER = "try again later"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}

_TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
)
_DIAGNOSES: tuple[tuple[type[BaseException], str, str], ...] = (
    (DripError, "drips its answer", _LATER),
    (socket.gaierror, "is not a name that resolves", "check the name and this machine's DNS"),
    (ConnectionRefusedError, "refused the connection", "check that it runs and that the port is right"),
    (ConnectionError, "cut the connection", _LATER),
    (ssl.SSLError, "cut the connection", _LATER),
    (http.client.IncompleteRead, "ended its answer early", _LATER),
    (http.client.HTTPException, "does not answer in HTTP", "check that the port is a registry's"),
    (urllib3.exceptions.ReadTimeoutError, "sent nothing for {read:g} seconds", _LATER),
    (
        urllib3.exceptions.ConnectTimeoutError,
        "gave no connection in {connect:g} seconds",
        "check that it runs and is reachable",
    ),
)

_Result = TypeVar("_Result")
_jitter = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request of a client; its secrets are not in its ``repr``."""

    method: str
    url: str
    where: str
    """What to name in an error, usually a reference with its source."""
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    """The ``Authorization`` header; it stays on the host that *url* names."""
    form: Mapping[str, str] | None = field(default=None, repr=False)
    """The body of a POST."""
    accept: tuple[str, ...] = ()
    """What is accepted, each in a line of its own: to HTTP the same as one line with commas, not to every server."""


class UnavailableError(TransientError):
    """One try of a request failed, and the next may not; :meth:`HttpSession.persist` deals with it."""

    def __init__(self, where: str, what: str, todo: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(where, what, todo)
        self.status = status
        self.retry_after = retry_after

    @property
    def wants_peace(self) -> bool:
        """Whether the server wants no request for longer than we wait."""
        return self.retry_after is not None and self.retry_after > RETRY_AFTER_MAX

    def final(self, tries: int) -> SourceError:
        """Return the error to give up with after so many *tries*: transient only where another may help soon."""
        what = f"{self.what}, {tries} times in a row" if tries > 1 else self.what
        if self.status == http.client.TOO_MANY_REQUESTS:
            # Not transient: to ask again at once is what the server complains of.
            when = "later" if self.retry_after is None else f"in {self.retry_after:.0f} seconds"
            todo = f"try again {when}, or use credentials that have a larger quota"
            return SourceError(self.where, f"the quota of requests is used up ({what})", todo)
        if self.wants_peace:
            return SourceError(self.where, what, f"try again in {self.retry_after:.0f} seconds, as it asks")
        return (TransientError if tries == 1 else SourceError)(self.where, what, self.todo)


class HttpSession:
    """Sends requests for any number of sources, from any number of threads.

    Each thread has connections of its own, because :class:`requests.Session` promises nothing to several.
    Proxies and ``REQUESTS_CA_BUNDLE`` are taken from the environment, ``.netrc`` and cookies from nowhere.

    Args:
        connect_timeout: seconds until a connection has to stand.
        read_timeout: seconds that a server may be silent.
        tries: how often a request is sent at most before it has failed.
        sleep: waits so many seconds between two tries.
        quotas: where to put what each host said last of its quota of requests.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        tries: int = TRIES,
        sleep: Callable[[float], object] = pause,
        quotas: dict[str, Quota] | None = None,
    ) -> None:
        self._timeouts = (connect_timeout, read_timeout)
        self._tries = tries
        self._sleep = sleep
        self._quotas: dict[str, Quota] = {} if quotas is None else quotas
        self._closed_until: dict[str, float] = {}
        self._quota_waits: dict[str, float] = {}
        self._local = threading.local()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._schemes: dict[str, str] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections that wait to be used again."""
        with self._lock:
            for session in self._sessions:
                session.close()

    def scheme(self, host: str, *, plain_http: bool | None) -> str:
        """Return ``http`` or ``https``, whichever the registry at *host* is to be asked with.

        As Docker does it: HTTPS, unless the registry is declared as plain, or does not speak TLS and is on this machine
        or may do without (None). A certificate that is not trusted is no reason to do without.
        """
        if plain_http:
            return "http"
        if plain_http is not None and not is_loopback(host):
            return "https"
        with self._lock:
            if host not in self._schemes:
                speaks_tls = _speaks_tls(host, self._timeouts[0])
                if speaks_tls is None:
                    return "http"
                self._schemes[host] = "https" if speaks_tls else "http"
            return self._schemes[host]

    def persist(self, attempt: Callable[[], _Result]) -> _Result:
        """Return what *attempt* returns, which is called again after a pause where it found a server unavailable.

        Raises:
            SourceError: the last try failed as well, or the server's quota is used up.
        """
        tried = 0
        while True:
            try:
                return attempt()
            except UnavailableError as error:
                tried += 1
                if tried >= self._tries or error.wants_peace:
                    raise error.final(tried) from None
                seconds = _BACKOFF * 2 ** (tried - 1) * _jitter.uniform(0.5, 1)
                if error.retry_after is not None:
                    seconds = error.retry_after + seconds / 10
                self._sleep(seconds)

    def send(self, request: HttpRequest, sent: Callable[[], None]) -> requests.Response:
        """Send *request* once, follow its redirects, and return the answer, its body yet to be read.

        Args:
            request: what to send.
            sent: called for each request that goes out.

        Raises:
            UnavailableError: no connection, no answer, or one of status 429 or 5xx.
            SourceError: the server cannot be asked at all: its certificate, its redirects.
        """
        hop, is_home = request, True
        for _ in range(_REDIRECTS_MAX + 1):
            response = self.send_once(hop, sent)
            target = self._redirect(hop, response) if request.method != "POST" else None
            if target is None:
                return self._available(hop, response)
            self.said(hop, response)
            is_home = is_home and same_origin(target, request.url)
            hop = replace(hop, url=target, authorization=request.authorization if is_home else None)
        raise SourceError(
            request.where, f"{_host(request.url)} redirects more than {_REDIRECTS_MAX} times", "tell who runs it"
        )

    def read(self, request: HttpRequest, response: requests.Response, most: int) -> bytes:
        """Return the body of *response*, or its first *most* bytes, and close it.

        Raises:
            UnavailableError: the body is cut short, or comes too slowly.
        """
        deadline = time.monotonic() + _SMALL_BODY_TIMEOUTS * self._timeouts[1]
        body = bytearray()
        with closing(response):
            limit(response.raw, deadline - time.monotonic())
            while len(body) < most:
                try:
                    piece = response.raw.read1(min(most - len(body), PIECE_BYTES), decode_content=False)
                except (OSError, urllib3.exceptions.HTTPError) as error:
                    raise self._unavailable(request, error) from None
                if not piece:
                    return bytes(body)
                body += piece
                if time.monotonic() > deadline:
                    raise UnavailableError(request.where, f"{_host(request.url)} answers too slowly", _LATER)
        return bytes(body)

    def pieces(self, request: HttpRequest, response: requests.Response, size: int) -> Iterator[bytes]:
        """Yield the body of *response* in pieces, at most one byte more than *size*; the caller closes it.

        Raises:
            TransientError: the body is cut short, or the server falls silent or drips.
        """
        left, came, waited = size + 1, 0, 0.0
        while left:
            asked = time.monotonic()
            limit(response.raw, DRIP_TIMEOUTS * self._timeouts[1])
            try:
                piece = response.raw.read1(min(left, PIECE_BYTES), decode_content=False)
            except (OSError, urllib3.exceptions.HTTPError) as error:
                raise self._unavailable(request, error).final(1) from None
            if not piece:
                return
            # Only the time that the server took counts: a slow disk is not its fault.
            left, came, waited = left - len(piece), came + len(piece), waited + time.monotonic() - asked
            yield piece
            if waited >= self._timeouts[1]:
                if came < MIN_RATE * waited:
                    what = f"{_host(request.url)} sent only {came} bytes in {waited:.1f} seconds"
                    raise TransientError(request.where, what, _LATER)
                came, waited = 0, 0.0

    def said(self, request: HttpRequest, response: requests.Response) -> str:
        """Return what an error's body says, fit for a message (``""`` where it says nothing), and close it."""
        try:
            body = self.read(request, response, _ERROR_BODY_BYTES)
        except UnavailableError:
            return ""
        text = _message_of(body, response.headers.get("Content-Type", ""))
        for secret in _secrets(response.request):
            text = text.replace(secret, "***")
        return printable(text)

    def send_once(self, request: HttpRequest, sent: Callable[[], None]) -> requests.Response:
        """Send *request*, and return whatever is answered, a redirect or an error too, its body yet to be read.

        Raises:
            UnavailableError: no connection, or no answer.
            SourceError: the server cannot be asked at all: its certificate.
        """
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", **request.headers}
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        check()
        self._wait_for_quota(request)
        sent()
        try:
            host = urlsplit(request.url).hostname or ""
            response = self._session().request(
                request.method,
                request.url,
                headers=headers,
                data=dict(request.form) if request.form is not None else None,
                auth=_Lines(request.accept),
                # Programs on this machine are not reached through a proxy (as in Go's net/http, and so in Docker).
                proxies={"no_proxy": host} if is_loopback(host) else None,
                stream=True,
                allow_redirects=False,
                timeout=self._timeouts,
            )
        except (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            raise self._failure(request, error) from None
        self._note_quota(request, response)
        return response

    def _wait_for_quota(self, request: HttpRequest) -> None:
        """Wait until the host of *request* allows more, where it said that its quota is used up.

        Raises:
            SourceError: that is longer than :data:`RETRY_AFTER_MAX`, or all such waits than :data:`QUOTA_WAITS_MAX`.
        """
        host = _host(request.url)
        with self._lock:
            seconds = max(self._closed_until.pop(host, 0.0) - time.monotonic(), 0.0)
            is_too_long = seconds > RETRY_AFTER_MAX or self._quota_waits.get(host, 0.0) + seconds > QUOTA_WAITS_MAX
            if is_too_long:
                # It stays closed for all who come after.
                self._closed_until[host] = seconds + time.monotonic()
            else:
                self._quota_waits[host] = self._quota_waits.get(host, 0.0) + seconds
        if is_too_long:
            what = f"the quota of requests is used up ({host}: {self._quotas[host]})"
            todo = f"try again in {seconds:.0f} seconds, or use credentials that have a larger quota"
            raise SourceError(request.where, what, todo)
        if seconds > 0:
            self._sleep(seconds + _jitter.uniform(0, 1))

    def _note_quota(self, request: HttpRequest, response: requests.Response) -> None:
        quota = parse_quota(response.headers)
        if quota is None:
            return
        host = _host(request.url)
        with self._lock:
            self._quotas[host] = quota
            # 429 has its own Retry-After; and without a reset nobody knows how long to wait but by asking.
            is_closed = quota.remaining == 0 and quota.reset and response.status_code != http.client.TOO_MANY_REQUESTS
            if is_closed:
                self._closed_until[host] = time.monotonic() + (quota.reset or 0)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = _Session()
            session.mount("https://", BoundedAdapter())
            session.mount("http://", BoundedAdapter())
            session.headers["User-Agent"] = f"seawall/{__version__}"
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            self._local.session = session
            with self._lock:
                self._sessions.add(session)
        return session

    def _redirect(self, request: HttpRequest, response: requests.Response) -> str | None:
        if response.status_code not in _REDIRECTS or not response.headers.get("Location"):
            return None
        here = _host(request.url)
        try:
            # http.client reads headers as Latin-1, and servers write UTF-8.
            location = response.headers["Location"].encode("latin-1").decode("utf-8", "replace")
            target = urlsplit(urljoin(request.url, location))
            host, _ = target.hostname, target.port
        except ValueError:
            host = None
        if host is None or target.scheme not in _PORTS:
            response.close()
            raise SourceError(request.where, f"{here} redirects to what is no URL", "tell who runs it")
        if target.scheme == "http" and request.url.startswith("https:"):
            response.close()
            raise SourceError(
                request.where, f"{here} redirects from https to plain http ({target.hostname})", "tell who runs it"
            )
        return urlunsplit(target._replace(netloc=target.netloc.rpartition("@")[2], fragment=""))

    def _available(self, request: HttpRequest, response: requests.Response) -> requests.Response:
        status = response.status_code
        if status < 500 and status != http.client.TOO_MANY_REQUESTS:
            return response
        retry_after = _retry_after(response.headers.get("Retry-After"))
        quota = parse_quota(response.headers)
        if retry_after is None and quota is not None and quota.remaining == 0 and quota.reset is not None:
            retry_after = min(float(quota.reset), _RETRY_AFTER_SENSE)
        said = self.said(request, response)
        what = f"{_host(request.url)} answered {status}" + (f" ({said})" if said else "")
        raise UnavailableError(request.where, what, _LATER, status=status, retry_after=retry_after)

    def _failure(self, request: HttpRequest, error: Exception) -> SourceError:
        host = _host(request.url)
        causes = tuple(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return SourceError(
                    request.where,
                    f"the certificate of {host} is not trusted ({cause.verify_message or 'verification failed'})",
                    "correct it, or name the file of its authority in REQUESTS_CA_BUNDLE",
                )
        for cause in causes:
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                reason = str(cause.reason or "unknown reason").lower().replace("_", " ")
                return SourceError(
                    request.where,
                    f"no TLS with {host} ({reason})",
                    "set plain_http if it is a registry without TLS",
                )
        if isinstance(error, _TRANSIENT):
            return self._unavailable(request, error)
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | ValueError):
            what = f"{host} cannot be asked, or answers no HTTP ({type(error).__name__})"
            return SourceError(request.where, what, "check that a registry is there")
        # requests says so where REQUESTS_CA_BUNDLE names a file that does not exist.
        return SourceError(request.where, f"{host} cannot be asked: {error}", "check REQUESTS_CA_BUNDLE")

    def _unavailable(self, request: HttpRequest, error: Exception) -> UnavailableError:
        what, todo = self._diagnosis(error)
        return UnavailableError(request.where, f"{_host(request.url)} {what}", todo)

    def _diagnosis(self, error: Exception) -> tuple[str, str]:
        causes = tuple(_causes(error))
        if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes):
            return "is not reached through the proxy", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        connect, read = self._timeouts
        # The innermost cause knows best, for it is what the kernel said.
        for cause in reversed(causes):
            for kind, what, todo in _DIAGNOSES:
                if isinstance(cause, kind):
                    return what.format(connect=connect, read=read), todo
            if isinstance(cause, OSError) and cause.strerror:
                return f"is not reached ({cause.strerror.lower()})", "check that it runs and is reachable"
        return "broke off", _LATER


def is_loopback(host: str) -> bool:
    """Return whether *host* (a port may follow) is this machine: ``localhost``, ``127.0.0.0/8``, ``[::1]``."""
    try:
        name = urlsplit(f"//{host}").hostname if host.count(":") < 2 or host.startswith("[") else host
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False


def same_origin(one: str, other: str) -> bool:
    """Return whether two URLs have one scheme, host and port (RFC 9110, section 4.3.1)."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _host(url: str) -> str:
    # All that an error says of a URL: a path is long, a query may hold a signature, userinfo a password.
    return urlsplit(url).netloc.rpartition("@")[2]


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, for `HttpSession` follows redirects: requests would read their bodies to the end first."""


class _Lines:
    """Given as ``auth``, it keeps requests from looking for a password in .netrc and in the URL.

    It is also where a prepared request can be given a header in several lines, of which requests itself knows nothing.
    """

    def __init__(self, accept: tuple[str, ...]) -> None:
        self._accept = accept

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._accept:
            lines = urllib3.HTTPHeaderDict(request.headers)
            del lines["Accept"]
            for value in self._accept:
                lines.add("Accept", value)
            # A connection takes any mapping and writes it out item by item.
            vars(request)["headers"] = lines
        return request


def _speaks_tls(host: str, timeout: float) -> bool | None:
    """Return whether a server at *host* speaks TLS, whatever its certificate; None where there is none."""
    parts = urlsplit(f"https://{host}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Only asks whether TLS is spoken: nothing is sent over this connection. Requests verify the certificate.
    context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = TlsSocket
    try:
        connection = bounded(socket.create_connection((parts.hostname or "", parts.port or _PORTS["https"]), timeout))
    except OSError:
        return None
    with connection:
        try:
            context.wrap_socket(connection, server_hostname=parts.hostname).close()
        except OSError:
            return False
    return True


def _retry_after(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = Retry(retry_after_max=_RETRY_AFTER_SENSE + 1).parse_retry_after(header)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None
    return seconds if seconds <= _RETRY_AFTER_SENSE else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and all that it wraps, each once, outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
        waiting += [other for other in inner if isinstance(other, BaseException)]


def _secrets(request: requests.PreparedRequest) -> set[str]:
    """Return what must not be seen where a server repeats what it was sent."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    clear = b64decode(value).decode("utf-8", "replace") if kind == "Basic" else ""
    form = parse_qs(request.body) if isinstance(request.body, str) else {}
    return {value, clear, clear.partition(":")[2], *form.get("refresh_token", [])} - {""}


def _message_of(body: bytes, media_type: str) -> str:
    text = body.decode("utf-8", "replace")
    if "json" in media_type:
        text = _json_message(text)
    elif "html" in media_type or text.lstrip().startswith("<"):
        return "an HTML page"
    return text


def _json_message(text: str) -> str:
    try:
        document = json.loads(text)
        first = document["errors"][0]
        return f"{first.get('code', '')}: {first.get('message', '')}".strip(": ")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return text


def printable(text: str) -> str:
    """Return at most 200 characters of what a server wrote, none of which moves a cursor or ends a line."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    line = " ".join(words)
    return line if len(line) <= _SAID_CHARACTERS else line[: _SAID_CHARACTERS - 1] + "…"
