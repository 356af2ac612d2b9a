"""The list of tags over HTTP, page by page (OCI Distribution Specification 1.1, "Listing Tags")."""

import json
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urljoin

from requests import Response

from seawall.errors import SourceError
from seawall.http_session import HttpRequest, same_origin
from seawall.reference import is_tag
from seawall.tree_files import TAGS_MAX

TAG_PAGE_BYTES = 4 * 1024 * 1024
"""The largest page that is read."""

_PAGES_MAX = 2000


def all_tags(request: HttpRequest, page: Callable[[HttpRequest], tuple[Response, bytes]]) -> tuple[str, ...]:
    """Return every tag of the list that begins with the page *request*, each once; what is no tag is left out.

    A page names the next one in a ``Link`` header, which is followed on the same server only.

    Args:
        request: the first page.
        page: returns the answer to such a request and its body, of which one byte more than the largest page suffices.

    Raises:
        SourceError: the list is malformed, has no end, or leads elsewhere.
    """
    where = request.where
    found: dict[str, None] = {}
    seen: set[str] = set()
    while request.url not in seen and len(seen) < _PAGES_MAX and len(found) <= TAGS_MAX:
        seen.add(request.url)
        response, body = page(request)
        found |= dict.fromkeys(tags_of(body, where))
        following = next_page(response, request, where)
        if following is None:
            return tuple(found)
        request = replace(request, url=following)
    raise SourceError(where, f"the list has no end ({len(seen)} pages were read)", "name the tags instead")


def tags_of(page: bytes, where: str) -> list[str]:
    """Return the tags of one page; what is no tag is left out.

    Raises:
        SourceError: it is too large, or no list of tags.
    """
    if len(page) > TAG_PAGE_BYTES:
        raise SourceError(where, f"a page is larger than {TAG_PAGE_BYTES} bytes", "name the tags instead")
    try:
        # Some registries say null for an empty list.
        names = json.loads(page)["tags"] or []
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return [name for name in names if is_tag(name)]
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    raise SourceError(where, "is not a list of tags", "check that it is a registry")


def next_page(response: Response, request: HttpRequest, where: str) -> str | None:
    """Return the URL of the page that follows, None where this one is the last (RFC 8288, relation ``next``)."""
    link = response.links.get("next", {}).get("url")
    if not link:
        return None
    try:
        following = urljoin(response.url, link)
        at_home = same_origin(following, request.url)
    except ValueError:
        at_home = False
    if not at_home:
        raise SourceError(where, "the next page is said to be on another server", "tell who runs it")
    return following
