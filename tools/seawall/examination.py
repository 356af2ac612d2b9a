"""Examination: ask a server, about one image, what each kind of client asks, and write down the answers.

Nothing is judged here, see :mod:`seawall.diagnosis`. The requests are those of the OCI Distribution Specification 1.1,
"Pull" and "Content Discovery", in the forms in which clients send them.
"""

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from requests import Response
from requests.utils import get_environ_proxies

from seawall.authorization import Authorization
from seawall.challenge import parse_challenges
from seawall.credentials import CredentialsLookup, anonymous
from seawall.digest import Digest
from seawall.errors import CredentialsError, InputError, SourceError
from seawall.http_session import HttpRequest, HttpSession, is_loopback, same_origin
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, Manifest, parse_manifest
from seawall.media_type import ACCEPT, MANIFEST_KINDS
from seawall.observation import Answer, Hop, Observations
from seawall.reference import Reference, RegistryLocation, check_repository, is_tag
from seawall.server_url import check_url
from seawall.tls_handshake import shake_hands

BLOB_MAX_BYTES = 16 * 1024 * 1024
"""The largest blob that is read whole; of a larger one only as much, and its digest is not looked at."""
DEFAULT_NAMESPACE = "docker.io"
"""The ``ns`` that is tried where nobody says which registry the server mirrors."""

_MANIFEST_BYTES = MANIFEST_MAX_BYTES + 1
_LIST_BYTES = 4 * 1024 * 1024
_SMALL_BYTES = 64 * 1024
_HOPS_MAX = 10
"""Redirects that Go's HTTP client follows, and with it most clients."""
_SILENCES_MAX = 4
"""Requests without an answer after which it is no use to ask more."""
_REPOSITORIES_MAX = 20
"""Repositories of a catalog that are asked for a tag."""
_TIMEOUT = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNKNOWN_TAG = "seawall-doctor-of-an-unknown-tag"
_UNKNOWN_REPOSITORY = "seawall-doctor/unknown"
_REPOSITORY = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/")
_TYPES = tuple(kind.media_type for kind in MANIFEST_KINDS)


def examine(
    url: str,
    reference: Reference | None = None,
    *,
    namespace: str = "",
    credentials: CredentialsLookup = anonymous,
    http: HttpSession | None = None,
) -> Observations:
    """Ask the server at *url* some two dozen things about one image, and return what it answered.

    Args:
        url: the root below which the server has its ``/v2/``.
        reference: the image, by tag or digest; without it, one is looked for in the server's lists.
        namespace: the registry that the server is said to mirror, as containerd names it in ``?ns=``.
        credentials: looks up the credentials for the server, once it asks for some.
        http: sends the requests.

    Raises:
        InputError: *url* is none, or no image is given and none is found.
        SourceError: the server does not answer at all.
        CredentialsError: it refuses access.
    """
    url = check_url(url)
    http = http or HttpSession(read_timeout=_TIMEOUT)
    tls = None
    parts = urlsplit(url)
    if parts.scheme == "https" and _is_direct(url):
        tls = shake_hands(parts.hostname or "", parts.port or 443, _TIMEOUT)
        if tls is not None and tls.problem:
            # Who is not who it says is told nothing, and nobody would believe its answers.
            return Observations(url, 0, tls)
    with _asking(url, credentials, http) as asker:
        ping = asker.ask("GET", "/v2/")
        if not ping.status:
            raise SourceError(url, f"does not answer ({ping.cut})", "check address and service")
        reference = reference or _find(asker, url)
        asker.own = reference.repository
        found = _about_image(asker, reference)
        by_tag: Answer = found["tag_get"]
        digest = Digest.of(by_tag.content) if by_tag.is_ok else Digest("0" * 64)
        found |= _about_lists(asker, reference, digest, namespace)
        return Observations(
            url=url,
            requests=asker.requests,
            tls=tls,
            asked_credentials=asker.is_authorized,
            reference=reference,
            namespace=namespace or DEFAULT_NAMESPACE,
            named_namespace=bool(namespace),
            ping=ping,
            **found,
        )


