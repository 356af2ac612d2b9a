"""The ``docker://`` source: a repository of a registry (OCI Distribution Specification 1.1, "Pull")."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from requests import Response

from seawall.authorization import Authorization
from seawall.challenge import parse_challenges
from seawall.credentials import CredentialsLookup, anonymous
from seawall.digest import Digest
from seawall.errors import InputError, NotFoundError, SeawallError, SourceError
from seawall.http_range import Exchange, pieces_from
from seawall.http_session import HttpRequest, HttpSession, printable, same_origin
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, parse_manifest
from seawall.media_type import ACCEPT, BY_MEDIA_TYPE, OCI_INDEX
from seawall.reference import RegistryLocation, api_host, list_tag
from seawall.referrer_list import claimed
from seawall.tag_pages import TAG_PAGE_BYTES, all_tags, next_page

_TAGS_ASKED = 1000
"""Tags that a page is asked to have; registries give fewer as they like."""
_REFERRERS_MAX = 1000
"""Referrers of one manifest; the most seen in the field are some dozens."""
_REFERRER_PAGES_MAX = 100
_NO_REFERRERS_API = frozenset({http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED, http.client.NOT_IMPLEMENTED})
"""What a registry answers that has no such API: 404 by the specification, the others by their meaning."""


class RegistrySource:
    """Images of one repository of a registry; may be used by several threads.

    Args:
        location: the repository.
        plain_http: whether the registry speaks HTTP without TLS; None for one that may, and is asked which it speaks.
        credentials: looks up the credentials for the registry, once it asks for some.
        http: sends the requests; give one to many sources, so that they share connections.
        clock: seconds that only ever grow, for the life of tokens.
    """

    def __init__(
        self,
        location: RegistryLocation,
        *,
        plain_http: bool | None = False,
        credentials: CredentialsLookup = anonymous,
        http: HttpSession | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._location = location
        self._plain_http = plain_http
        self._http = http or HttpSession()
        self._authorization = Authorization(location, credentials, self._http, self._count, clock)
        self._requests = 0
        self._lists_referrers = True
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """How many HTTP requests were sent so far, with those for redirects and tokens."""
        return self._requests

    def resolve(self, tag: str) -> Descriptor:
        """Return media type, digest and size of the manifest that *tag* names now.

        The digest is what the registry says of a manifest that is not read yet; where it does not say, the
        manifest is read.

        Raises:
            SourceError: there is no such tag, or it is no image that can be served.
            CredentialsError: the registry refuses access.
        """
        where = f"{self._location}:{tag}"
        head = self._fetch("HEAD", f"manifests/{tag}", where)
        found = _described(head.response) if head.status == http.client.OK else None
        if found is not None:
            if found.size > MANIFEST_MAX_BYTES:
                raise _too_large(where)
            return found
        answer = self._fetch("GET", f"manifests/{tag}", where)
        if answer.status != http.client.OK:
            raise self._refusal(answer, where, "no such tag", "correct the tag, or push the image there first")
        if len(answer.content) > MANIFEST_MAX_BYTES:
            raise _too_large(where)
        promised = _digest_of(answer.response)
        if promised not in {None, Digest.of(answer.content)}:
            raise _other_bytes(where, f"the {promised} that it announced", answer.response)
        return parse_manifest(answer.content, where, _media_type_of(answer.response)).descriptor

    def tags(self) -> tuple[str, ...]:
        """Return every tag of the repository, each once ("Listing Tags"); what is no tag by the grammar is left out.

        A page names the next one in a ``Link`` header, which is followed on this registry only.

        Raises:
            SourceError: there is no such repository, its list is malformed or has no end, or leads elsewhere.
            CredentialsError: the registry refuses access.
        """
        where = f"{self._location} tags"

        def page(request: HttpRequest) -> tuple[Response, bytes]:
            answer = self._answer(request, TAG_PAGE_BYTES)
            if answer.status != http.client.OK:
                raise self._refusal(answer, where, "no such repository", "correct the source, or push an image there")
            return answer.response, answer.content

        return all_tags(self._request("GET", f"tags/list?n={_TAGS_ASKED}", where), page)

    def manifest(self, digest: Digest) -> tuple[bytes, str]:
        """Return the bytes of the manifest *digest*, which match it, and the media type it came with, or ``""``.

        Raises:
            SourceError: there is no such manifest, it is larger than 4 MiB, or other bytes were sent.
            CredentialsError: the registry refuses access.
        """
        where = f"{self._location}@{digest}"
        answer = self._fetch("GET", f"manifests/{digest}", where)
        if answer.status != http.client.OK:
            todo = "run seawall lock again to pin what is there now"
            raise self._refusal(answer, where, "no such manifest", todo)
        if len(answer.content) > MANIFEST_MAX_BYTES:
            raise _too_large(where)
        if Digest.of(answer.content) != digest:
            raise _other_bytes(where, str(digest), answer.response)
        return answer.content, _media_type_of(answer.response)

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Return what the registry says refers to the manifest *subject* ("Listing Referrers").

        A registry without that API says so once, and has the list behind a tag, if at all ("Referrers Tag Schema").

        Raises:
            SourceError: the list is malformed, has no end, is too long, or leads elsewhere.
            CredentialsError: the registry refuses access.
        """
        where = f"{self._location}@{subject} referrers"
        found = self._listed(subject, where) if self._lists_referrers else None
        if found is not None:
            return found
        self._lists_referrers = False
        answer = self._fetch("GET", f"manifests/{list_tag(subject)}", where)
        if answer.status == http.client.NOT_FOUND:
            return ()
        if answer.status != http.client.OK:
            raise self._refusal(answer, where, "no list", "try again later")
        claims = claimed(answer.content, where)
        _check_few(len(claims), where)
        return claims

    def _listed(self, subject: Digest, where: str) -> tuple[Descriptor, ...] | None:
        """Return what the API lists, page by page; None where there is no such API."""
        request = self._request("GET", f"referrers/{subject}", where)
        found: dict[Digest, Descriptor] = {}
        seen: set[str] = set()
        while request.url not in seen and len(seen) < _REFERRER_PAGES_MAX:
            seen.add(request.url)
            answer = self._answer(request, MANIFEST_MAX_BYTES)
            if len(seen) == 1 and answer.status in _NO_REFERRERS_API:
                return None
            if answer.status != http.client.OK:
                raise self._refusal(answer, where, "no list", "try again later")
            if len(seen) == 1 and _media_type_of(answer.response) != OCI_INDEX.media_type:
                # Whatever it is, it is not that API: some servers have a page for every address.
                return None
            found |= {claim.digest: claim for claim in claimed(answer.content, where)}
            _check_few(len(found), where)
            following = next_page(answer.response, request, where)
            if following is None:
                return tuple(found.values())
            request = replace(request, url=following)
        raise SourceError(where, f"the list has no end ({len(seen)} pages were read)", "leave referrers out")

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of *blob* from *start* on, in pieces of at most 1 MiB, never more in all than its size.

        Only those are asked for (RFC 9110, section 14). A server that answers with the whole blob has its first part
        left out; one that answers with another range, or with none, is asked once more for the whole.

        Raises:
            TransientError: the connection is cut, or the registry falls silent or drips.
            SourceError: there is no such blob, or it has another size.
            CredentialsError: the registry refuses access.
        """
        if 0 < blob.size <= start:
            return
        where = f"{self._location}@{blob.digest}"
        request = self._request("GET", f"blobs/{blob.digest}", where)

        def refusal(response: Response) -> SeawallError:
            answer = _Answer(response, b"", self._http.said(request, response))
            return self._refusal(answer, where, "no such blob", "push the image there again")

        yield from pieces_from(request, blob.size, start, Exchange(self._http, self._exchange, refusal))

    def _count(self) -> None:
        with self._lock:
            self._requests += 1

    def _request(self, method: str, path: str, where: str) -> HttpRequest:
        host = api_host(self._location)
        scheme = self._http.scheme(host, plain_http=self._plain_http)
        url = f"{scheme}://{host}/v2/{self._location.repository}/{path}"
        accept = {"manifests": ACCEPT, "referrers": OCI_INDEX.media_type}.get(path.partition("/")[0])
        return HttpRequest(method, url, where, {"Accept": accept} if accept else {})

    def _fetch(self, method: str, path: str, where: str) -> "_Answer":
        """Return an answer with its body, of which no more is read than tells that a manifest is too large."""
        return self._answer(self._request(method, path, where), MANIFEST_MAX_BYTES)

    def _answer(self, request: HttpRequest, limit: int) -> "_Answer":
        def attempt() -> _Answer:
            response = self._exchange(request)
            if response.status_code != http.client.OK:
                return _Answer(response, b"", self._http.said(request, response))
            return _Answer(response, self._http.read(request, response, limit + 1), "")

        return self._http.persist(attempt)

    def _exchange(self, request: HttpRequest) -> Response:
        """Send *request* with the authorization there is, and once more with a new one where that is asked for."""
        header = self._authorization.header(request.where)
        response = self._http.send(replace(request, authorization=header), self._count)
        if not _is_challenge(response, request):
            return response
        challenges = parse_challenges(response.headers.get("WWW-Authenticate", ""))
        said = self._http.said(request, response)
        header = self._authorization.renew(challenges, header, request, said)
        response = self._http.send(replace(request, authorization=header), self._count)
        if _is_challenge(response, request):
            raise self._authorization.give_up(request.where, self._http.said(request, response))
        return response

    def _refusal(self, answer: "_Answer", where: str, missing: str, todo: str) -> SeawallError:
        host = urlsplit(answer.response.url).netloc
        because = f" ({answer.said})" if answer.said else ""
        at_home = same_origin(answer.response.url, self._request("GET", "", where).url)
        if at_home and answer.status == http.client.FORBIDDEN:
            return self._authorization.refused(where, answer.said)
        if answer.status == http.client.NOT_FOUND:
            return NotFoundError(where, f"{missing}{because}", todo)
        return SourceError(where, f"{host} answered {answer.status}{because}", "check that it is a registry")


@dataclass(frozen=True, slots=True)
class _Answer:
    response: Response
    content: bytes
    """The body of a 200; it may be one byte longer than what was asked for may be."""
    said: str
    """What the body of another status says."""

    @property
    def status(self) -> int:
        return self.response.status_code


def _is_challenge(response: Response, request: HttpRequest) -> bool:
    # Where a redirect led elsewhere, nothing that is said there is a reason to give credentials away.
    return response.status_code == http.client.UNAUTHORIZED and same_origin(response.url, request.url)


def _described(response: Response) -> Descriptor | None:
    """Return what the headers say of a manifest, None where they do not say enough."""
    media_type, digest = _media_type_of(response), _digest_of(response)
    length = response.headers.get("Content-Length", "").strip()
    if media_type not in BY_MEDIA_TYPE or digest is None or not length.isdecimal() or int(length) == 0:
        return None
    return Descriptor(media_type, digest, int(length))


def _digest_of(response: Response) -> Digest | None:
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    except InputError:
        return None


def _media_type_of(response: Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip()


def _check_few(referrers: int, where: str) -> None:
    if referrers > _REFERRERS_MAX:
        raise SourceError(where, f"lists more than {_REFERRERS_MAX} referrers", "leave referrers out")


def _too_large(where: str) -> SourceError:
    what = f"manifest is larger than {MANIFEST_MAX_BYTES} bytes"
    return SourceError(where, what, "check that the source serves container images")


def _other_bytes(where: str, digest: str, response: Response) -> SourceError:
    encoding = printable(response.headers.get("Content-Encoding", ""))
    how = f" (it encoded them as {encoding}, unasked)" if encoding else ""
    host = urlsplit(response.url).netloc
    return SourceError(where, f"{host} sent other bytes than {digest}{how}", "check what stands before the registry")
