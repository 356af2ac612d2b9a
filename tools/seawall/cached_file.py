"""Files of an nginx cache: each says of itself what it is (nginx, src/http/ngx_http_cache.h, version 5)."""

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from seawall.errors import TreeError

# version, then valid, updating, error, last modified and date in seconds, then a checksum and milliseconds, and last
# where the answer's header and its body begin. Behind this stand ETag and Vary, and then the key.
_HEADER = struct.Struct("=Q5qIHHH")
_VERSION = 5
_KEY = b"\nKEY: "
# What nginx is still writing has digits behind its name.
_NAME = re.compile(r"[0-9a-f]{32}")
_MOST_HEADER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class CachedFile:
    """An answer that nginx keeps."""

    path: Path
    inode: int
    """Of the file that was read: nginx puts a newer answer in its place by a rename."""
    key: str
    """What the configuration made of the request (``proxy_cache_key``)."""
    status: int
    headers: Mapping[str, str]
    """The upstream's, by their names in lower case; of those that come twice the last."""
    body_start: int
    body_size: int
    """Bytes."""


def cached_files(folder: Path) -> Iterator[CachedFile]:
    """Yield every answer in the cache *folder*; what nginx takes away meanwhile is left out.

    Raises:
        TreeError: a file cannot be read, or is not nginx's.
    """
    for path in sorted(folder.rglob("*")):
        if _NAME.fullmatch(path.name):
            try:
                yield read_cached_file(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise TreeError(str(path), f"cannot be read ({error.strerror})", "run as nginx's account") from None


def read_cached_file(path: Path) -> CachedFile:
    """Return what the file at *path* says of itself.

    Raises:
        OSError: it cannot be read, or is gone.
        TreeError: nginx did not write it, or an nginx of another kind.
    """
    with path.open("rb") as file:
        begin = file.read(_MOST_HEADER_BYTES)
        stat = os.fstat(file.fileno())
    if len(begin) < _HEADER.size:
        raise _foreign(path)
    version, *_, header_start, body_start = _HEADER.unpack_from(begin)
    key_start = begin.find(_KEY, _HEADER.size, header_start)
    if version != _VERSION or not _HEADER.size < header_start < body_start <= len(begin) or key_start < 0:
        raise _foreign(path)
    key = begin[key_start + len(_KEY) : header_start].rstrip(b"\n")
    first, *lines = begin[header_start:body_start].decode("latin-1").splitlines()
    words = first.split()
    if len(words) < 2 or not words[1].isdigit():
        raise _foreign(path)
    headers = {
        name.strip().lower(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon
    }
    return CachedFile(
        path, stat.st_ino, key.decode("latin-1"), int(words[1]), headers, body_start, stat.st_size - body_start
    )


def _foreign(path: Path) -> TreeError:
    return TreeError(
        str(path), "is not a file of an nginx cache that is known here", "name the folder of an edge's cache"
    )