def _about_image(asker: "_Asker", reference: Reference) -> dict[str, Any]:
    """Return the answers about manifests and a blob, by the names of the fields of :class:`Observations`."""
    path = f"/v2/{reference.repository}/manifests/{reference.target}"
    accept = {"Accept": ACCEPT}
    by_tag = asker.ask("GET", path, accept, limit=_MANIFEST_BYTES)
    found: dict[str, Any] = {
        "tag_head": asker.ask("HEAD", path, accept),
        "tag_get": by_tag,
        "tag_lines": asker.ask("GET", path, lines=_TYPES, limit=_MANIFEST_BYTES),
        "tag_gzip": asker.ask("GET", path, {**accept, "Accept-Encoding": "gzip"}, limit=_MANIFEST_BYTES),
    }
    if not by_tag.is_ok:
        return found
    etag = by_tag.header("etag")
    if etag:
        found["conditional"] = asker.ask("GET", path, {**accept, "If-None-Match": etag})
    image = found["manifest"] = _parsed(by_tag)
    # The bytes are what a client pins, whatever the headers say.
    path = f"/v2/{reference.repository}/manifests/{Digest.of(by_tag.content)}"
    own = {"Accept": image.kind.media_type if image else ACCEPT}
    found["digest_head"] = asker.ask("HEAD", path, own)
    found["digest_get"] = asker.ask("GET", path, own, limit=_MANIFEST_BYTES)
    if image is not None and image.children:
        child = image.children[0]
        path = f"/v2/{reference.repository}/manifests/{child.digest}"
        found["child_digest"] = child.digest
        found["child_get"] = asker.ask("GET", path, {"Accept": child.media_type}, limit=_MANIFEST_BYTES)
        image = _parsed(found["child_get"])
    # A blob of four bytes has enough of them for every range that is asked for.
    blobs = [blob for blob in image.blobs if blob.size >= 4] if image else []
    if blobs:
        found |= _about_blob(asker, reference.repository, min(blobs, key=lambda blob: blob.size))
    return found


def _about_blob(asker: "_Asker", repository: str, blob: Descriptor) -> dict[str, Any]:
    path = f"/v2/{repository}/blobs/{blob.digest}"
    return {
        "blob": blob,
        "blob_head": asker.ask("HEAD", path),
        "blob_get": asker.ask("GET", path, limit=min(blob.size, BLOB_MAX_BYTES) + 1),
        "blob_range": asker.ask("GET", path, {"Range": "bytes=1-2"}),
        "blob_ranges": asker.ask("GET", path, {"Range": "bytes=0-0,2-3"}),
        "blob_beyond": asker.ask("GET", path, {"Range": f"bytes={blob.size}-"}),
    }


def _about_lists(asker: "_Asker", reference: Reference, digest: Digest, namespace: str) -> dict[str, Any]:
    repository, accept = reference.repository, {"Accept": ACCEPT}
    # As a mirror, containerd leaves the registry's own name out of the path: that is what ns is for.
    mirrored = repository.removeprefix(f"{namespace}/") if namespace else repository
    query = f"ns={namespace or DEFAULT_NAMESPACE}"
    return {
        "unknown_tag": asker.ask("GET", f"/v2/{repository}/manifests/{_UNKNOWN_TAG}", accept),
        "unknown_repository": asker.ask("GET", f"/v2/{_UNKNOWN_REPOSITORY}/manifests/latest", accept),
        "tags": asker.ask("GET", f"/v2/{repository}/tags/list", limit=_LIST_BYTES),
        "referrers": asker.ask("GET", f"/v2/{repository}/referrers/{digest}", limit=_LIST_BYTES),
        "mirrored": asker.ask("HEAD", f"/v2/{mirrored}/manifests/{reference.target}?{query}", accept),
    }


def _find(asker: "_Asker", url: str) -> Reference:
    """Return an image out of the server's own lists."""
    catalog = asker.ask("GET", "/v2/_catalog?n=100", limit=_LIST_BYTES)
    for repository in _names(catalog, "repositories")[:_REPOSITORIES_MAX]:
        try:
            check_repository(repository, url)
        except InputError:
            continue
        tags = _names(asker.ask("GET", f"/v2/{repository}/tags/list?n=10", limit=_LIST_BYTES), "tags")
        tag = next(filter(is_tag, tags), None)
        if tag is not None:
            return Reference(repository, tag)
    raise InputError(url, f"lists no image (_catalog: {catalog})", "name one with --image REPO:TAG")


