"""Places that hold a tree, and how they are spelled.

A path, ``ssh://[USER@]HOST[:PORT]/PATH``, ``s3://BUCKET[/PREFIX]``; to publish to, ``swift://CONTAINER[/PREFIX]``; to
read from, any ``http://`` or ``https://`` URL below which a server has ``v2/``. A repository in a tree is spelled by
its address: ``PLACE/v2/REPOSITORY``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from seawall.errors import InputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
# What ssh_config(5) may call a host: an alias there may have an underscore. Never a leading -, which is an option.
_SSH_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]")
_PORT = re.compile(r"[0-9]{1,5}")
# Amazon S3's "General purpose buckets naming rules", and the underscores that other stores allow.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
# "Object Storage API overview": up to 256 bytes without a slash.
_CONTAINER_BYTES = 256
_V2 = "/v2/"

SPELLINGS = "a path, ssh://[USER@]HOST[:PORT]/PATH or s3://BUCKET[/PREFIX]"
DESTINATIONS = "a path, ssh://[USER@]HOST[:PORT]/PATH, s3://BUCKET[/PREFIX] or swift://CONTAINER[/PREFIX]"
_ADDRESSES = (
    "write PATH/v2/REPOSITORY, ssh://[USER@]HOST[:PORT]/PATH/v2/REPOSITORY, https://HOST[/PREFIX]/v2/REPOSITORY or "
    "s3://BUCKET[/PREFIX]/v2/REPOSITORY"
)


@dataclass(frozen=True, slots=True, order=True)
class PathPlace:
    """A tree in a folder of this machine."""

    path: Path

    def __str__(self) -> str:
        text = str(self.path).rstrip("/")
        # What stands before a colon would read as a transport.
        return text if _SCHEME.match(text) is None else f"./{text}"


@dataclass(frozen=True, slots=True, order=True)
class SshPlace:
    """A tree in a folder of another machine, reached with the user's own OpenSSH client."""

    host: str
    """As the client is to be told it: a name of its configuration, or an address without brackets."""
    path: str
    """Absolute."""
    user: str = ""
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"ssh://{user}{host}{port}{self.path.rstrip('/')}"


@dataclass(frozen=True, slots=True, order=True)
class HttpPlace:
    """A tree that some web server, bucket or CDN serves: its files, with whatever headers."""

    url: str
    """What stands before ``/v2/``; without a slash at its end."""

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True, order=True)
class S3Place:
    """A tree in a bucket of an S3 store, its files as objects under the same names."""

    bucket: str
    prefix: str = ""
    """Without slashes at its ends."""

    def key(self, path: str) -> str:
        """Return the key of the tree's file *path*."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


@dataclass(frozen=True, slots=True, order=True)
class SwiftPlace:
    """A tree in a container of an OpenStack Swift store, its files as objects under the same names."""

    container: str
    prefix: str = ""
    """Without slashes at its ends."""

    def key(self, path: str) -> str:
        """Return the name of the object for the tree's file *path*."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def __str__(self) -> str:
        return f"swift://{self.container}/{self.prefix}" if self.prefix else f"swift://{self.container}"


Place = PathPlace | SshPlace | HttpPlace | S3Place


def is_place(text: str) -> bool:
    """Return whether *text* is spelled as what holds a tree, not as another source of images."""
    scheme = _SCHEME.match(text)
    return text.startswith(("ssh:", "http:", "https:", "s3:")) or (scheme is None and _V2 in text)


def split_address(text: str, where: str) -> tuple[str, str]:
    """Return what stands before and behind the first component ``v2`` of *text*: the place and the rest.

    The first one, for a repository may have such a component itself, and its name is not ours to choose.

    Raises:
        InputError: there is none.
    """
    scheme = _SCHEME.match(text)
    # The bucket or the host is never it.
    start = text.find("/", len(scheme.group()) + 2) if scheme and text.startswith("//", scheme.end()) else 0
    at = text.find(_V2, start) if start >= 0 else -1
    if at < 0 or not text[at + len(_V2) :]:
        raise InputError(where, f"{shown(text)!r} names no repository of a tree", _ADDRESSES)
    return text[:at] or "/", text[at + len(_V2) :]


