"""Purging caches: one request for each URL, or one for many, in the form that each kind of cache wants it."""

import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from seawall import __version__
from seawall.errors import CredentialsError, InputError, SeawallError, SourceError
from seawall.interrupt import pause
from seawall.media_type import ACCEPT
from seawall.progress import Progress

NGINX, VARNISH, FASTLY, CLOUDFLARE = "nginx", "varnish", "fastly", "cloudflare"
CACHES = (NGINX, VARNISH, FASTLY, CLOUDFLARE)
TOKENS = {FASTLY: "FASTLY_API_TOKEN", CLOUDFLARE: "CLOUDFLARE_API_TOKEN"}
"""The environment variable with the token of each."""
APIS = {FASTLY: "https://api.fastly.com", CLOUDFLARE: "https://api.cloudflare.com/client/v4"}
CLOUDFLARE_FILES = 30
"""URLs of one request that every plan takes (Cloudflare API, "Purge Cached Content", ``files``)."""
PURGE_HEADER = "X-Seawall-Purge"
"""With it, an edge of Seawall asks its upstream anew (docs/edge.md)."""

_TIMEOUTS = (10.0, 60.0)
_TRIES = 4
_WAIT_MAX = 60
_SAID = 200


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a cache."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    """What is sent as JSON."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache, and what it has to be told beside URLs."""

    kind: str
    token: str = field(default="", repr=False)
    zone: str = ""
    api: str = ""
    host: str = ""
    is_soft: bool = False


def read_token(kind: str, file: Path | None) -> str:
    """Return the token for *kind*: out of *file*, or of the environment; empty where it needs none.

    Raises:
        CredentialsError: there is none, or the file cannot be read.
    """
    variable = TOKENS.get(kind)
    if variable is None:
        return ""
    try:
        token = file.read_text("utf-8").strip() if file is not None else os.environ.get(variable, "")
    except (OSError, ValueError):
        raise CredentialsError(str(file), "cannot be read", "name a file with the token, and nothing else") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        where = str(file) if file is not None else variable
        raise CredentialsError(where, "holds no token", f"set {variable}, or give --token-file")
    return token


def check_api(url: str) -> str:
    """Return *url* without a slash at its end.

    Raises:
        InputError: a token would go there in the clear.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname or "")):
        return url.rstrip("/")
    raise InputError(url, "would be sent the token in the clear", "write https://HOST[:PORT][/PATH]")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def requests_for(cache: Cache, urls: Sequence[str]) -> tuple[Request, ...]:
    """Return the requests that have *cache* forget *urls*."""
    api = cache.api or APIS.get(cache.kind, "")
    if cache.kind == NGINX:
        headers = {PURGE_HEADER: "1", "Accept": ACCEPT, **_host(cache)}
        return tuple(Request("GET", url, headers) for url in urls)
    if cache.kind == VARNISH:
        return tuple(Request("PURGE", url, _host(cache)) for url in urls)
    if cache.kind == FASTLY:
        headers = {"Fastly-Key": cache.token, "Accept": "application/json"}
        headers |= {"Fastly-Soft-Purge": "1"} if cache.is_soft else {}
        return tuple(Request("POST", f"{api}/purge/{url.partition('://')[2]}", headers) for url in urls)
    headers = {"Authorization": f"Bearer {cache.token}"}
    parts = [list(urls[at : at + CLOUDFLARE_FILES]) for at in range(0, len(urls), CLOUDFLARE_FILES)]
    return tuple(Request("POST", f"{api}/zones/{cache.zone}/purge_cache", headers, {"files": part}) for part in parts)


def _host(cache: Cache) -> dict[str, str]:
    return {"Host": cache.host} if cache.host else {}


def purge(cache: Cache, urls: Sequence[str], jobs: int, progress: Progress) -> tuple[SeawallError, ...]:
    """Have *cache* forget *urls*, all of them whatever becomes of one; return what went wrong.

    Args:
        cache: the cache.
        urls: what to forget.
        jobs: requests at a time.
        progress: told of each request that ended.
    """
    wanted = requests_for(cache, urls)
    progress.expect(len(wanted), "purge")
    with requests.Session() as session, ThreadPoolExecutor(jobs, thread_name_prefix="purge") as pool:
        session.headers["User-Agent"] = f"seawall/{__version__}"
        # Else a password of ~/.netrc would take the place of the token.
        session.auth = _as_it_is

        def send(request: Request) -> SeawallError | None:
            try:
                _send(session, cache.kind, request)
            except SeawallError as error:
                return error
            finally:
                progress.advance(1)
            return None

        return tuple(error for error in pool.map(send, wanted) if error is not None)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _send(session: requests.Session, kind: str, request: Request) -> None:
    where = f"{request.method} {request.url}"
    for attempt in range(_TRIES):
        try:
            answer = session.request(
                request.method,
                request.url,
                headers=dict(request.headers),
                json=request.body,
                timeout=_TIMEOUTS,
                # A token is for whom it was given to.
                allow_redirects=False,
            )
        except requests.RequestException as error:
            if attempt + 1 == _TRIES:
                raise SourceError(where, f"got no answer ({type(error).__name__})", "check the address") from None
            pause(2.0**attempt)
            continue
        if (answer.status_code == 429 or answer.status_code >= 500) and attempt + 1 < _TRIES:
            pause(_wait(answer, attempt))
            continue
        _CHECKS[kind](where, answer)
        return


def _wait(answer: requests.Response, attempt: int) -> float:
    said = answer.headers.get("Retry-After", "")
    return float(min(int(said), _WAIT_MAX)) if said.isdigit() else 2.0**attempt


def _check_edge(where: str, answer: requests.Response) -> None:
    # A tag that was withdrawn is as it should be, too.
    if answer.status_code not in {200, 404}:
        raise _refused(where, answer, "look at the edge's log")


def _check_varnish(where: str, answer: requests.Response) -> None:
    if answer.status_code == 405:
        raise CredentialsError(where, "is not allowed from here", "let its VCL return (purge) for this address")
    if answer.status_code not in {200, 204, 404}:
        raise _refused(where, answer, "look at varnishlog")


def _check_fastly(where: str, answer: requests.Response) -> None:
    _check_token(where, answer)
    if answer.status_code != 200 or _said(answer).get("status") != "ok":
        raise _refused(where, answer, "see Fastly's documentation, Purge API")


def _check_cloudflare(where: str, answer: requests.Response) -> None:
    _check_token(where, answer)
    if answer.status_code != 200 or _said(answer).get("success") is not True:
        raise _refused(where, answer, "see Cloudflare's documentation, Purge Cached Content")


def _check_token(where: str, answer: requests.Response) -> None:
    if answer.status_code in {401, 403}:
        raise CredentialsError(where, f"the token is refused ({answer.status_code})", "give one that may purge")


def _said(answer: requests.Response) -> dict[str, Any]:
    try:
        document = json.loads(answer.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _refused(where: str, answer: requests.Response, todo: str) -> SourceError:
    said = answer.text[:_SAID].strip()
    return SourceError(where, f"answered {answer.status_code}{f' ({said})' if said else ''}", todo)


_CHECKS: dict[str, Callable[[str, requests.Response], None]] = {
    NGINX: _check_edge,
    VARNISH: _check_varnish,
    FASTLY: _check_fastly,
    CLOUDFLARE: _check_cloudflare,
}