def _names(answer: Answer, key: str) -> list[str]:
    try:
        names = json.loads(answer.body)[key] if answer.is_ok else []
    except (ValueError, RecursionError, LookupError, TypeError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _parsed(answer: Answer) -> Manifest | None:
    try:
        return parse_manifest(answer.content, answer.request, answer.header("content-type") or "")
    except SourceError:
        return None


def _is_direct(url: str) -> bool:
    """Return whether *url* is reached without a proxy, so that a handshake is one with the server itself."""
    return is_loopback(urlsplit(url).netloc) or "https" not in get_environ_proxies(url)


@contextmanager
def _asking(url: str, credentials: CredentialsLookup, http: HttpSession) -> Iterator["_Asker"]:
    try:
        yield _Asker(url, credentials, http)
    finally:
        http.close()


@dataclass
class _Asker:
    """Asks one server, one thing after the other, with credentials where it wants some."""

    url: str
    credentials: CredentialsLookup
    http: HttpSession
    own: str = ""
    """The repository that has to be readable: of any other, 401 is an answer like all others."""
    requests: int = 0
    is_authorized: bool = False
    _silences: int = 0
    _authorizations: dict[str, Authorization] = field(default_factory=dict)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        lines: tuple[str, ...] = (),
        limit: int = _SMALL_BYTES,
    ) -> Answer:
        """Return what the server answers, with at most *limit* bytes of the body.

        Args:
            method: GET or HEAD.
            path: below the server's root. Where it is that of a repository, leave to pull from it is got if need be.
            headers: what else is sent.
            lines: the ``Accept`` header, in lines of its own.
            limit: bytes.

        Raises:
            SourceError: the server has fallen silent.
            CredentialsError: it refuses access to :attr:`own`.
        """
        headers = dict(headers or {})
        notes = [
            f"{name}: {headers[name]}" for name in ("Range", "Accept-Encoding", "If-None-Match") if name in headers
        ]
        notes += ["Accept in several lines"] if lines else []
        what = f"{method} {path}" + (f" ({', '.join(notes)})" if notes else "")
        request = HttpRequest(method, self.url + path, self.url, headers, accept=lines)
        match = _REPOSITORY.match(path)
        answer = self._authorized(request, what, limit, match[1]) if match else self._sent(request, what, limit)
        self._silences = 0 if answer.status else self._silences + 1
        if self._silences >= _SILENCES_MAX:
            raise SourceError(self.url, f"has fallen silent ({answer.cut})", "try again later")
        return answer

    def _authorized(self, request: HttpRequest, what: str, limit: int, repository: str) -> Answer:
        location = RegistryLocation(urlsplit(self.url).netloc, repository)
        authorization = self._authorizations.get(repository)
        if authorization is None:
            authorization = Authorization(location, self.credentials, self.http, self._count)
            self._authorizations[repository] = authorization
        header = authorization.header(self.url)
        answer = self._sent(replace(request, authorization=header), what, limit)
        if answer.status != http.client.UNAUTHORIZED or answer.left_home:
            return answer
        challenges = parse_challenges(answer.header("www-authenticate") or "")
        try:
            header = authorization.renew(challenges, header, request, "")
        except (CredentialsError, SourceError):
            if repository == self.own:
                raise
            return answer
        answer = self._sent(replace(request, authorization=header), what, limit)
        if answer.status == http.client.UNAUTHORIZED:
            error = authorization.give_up(self.url, "")
            if repository == self.own:
                raise error
            return answer
        self.is_authorized = True
        return answer

    def _sent(self, request: HttpRequest, what: str, limit: int) -> Answer:
        """Send *request* and follow its redirects; credentials stay on the host that it is for."""
        hops: list[Hop] = []
        hop = request
        while True:
            try:
                response = self.http.send_once(hop, self._count)
            except SourceError as error:
                return Answer(what, hops=tuple(hops), cut=error.what)
            target = _target(hop.url, response) if len(hops) < _HOPS_MAX else None
            if target is None:
                return self._read(hop, response, what, limit, tuple(hops))
            response.close()
            hops.append(Hop(_bare(hop.url), _bare(response.headers["Location"])))
            at_home = same_origin(target, self.url) and hop.authorization is not None
            hop = replace(hop, url=target, authorization=request.authorization if at_home else None)

    def _read(self, request: HttpRequest, response: Response, what: str, limit: int, hops: tuple[Hop, ...]) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        body, cut = b"", ""
        try:
            body = self.http.read(request, response, limit)
        except SourceError as error:
            cut = error.what
        return Answer(what, response.status_code, headers, body, hops, cut)

    def _count(self) -> None:
        self.requests += 1


def _target(url: str, response: Response) -> str | None:
    """Return the URL that *response* redirects to, None where it does not, or to none."""
    if response.status_code not in _REDIRECTS or not response.headers.get("Location"):
        return None
    try:
        target = urlsplit(urljoin(url, response.headers["Location"]))
        is_one = target.scheme in {"http", "https"} and bool(target.hostname) and (target.port or 1) > 0
    except ValueError:
        return None
    return urlunsplit(target._replace(netloc=target.netloc.rpartition("@")[2], fragment="")) if is_one else None


def _bare(url: str) -> str:
    """Return *url* without what may be secret in it: its query and userinfo."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
