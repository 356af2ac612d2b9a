"""Probe: ask a server for images as a client does, and check every byte and header that clients rely on.

The requests and what is expected of them follow the OCI Distribution Specification 1.1, "Pulling manifests",
"Pulling blobs" and "Error Codes".
"""

import hashlib
import json
import re
import threading
import types
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from seawall.authorization import Authorization
from seawall.challenge import parse_challenges
from seawall.credentials import CredentialsLookup, anonymous
from seawall.digest import Digest
from seawall.errors import SourceError
from seawall.http_session import HttpRequest, HttpSession, is_loopback
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, Manifest, parse_manifest
from seawall.media_type import ACCEPT, BY_MEDIA_TYPE, OCI_INDEX
from seawall.progress import Progress
from seawall.reference import Reference, RegistryLocation, list_tag
from seawall.referrer_list import claimed
from seawall.server_url import check_url

_TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""
_PIECE = 1024 * 1024
_RANGE_START, _RANGE_END = 1, 16
_LIST_PAGES_MAX = 100
_CUT = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
_REPOSITORY = re.compile(r"/v2/(.+)/(?:manifests|blobs|referrers)/")


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """Something that a server answered otherwise than a client needs it."""

    request: str
    """Method and path."""
    what: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe asked and found."""

    failures: tuple[Failure, ...]
    requests: int
    manifests: int
    blobs: int
    size: int
    """Bytes of manifests and blobs that were hashed."""

    @property
    def holds(self) -> bool:
        """Whether every answer was right."""
        return not self.failures


@dataclass
class _Tally:
    """What the threads of one probe have seen so far."""

    failures: list[Failure] = field(default_factory=list)
    requests: int = 0
    size: int = 0
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, request: str, what: str) -> None:
        with self.mutex:
            self.failures.append(Failure(request, what))

    def asked(self) -> None:
        with self.mutex:
            self.requests += 1

    def hashed(self, size: int) -> None:
        with self.mutex:
            self.size += size


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and who its client is where it asks."""

    url: str
    """Its root."""
    credentials: CredentialsLookup = anonymous
    certificate: Path | None = None
    """A PEM file with a certificate and its key."""


def probe(
    server: Server,
    wanted: Mapping[Reference, Digest | None],
    progress: Progress,
    jobs: int,
    referrers: Mapping[tuple[str, Digest], Collection[Digest]] = types.MappingProxyType({}),
) -> ProbeReport:
    """Ask *server* for every image in *wanted*, down to the last layer.

    A server that asks for a token or a password is answered as Docker answers it; one that still refuses has failed.

    Args:
        server: whom to ask.
        wanted: references, each with the digest that it must have, or None where any will do.
        progress: hears of blobs.
        jobs: blobs that are asked for at a time.
        referrers: by repository and subject, what has to be listed as its referrers.

    Raises:
        SourceError: nothing answers there at all.
        CredentialsError: the server does not take the credentials.
    """
    tally = _Tally()
    client = _Client(server, tally)
    client.ping()
    client.errors(next(iter(wanted)).repository if wanted else "seawall/probe")
    manifests: dict[tuple[str, Digest], Manifest] = {}
    for reference, digest in wanted.items():
        for manifest in client.image(reference, digest, manifests):
            manifests[reference.repository, manifest.digest] = manifest
    for (repository, subject), digests in referrers.items():
        client.referrers(repository, subject, digests)
    blobs = {
        (repository, blob.digest): blob for (repository, _), manifest in manifests.items() for blob in manifest.blobs
    }
    progress.expect(sum(blob.size for blob in blobs.values()), f"{len(blobs)} blobs")
    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(lambda item: client.blob(item[0][0], item[1], progress), blobs.items()):
            pass
    failures = tuple(sorted(set(tally.failures)))
    return ProbeReport(failures, tally.requests, len(manifests), len(blobs), tally.size)