def parse_place(text: str, where: str) -> Place:
    """Return the place that *text* spells.

    Raises:
        InputError: it is none, or malformed.
    """
    scheme, _, rest = text.partition(":")
    if _SCHEME.match(text) is None:
        if not text or "\0" in text:
            raise InputError(where, f"{text!r} is no place that holds a tree", f"write {SPELLINGS}")
        return PathPlace(Path(text))
    if scheme == "ssh" and rest.startswith("//"):
        return _parse_ssh(rest[2:], text, where)
    if scheme == "s3" and rest.startswith("//"):
        return _parse_s3(rest[2:], text, where)
    if scheme in {"http", "https"} and rest.startswith("//"):
        return _parse_http(text, where)
    raise InputError(where, f"{shown(text)!r} is no place that holds a tree", f"write {SPELLINGS}")


def parse_destination(text: str, where: str) -> Place | SwiftPlace:
    """Return the place to publish to that *text* spells.

    Raises:
        InputError: it is none, or malformed.
    """
    if not text.startswith("swift://"):
        return parse_place(text, where)
    todo = "write swift://CONTAINER[/PREFIX]"
    container, _, prefix = text.removeprefix("swift://").partition("/")
    is_plain = container not in {"", ".", ".."} and container.isprintable() and not set(container) & set("?#@")
    if not is_plain or len(container.encode()) > _CONTAINER_BYTES:
        raise InputError(where, f"{shown(text)!r} names no container", todo)
    return SwiftPlace(container, _parse_prefix(prefix, text, where, todo))


def _parse_ssh(rest: str, text: str, where: str) -> SshPlace:
    authority, _, path = rest.partition("/")
    todo = "write ssh://[USER@]HOST[:PORT]/PATH"
    user, at, address = authority.rpartition("@")
    host, colon, port = _split_port(address)
    if ":" in user:
        raise InputError(where, f"ssh://{host} has a password in it", "leave it out: ssh takes a key")
    if _SSH_HOST.fullmatch(host) is None or (at and _USER.fullmatch(user) is None):
        raise InputError(where, f"{shown(text)!r} names no host, or no user, that ssh can take", todo)
    if colon and (_PORT.fullmatch(port) is None or not 0 < int(port) < 65536):
        raise InputError(where, f"{port[:20]!r} in {shown(text)!r} is no port", todo)
    path = f"/{path}".rstrip("/") or "/"
    if any(not c.isprintable() for c in path) or ".." in path.split("/"):
        raise InputError(where, f"{shown(text)!r} has no plain absolute path", todo)
    return SshPlace(host.strip("[]"), path, user, int(port) if colon else None)


def _split_port(address: str) -> tuple[str, str, str]:
    if address.startswith("["):
        host, bracket, port = address.partition("]")
        return host + bracket, ":" if port else "", port.removeprefix(":")
    return address.partition(":")


def _parse_s3(rest: str, text: str, where: str) -> S3Place:
    bucket, _, prefix = rest.partition("/")
    todo = "write s3://BUCKET[/PREFIX]"
    if _BUCKET.fullmatch(bucket) is None:
        raise InputError(where, f"{shown(text)!r} names no bucket", todo)
    return S3Place(bucket, _parse_prefix(prefix, text, where, todo))


def _parse_prefix(prefix: str, text: str, where: str, todo: str) -> str:
    prefix = prefix.strip("/")
    parts = prefix.split("/") if prefix else []
    if any(part in {"", ".", ".."} or not part.isprintable() or set(part) & set("?#\\") for part in parts):
        raise InputError(where, f"{shown(text)!r} has no plain prefix", todo)
    return prefix


def _parse_http(text: str, where: str) -> HttpPlace:
    todo = "write https://HOST[:PORT][/PREFIX]"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(where, "is no URL", todo) from None
    if parts.username is not None or parts.password is not None:
        what = f"{parts.scheme}://{host} has credentials in it"
        raise InputError(where, what, "leave them out, and run docker login for that host")
    if not host or parts.query or parts.fragment or any(c.isspace() or not c.isprintable() for c in text):
        raise InputError(where, f"{shown(text)!r} is no plain URL", todo)
    return HttpPlace(text.rstrip("/"))


def shown(text: str) -> str:
    """Return *text* as an error may say it: of sensible length, and without what could be a password."""
    return re.sub(r"//.*@(?!sha256:)", "//***@", text, flags=re.DOTALL)[:300]
