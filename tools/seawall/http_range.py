"""The rest of a file over HTTP (RFC 9110, section 14), from servers that know ranges, do not, or pretend to."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from requests import Response

from seawall.errors import SeawallError, SourceError, TransientError
from seawall.http_session import HttpRequest, HttpSession, printable


@dataclass(frozen=True, slots=True)
class Exchange:
    """How a source sends a request and takes an answer."""

    http: HttpSession
    """Reads the body."""
    send: Callable[[HttpRequest], Response]
    """Sends a request, with the authorization that there is."""
    refusal: Callable[[Response], SeawallError]
    """Makes an error of an answer that is no success, and closes it."""


def pieces_from(request: HttpRequest, size: int, start: int, exchange: Exchange) -> Iterator[bytes]:
    """Yield what *request* names, which has *size* bytes, from byte *start* on, in pieces of at most 1 MiB.

    Only those are asked for. A server that answers with the whole has its first part left out; one that answers with
    another range, or with none, is asked once more for the whole. It never gets to send more in all than the size.

    Args:
        request: asks for the whole.
        size: bytes.
        start: the first byte to yield.
        exchange: sends it.

    Raises:
        TransientError: the connection is cut, or the server falls silent or drips.
        SourceError: it has another size.
        SeawallError: the server refuses.
    """
    where = request.where
    response, first = _open(request, size, start, exchange)
    with closing(response):
        if response.status_code not in {http.client.OK, http.client.PARTIAL_CONTENT}:
            raise exchange.refusal(response)
        length = response.headers.get("Content-Length")
        if length is not None and length.strip() != str(size - first):
            what = f"announced with {printable(length)} bytes, not the {size - first} of its descriptor"
            raise SourceError(where, what, "check the source, or push the image there again")
        received = first
        for piece in exchange.http.pieces(request, response, size - first):
            before, received = received, received + len(piece)
            if received > size:
                raise SourceError(where, f"came with more than its {size} bytes", "do not trust this source")
            if received > start:
                yield piece[max(start - before, 0) :]
        if received < size:
            raise TransientError(where, f"ended after {received} of {size} bytes", "try again later")


def _open(request: HttpRequest, size: int, start: int, exchange: Exchange) -> tuple[Response, int]:
    """Return an answer to *request* whose body is yet to be read, and the byte that it starts at."""
    if start:
        ranged = replace(request, headers={**request.headers, "Range": f"bytes={start}-"})
        response = exchange.http.persist(lambda: exchange.send(ranged))
        status, said = response.status_code, response.headers.get("Content-Range", "")
        if status == http.client.PARTIAL_CONTENT and _is_rest(said, start, size):
            return response, start
        if status not in {http.client.PARTIAL_CONTENT, http.client.REQUESTED_RANGE_NOT_SATISFIABLE}:
            return response, 0
        response.close()
    response = exchange.http.persist(lambda: exchange.send(request))
    if response.status_code == http.client.PARTIAL_CONTENT:
        raise exchange.refusal(response)
    return response, 0


def _is_rest(content_range: str, start: int, size: int) -> bool:
    """Return whether a ``Content-Range`` header is that of all from byte *start* to the end of *size* bytes."""
    unit, _, where = content_range.strip().partition(" ")
    return unit.lower() == "bytes" and where.strip() in {f"{start}-{size - 1}/{size}", f"{start}-{size - 1}/*"}
