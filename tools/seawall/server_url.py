"""The URL of a server, as people give it; without the HTTP libraries, which take their time to be read."""

from urllib.parse import urlsplit

from seawall.errors import InputError


def check_url(url: str) -> str:
    """Return *url*, the root below which a server has its ``/v2/``, without a slash at its end.

    Raises:
        InputError: it is no http or https URL, or has credentials, a query or a fragment in it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(url, "is not the URL of a server", "write http://HOST[:PORT] or https://HOST[:PORT]")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{parts.scheme}://{parts.hostname}", "has credentials in it", "leave them out of the URL")
    return url.rstrip("/").removesuffix("/v2")