class _Client:
    """Asks one server, and notes in its tally what is not right."""

    def __init__(self, server: Server, tally: _Tally) -> None:
        self._server = server
        self._url = check_url(server.url)
        self._host = urlsplit(self._url).hostname or ""
        self._tally = tally
        self._sessions = threading.local()
        self._tokens = HttpSession()
        self._authorizations: dict[str, Authorization] = {}
        self._mutex = threading.Lock()

    def ping(self) -> None:
        """``GET /v2/`` says that the server speaks the protocol."""
        try:
            with self._ask("GET", "/v2/") as answer:
                if answer.status_code != 200:
                    self._tally.fail("GET /v2/", f"status {answer.status_code}, not 200")
        except requests.RequestException as error:
            raise SourceError(self._url, f"does not answer ({cause(error)})", "check address and service") from None

    def errors(self, repository: str) -> None:
        """What is unknown is 404 and what would write is 405, each with the specification's JSON body."""
        path = f"/v2/{repository}/manifests/seawall-probe-of-an-unknown-tag"
        self._error("GET", path, 404, "MANIFEST_UNKNOWN", "NAME_UNKNOWN")
        self._error("POST", f"/v2/{repository}/blobs/uploads/", 405, "UNSUPPORTED")

    def image(
        self, reference: Reference, digest: Digest | None, known: Mapping[tuple[str, Digest], Manifest]
    ) -> Iterator[Manifest]:
        """Yield the manifest that *reference* names and all below it, each checked."""
        manifest = self._manifest(reference, digest)
        if manifest is None:
            return
        if reference.tag is not None:
            again = self._manifest(Reference(reference.repository, digest=manifest.digest), manifest.digest)
            if again is not None and again.kind != manifest.kind:
                self._tally.fail(_manifest_path(reference), "has another type by digest than by tag")
        yield manifest
        for child in manifest.children:
            if (reference.repository, child.digest) not in known:
                yield from self.image(Reference(reference.repository, digest=child.digest), child.digest, known)

    def referrers(self, repository: str, subject: Digest, wanted: Collection[Digest]) -> None:
        """The list of what refers to *subject* names all that is *wanted* ("Listing Referrers").

        Where a server has no such API (404), clients look behind a tag ("Referrers Tag Schema"), and so does this.
        """
        path = f"/v2/{repository}/referrers/{subject}"
        request = f"GET {path}"
        listed: set[Digest] = set()
        following: str | None = path
        try:
            for page in range(_LIST_PAGES_MAX):
                with self._ask("GET", following or path) as answer:
                    if page == 0 and answer.status_code == 404:
                        request = f"GET {_manifest_path(Reference(repository, list_tag(subject)))}"
                        manifest = self._manifest(Reference(repository, list_tag(subject)), None)
                        listed |= {child.digest for child in manifest.children} if manifest else set()
                        break
                    found = self._list(request, answer)
                    if found is None:
                        return
                    listed |= found
                    following = _next_page(answer, self._url)
                if following is None:
                    break
            else:
                self._tally.fail(request, f"has no end after {_LIST_PAGES_MAX} pages")
        except _CUT as error:
            self._tally.fail(request, f"is cut ({cause(error)})")
            return
        for digest in sorted(set(wanted) - listed):
            self._tally.fail(request, f"does not list {digest}")

    def _list(self, request: str, answer: requests.Response) -> set[Digest] | None:
        if answer.status_code != 200:
            self._tally.fail(request, f"status {answer.status_code}, not 200")
            return None
        self._encoding(request, answer)
        if answer.headers.get("Content-Type") != OCI_INDEX.media_type:
            self._tally.fail(request, f"Content-Type is {answer.headers.get('Content-Type')!r}, not that of an index")
        try:
            content = answer.raw.read(MANIFEST_MAX_BYTES + 1, decode_content=False)
            return {row.digest for row in claimed(content, request)}
        except SourceError as error:
            self._tally.fail(request, error.what)
            return None

    def blob(self, repository: str, blob: Descriptor, progress: Progress) -> None:
        """Check HEAD, a range and the whole of *blob*."""
        path = f"/v2/{repository}/blobs/{blob.digest}"
        try:
            self._blob_head(path, blob)
            beginning = self._blob_body(path, blob, progress)
            if len(beginning) > _RANGE_END:
                self._blob_range(path, blob, beginning)
        except _CUT as error:
            self._tally.fail(f"GET {path}", f"is cut ({cause(error)})")

    def _manifest(self, reference: Reference, digest: Digest | None) -> Manifest | None:
        path = _manifest_path(reference)
        request = f"GET {path}"
        try:
            with self._ask("HEAD", path) as head, self._ask("GET", path) as answer:
                if answer.status_code != 200:
                    self._tally.fail(request, f"status {answer.status_code}, not 200")
                    return None
                content = answer.raw.read(MANIFEST_MAX_BYTES + 1, decode_content=False)
                self._manifest_headers(f"HEAD {path}", head, content)
                self._manifest_headers(request, answer, content)
        except _CUT as error:
            self._tally.fail(request, f"is cut ({cause(error)})")
            return None
        self._tally.hashed(len(content))
        try:
            manifest = parse_manifest(content, path, answer.headers.get("Content-Type", ""))
        except SourceError as error:
            self._tally.fail(request, error.what)
            return None
        if answer.headers.get("Content-Type") != manifest.kind.media_type:
            self._tally.fail(request, f"Content-Type is {answer.headers.get('Content-Type')!r} for a {manifest.kind}")
        if digest is not None and manifest.digest != digest:
            self._tally.fail(request, f"sends {manifest.digest}, not {digest}")
            return None
        return manifest

    def _manifest_headers(self, request: str, answer: requests.Response, content: bytes) -> None:
        if answer.status_code != 200:
            self._tally.fail(request, f"status {answer.status_code}, not 200")
            return
        self._encoding(request, answer)
        if answer.headers.get("Content-Type") not in BY_MEDIA_TYPE:
            self._tally.fail(request, f"Content-Type {answer.headers.get('Content-Type')!r} is not a manifest's")
        if answer.headers.get("Content-Length") != str(len(content)):
            self._tally.fail(request, f"Content-Length {answer.headers.get('Content-Length')}, not {len(content)}")
        digest = Digest.of(content)
        if answer.headers.get("Docker-Content-Digest") != str(digest):
            header = answer.headers.get("Docker-Content-Digest")
            self._tally.fail(request, f"Docker-Content-Digest {header}, but the content is {digest}")

    def _blob_head(self, path: str, blob: Descriptor) -> None:
        with self._ask("HEAD", path) as head:
            if head.status_code != 200:
                self._tally.fail(f"HEAD {path}", f"status {head.status_code}, not 200")
            elif head.headers.get("Content-Length") != str(blob.size):
                self._tally.fail(
                    f"HEAD {path}", f"Content-Length {head.headers.get('Content-Length')}, not {blob.size}"
                )

    def _blob_body(self, path: str, blob: Descriptor, progress: Progress) -> bytes:
        """Hash the whole blob; return how it begins, as far as the check of a range needs it."""
        request = f"GET {path}"
        hasher = hashlib.sha256()
        size = 0
        beginning = b""
        with self._ask("GET", path) as answer:
            if answer.status_code != 200:
                self._tally.fail(request, f"status {answer.status_code}, not 200")
                return b""
            self._encoding(request, answer)
            header = answer.headers.get("Docker-Content-Digest", str(blob.digest))
            if header != str(blob.digest):
                self._tally.fail(request, f"Docker-Content-Digest {header}, not {blob.digest}")
            for piece in answer.iter_content(_PIECE):
                size += len(piece)
                if size > blob.size:
                    break
                hasher.update(piece)
                beginning = beginning or piece[: _RANGE_END + 1]
                progress.advance(len(piece))
        self._tally.hashed(size)
        if size != blob.size:
            self._tally.fail(request, f"sends {'more than ' if size > blob.size else ''}{size} of {blob.size} bytes")
        elif hasher.hexdigest() != blob.digest.hex:
            self._tally.fail(request, f"sends sha256:{hasher.hexdigest()}")
        return beginning

    def _blob_range(self, path: str, blob: Descriptor, beginning: bytes) -> None:
        request = f"GET {path} (bytes {_RANGE_START}-{_RANGE_END})"
        with self._ask("GET", path, {"Range": f"bytes={_RANGE_START}-{_RANGE_END}"}) as answer:
            expected = f"bytes {_RANGE_START}-{_RANGE_END}/{blob.size}"
            if answer.status_code != 206 or answer.headers.get("Content-Range") != expected:
                self._tally.fail(request, f"status {answer.status_code}, Content-Range not {expected!r}")
            elif answer.raw.read(_RANGE_END + 1, decode_content=False) != beginning[_RANGE_START : _RANGE_END + 1]:
                self._tally.fail(request, "sends other bytes than the whole blob has there")

    def _error(self, method: str, path: str, status: int, *codes: str) -> None:
        request = f"{method} {path}"
        try:
            with self._ask(method, path) as answer:
                if answer.status_code != status:
                    self._tally.fail(request, f"status {answer.status_code}, not {status}")
                    return
                body = answer.raw.read(64 * 1024, decode_content=True)
        except _CUT as error:
            self._tally.fail(request, f"is cut ({cause(error)})")
            return
        if _error_code(body) not in codes:
            self._tally.fail(request, f"error body does not have the code {' or '.join(codes)}")

    def _encoding(self, request: str, answer: requests.Response) -> None:
        if "Content-Encoding" in answer.headers:
            self._tally.fail(request, f"has Content-Encoding {answer.headers['Content-Encoding']!r}")

    def _ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Send a request, and once more with what a 401 asks for."""
        authorization = self._authorization(path)
        given = authorization.header(path)
        answer = self._send(method, path, given, headers)
        challenges = parse_challenges(answer.headers.get("WWW-Authenticate", ""))
        if answer.status_code != 401 or answer.history or not challenges:
            return answer
        answer.close()
        renewed = authorization.renew(challenges, given, HttpRequest(method, self._url + path, path), "")
        return self._send(method, path, renewed, headers)

    def _authorization(self, path: str) -> Authorization:
        """What is sent along for the repository of *path*: a token is for one."""
        found = _REPOSITORY.match(path)
        repository = found[1] if found else "seawall/probe"
        with self._mutex:
            if repository not in self._authorizations:
                location = RegistryLocation(urlsplit(self._url).netloc, repository)
                made = Authorization(location, self._server.credentials, self._tokens, self._tally.asked)
                self._authorizations[repository] = made
            return self._authorizations[repository]

    def _send(
        self, method: str, path: str, authorization: str | None, headers: Mapping[str, str] | None
    ) -> requests.Response:
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = requests.Session()
            # Nothing is taken from ~/.netrc.
            session.auth = lambda request: request
            session.cert = str(self._server.certificate) if self._server.certificate else None
        self._tally.asked()
        return session.request(
            method,
            self._url + path,
            headers={"Accept": ACCEPT if "/manifests/" in path else "*/*", "Accept-Encoding": "identity"}
            | ({"Authorization": authorization} if authorization else {})
            | dict(headers or {}),
            stream=True,
            timeout=_TIMEOUT,
            allow_redirects=True,
            # Programs on this machine are not reached through a proxy.
            proxies={"no_proxy": self._host} if is_loopback(self._host) else None,
        )


def cause(error: BaseException) -> str:
    """Return the innermost reason of a failed request in few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _next_page(answer: requests.Response, url: str) -> str | None:
    """Return the path of the page that follows on this server, or None where there is none."""
    link = answer.links.get("next", {}).get("url")
    following = urljoin(answer.url, link) if link else ""
    return following.removeprefix(url) if following.startswith(f"{url}/") else None


def _manifest_path(reference: Reference) -> str:
    return f"/v2/{reference.repository}/manifests/{reference.target}"


def _error_code(body: bytes) -> str:
    try:
        return str(json.loads(body)["errors"][0]["code"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
