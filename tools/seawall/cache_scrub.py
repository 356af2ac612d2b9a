"""Scrub of a cache: nginx keeps what it was sent and cannot hash it; this reads it again, and says what is wrong."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seawall.cached_file import CachedFile, cached_files
from seawall.errors import TreeError

_PIECE_BYTES = 1024 * 1024
# The keys that templates/nginx/edge.conf.j2 makes.
_SLICE = re.compile(r"sha256:(?P<hex>[0-9a-f]{64}) bytes=(?P<start>\d+)-\d+")
_PERMISSION = "HEAD "
_BY_DIGEST = re.compile(r"/v2/.+/manifests/sha256:(?P<hex>[0-9a-f]{64}) .*")
_BY_TAG = re.compile(r"/v2/.+/manifests/[^/: ]+ .*")
_DIGEST = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})")
_RANGE = re.compile(r"bytes (?P<start>\d+)-(?P<end>\d+)/(?P<total>\d+)")


@dataclass(frozen=True, slots=True)
class Wrong:
    """A file of the cache that is not what its key says."""

    file: CachedFile
    what: str


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What a scrub of a cache read and found."""

    wrong: tuple[Wrong, ...]
    files: int
    hashed: int
    """Manifests and whole blobs that were hashed."""
    incomplete: int
    """Blobs of which some slices are not there, so that they have nothing to be compared with yet."""
    size: int
    """Bytes of bodies that were read."""


def scrub_cache(folder: Path, advance: Callable[[int], None]) -> CacheReport:
    """Read the cache in *folder* and compare what can be compared; *advance* hears of bytes that were hashed.

    A blob lies in slices under its digest: it is hashed over all of them, once they are all there. What nginx writes or
    takes away meanwhile is left for the next time.

    Raises:
        TreeError: *folder* is no cache, or cannot be read.
    """
    if not folder.is_dir():
        raise TreeError(str(folder), "is no folder", "name the folder of an edge's cache")
    files = hashed = size = 0
    wrong: list[Wrong] = []
    slices: defaultdict[str, list[CachedFile]] = defaultdict(list)
    for file in cached_files(folder):
        files += 1
        length = file.headers.get("content-length")
        is_permission = file.key.startswith(_PERMISSION)
        if not is_permission and length is not None and length != str(file.body_size):
            wrong.append(Wrong(file, f"has {file.body_size} of {length} bytes"))
        elif found := _SLICE.fullmatch(file.key):
            slices[found["hex"]].append(file)
        elif (want := _digest_of_manifest(file)) is not None:
            hex_ = _hash([file], advance)
            if hex_ is None:
                continue
            hashed += 1
            size += file.body_size
            if hex_ != want:
                wrong.append(Wrong(file, f"hashes to sha256:{hex_}"))
    incomplete = 0
    for want, parts in sorted(slices.items()):
        ordered, bad = _in_order(parts)
        wrong += bad
        if ordered is None:
            incomplete += not bad
            continue
        hex_ = _hash(ordered, advance)
        if hex_ is None:
            incomplete += 1
            continue
        hashed += 1
        size += sum(part.body_size for part in ordered)
        if hex_ != want:
            # Which of them is to blame nobody can say.
            wrong += [Wrong(part, f"belongs to what hashes to sha256:{hex_}") for part in ordered]
    return CacheReport(tuple(wrong), files, hashed, incomplete, size)


def remove_wrong(wrong: Iterable[Wrong]) -> Iterator[Wrong]:
    """Remove the files of *wrong* and yield each that is gone; one that nginx has replaced meanwhile stays.

    nginx takes a file that is missing for one that it never had, and fetches it anew.

    Raises:
        TreeError: a file cannot be removed.
    """
    for one in wrong:
        path = one.file.path
        with suppress(FileNotFoundError):
            if path.stat().st_ino == one.file.inode:
                try:
                    path.unlink()
                except PermissionError as error:
                    raise TreeError(
                        str(path), f"cannot be removed ({error.strerror})", "run as nginx's account"
                    ) from None
                yield one


def _digest_of_manifest(file: CachedFile) -> str | None:
    """Return the hexadecimal digest that the body of *file* must have, or None where nothing says one."""
    if file.status != 200:
        return None
    if found := _BY_DIGEST.fullmatch(file.key):
        return found["hex"]
    said = _DIGEST.fullmatch(file.headers.get("docker-content-digest", ""))
    return said["hex"] if said and _BY_TAG.fullmatch(file.key) else None


def _in_order(parts: list[CachedFile]) -> tuple[list[CachedFile] | None, list[Wrong]]:
    """Return a blob's slices from its first byte to its last, None where some are missing; and those not as named."""
    wrong: list[Wrong] = []
    good: list[tuple[int, int, int, CachedFile]] = []
    for part in parts:
        asked, said = _SLICE.fullmatch(part.key), _RANGE.fullmatch(part.headers.get("content-range", ""))
        if part.status == 200 and said is None:
            # An upstream without ranges: the whole of it, under the key of its first slice.
            return [part], []
        if part.status != 206 or said is None or asked is None or said["start"] != asked["start"]:
            wrong.append(Wrong(part, f"is another part than its key says: {part.headers.get('content-range')}"))
        elif int(said["end"]) + 1 - int(said["start"]) != part.body_size:
            wrong.append(Wrong(part, f"has {part.body_size} bytes, and says {said[0]}"))
        else:
            good.append((int(said["start"]), int(said["end"]) + 1, int(said["total"]), part))
    if len({total for _, _, total, _ in good}) > 1:
        return None, wrong + [Wrong(part, "does not agree with its other parts on their size") for *_, part in good]
    position = 0
    for start, end, _, _ in sorted(good, key=lambda row: row[0]):
        if start != position:
            return None, wrong
        position = end
    if wrong or not good or position != good[0][2]:
        return None, wrong
    return [part for *_, part in sorted(good, key=lambda row: row[0])], wrong


def _hash(parts: list[CachedFile], advance: Callable[[int], None]) -> str | None:
    """Return what the bodies of *parts*, one after the other, hash to; None if one is gone or new meanwhile."""
    hasher = hashlib.sha256()
    for part in parts:
        try:
            with part.path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != part.inode:
                    return None
                file.seek(part.body_start)
                while piece := file.read(_PIECE_BYTES):
                    hasher.update(piece)
                    advance(len(piece))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TreeError(str(part.path), f"cannot be read ({error.strerror})", "check the disk") from None
    return hasher.hexdigest()
