"""The files of a tree behind any web server, bucket or CDN: plain GETs, and no header of the answer is believed."""

import http.client
import threading
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from requests import Response

from seawall.authorization import Authorization
from seawall.challenge import parse_challenges
from seawall.credentials import CredentialsLookup, anonymous
from seawall.errors import CredentialsError, NotFoundError, SeawallError, SourceError
from seawall.http_range import Exchange, pieces_from
from seawall.http_session import HttpRequest, HttpSession, printable, same_origin
from seawall.listing import PAGE_SIZES, Shape
from seawall.place import HttpPlace
from seawall.reference import RegistryLocation
from seawall.tag_pages import TAG_PAGE_BYTES, all_tags, tags_of
from seawall.tree_files import TAGS_MAX

_MISSING = frozenset({http.client.NOT_FOUND, http.client.GONE})


class HttpFiles:
    """Reads a tree over HTTP; may be used by several threads.

    A name and password, as ``docker login`` keeps them for the host, are sent once it answers 401, and to no other
    host.

    Args:
        place: where the tree is served.
        credentials: looks up the credentials for the host, once it asks for some.
        http_session: sends the requests; give one to many, so that they share connections.
    """

    def __init__(
        self,
        place: HttpPlace,
        *,
        credentials: CredentialsLookup = anonymous,
        http_session: HttpSession | None = None,
    ) -> None:
        self._place = place
        self._host = urlsplit(place.url).netloc
        self._http = http_session or HttpSession()
        self._authorization = Authorization(RegistryLocation(self._host, "v2"), credentials, self._http, self._count)
        self._requests = 0
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """How many HTTP requests were sent so far, with those for redirects."""
        return self._requests

    def read(self, path: str, limit: int, where: str) -> bytes:
        """Return the bytes of the file *path*, or its first *limit* + 1 bytes where it has more.

        Raises:
            NotFoundError: there is no such file.
            CredentialsError: the server refuses access.
            SourceError: it does not answer, or not with the file as it is.
        """
        return self._page(self._request(path, where), limit)[1]

    def pieces(self, path: str, size: int, start: int, where: str) -> Iterator[bytes]:
        """Yield the bytes of the file *path*, which has *size*, from byte *start* on, in pieces of at most 1 MiB.

        Raises:
            NotFoundError: there is no such file.
            TransientError: the connection is cut, or the server falls silent or drips.
            CredentialsError: the server refuses access.
            SourceError: it does not answer, or the file has another size.
        """
        request = self._request(path, where)
        exchange = Exchange(self._http, self._exchange, lambda response: self._refusal(request, response))
        yield from pieces_from(request, size, start, exchange)

    def tags(self, repository: str, where: str) -> tuple[str, ...]:
        """Return every tag of *repository*, each once, as its tag list has them.

        A server that knows the list names its next page in a ``Link``. One that knows no more than files does not: of
        a longer list it serves the first page, and the others where the tree has them (see :mod:`seawall.listing`).

        Raises:
            NotFoundError: there is no such repository.
            CredentialsError: the server refuses access.
            SourceError: it does not answer, or its list is malformed.
        """
        folder = f"v2/{repository}/tags"
        found = dict.fromkeys(
            all_tags(self._request(f"{folder}/list", where), lambda request: self._page(request, TAG_PAGE_BYTES))
        )
        while found and len(found) <= TAGS_MAX:
            last = next(reversed(found))
            try:
                page = self.read(
                    f"{folder}/{Shape.of_tags(repository).after(last, PAGE_SIZES[-1])}", TAG_PAGE_BYTES, where
                )
            except (NotFoundError, CredentialsError):
                # A bucket refuses what is missing to whoever may not list it.
                break
            following = [tag for tag in tags_of(page, where) if tag not in found]
            if not following:
                break
            found |= dict.fromkeys(following)
        return tuple(found)

    def _count(self) -> None:
        with self._lock:
            self._requests += 1

    def _request(self, path: str, where: str) -> HttpRequest:
        return HttpRequest("GET", f"{self._place.url}/{path}", where)

    def _page(self, request: HttpRequest, limit: int) -> tuple[Response, bytes]:
        def attempt() -> tuple[Response, bytes]:
            response = self._exchange(request)
            if response.status_code != http.client.OK:
                raise self._refusal(request, response)
            return response, self._http.read(request, response, limit + 1)

        return self._http.persist(attempt)

    def _exchange(self, request: HttpRequest) -> Response:
        """Send *request* with the authorization there is, and once more with a new one where that is asked for."""
        header = self._authorization.header(request.where)
        response = self._http.send(replace(request, authorization=header), self._count)
        if _wants_login(response, request):
            challenges = parse_challenges(response.headers.get("WWW-Authenticate", ""))
            said = self._http.said(request, response)
            if challenges and all(challenge.scheme == "bearer" for challenge in challenges):
                what = f"{self._host} asks for a token, as a registry does"
                raise SourceError(request.where, what, f"write docker://{self._host}/REPOSITORY")
            known = [challenge for challenge in challenges if challenge.scheme != "bearer"]
            header = self._authorization.renew(known, header, request, said)
            response = self._http.send(replace(request, authorization=header), self._count)
            if _wants_login(response, request):
                raise self._authorization.give_up(request.where, self._http.said(request, response))
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if response.status_code in {http.client.OK, http.client.PARTIAL_CONTENT} and encoding not in {"", "identity"}:
            response.close()
            what = f"{urlsplit(response.url).netloc} encodes the file as {printable(encoding)}, unasked"
            raise SourceError(request.where, what, "have v2/ served as it lies there")
        return response

    def _refusal(self, request: HttpRequest, response: Response) -> SeawallError:
        said = self._http.said(request, response)
        because = f" ({said})" if said else ""
        if response.status_code in _MISSING:
            return NotFoundError(request.where, f"is missing{because}", "correct the name")
        if response.status_code == http.client.FORBIDDEN and same_origin(response.url, request.url):
            return self._authorization.refused(request.where, said)
        what = f"{urlsplit(response.url).netloc} answered {response.status_code}{because}"
        return SourceError(request.where, what, "check that it serves the files of a tree")


def _wants_login(response: Response, request: HttpRequest) -> bool:
    # Where a redirect led elsewhere, nothing that is said there is a reason to give credentials away.
    return response.status_code == http.client.UNAUTHORIZED and same_origin(response.url, request.url)
