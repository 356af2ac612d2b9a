"""Objects of a container: put, copied, sent in segments and removed, each checked by the store as it arrives.

What is larger than a segment is a static large object: its segments lie in ``CONTAINER_segments``, where they are named
by the blob that they are of, so that every repository with that blob has a small object that lists the same ones.
"""

import hashlib
import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from swiftclient.client import Connection
from swiftclient.exceptions import ClientException
from swiftclient.utils import LengthWrapper

from seawall.digest import Digest
from seawall.errors import InputError, NotFoundError, SourceError, TreeError
from seawall.store_objects import Found, Headers, check_content
from seawall.swift import Container

SEGMENT_BYTES = 64 * 1024 * 1024
"""What is no larger is one object."""
SEGMENTS_MAX = 1000
"""Swift's "max_manifest_segments", as it is unless a cluster says otherwise."""

_CLAIM_SECONDS = 60
_PIECE_BYTES = 1024 * 1024
_DIGEST = "Docker-Content-Digest"
_KEPT_DIGEST = f"X-Object-Meta-{_DIGEST}"
_API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_ANYBODY = ".r:*"


class SwiftObjects:
    """Writes objects of *container*, as :class:`~seawall.store_objects.StoreObjects` wants them written."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._segments = f"{container.place.container}_segments"
        self._has_segments = False
        self._mutex = threading.Lock()

    def where(self, path: str) -> str:
        """Return *path* as errors name it."""
        place = self.container.place
        return f"{place}/{path}" if path else str(place)

    def head(self, path: str) -> Found | None:
        """Return what the store says of an object; None where it has none."""
        try:
            return _found(self._ask(path, lambda store: store.head_object(*self._at(path))))
        except NotFoundError:
            return None

    def get(self, path: str) -> tuple[bytes, Found] | None:
        """Return the bytes of a small object and what the store says of it; None where it has none."""
        try:
            # What was just written is not taken from an older copy.
            newest = {"X-Newest": "true"}
            answer, body = self._ask(path, lambda store: store.get_object(*self._at(path), headers=newest))
        except NotFoundError:
            return None
        return bytes(body), _found(answer)

    def listed(self, prefix: str) -> dict[str, Found]:
        """Return every object whose path begins with *prefix*, by its path; without digests."""
        place = self.container.place
        start = len(place.key(""))
        try:
            rows = self._listed(place.container, place.key(prefix))
        except NotFoundError:
            raise self._missing() from None
        return {name[start:]: found for name, found in rows.items()}

    def put(self, path: str, body: bytes, headers: Headers) -> None:
        """Put an object in one piece; the store refuses it where it is not what was sent."""
        self._put(path, body, _fields(headers))

    def put_if(self, path: str, body: bytes, headers: Headers, etag: str | None) -> str | None:
        """Put an object in the place of the one with *etag*; None: where there is none.

        Swift refuses to replace what is there, and nothing else. So who replaces something first takes what nobody else
        has, the name of a claim to just that; one that a killed run leaves there expires.

        Returns:
            Its own ETag; None where somebody else was faster.
        """
        if etag is None:
            return self._put_new(path, body, _fields(headers))
        claim = f"{path}.{etag}"
        if self._put_new(claim, body, {**_fields(headers), "X-Delete-After": str(_CLAIM_SECONDS)}) is None:
            return None
        try:
            found = self.get(path)
            if found is None or found[1].etag != etag:
                return None
            self._put(path, body, _fields(headers))
            return _md5(body)
        finally:
            self.remove(claim)

    def copy(self, source: str, path: str, size: int, headers: Headers) -> bool:  # noqa: ARG002 - any size will do
        """Copy an object within the store; of a large one the list of its segments, not these."""
        container, name = self._at(source)
        fields = {**_fields(headers), "X-Copy-From": quote(f"{container}/{name}")}
        try:
            self._put(path, b"", fields, query_string="multipart-manifest=get")
        except NotFoundError:
            return False
        return True

    def send(self, file: Path, path: str, digest: Digest, headers: Headers, advance: Callable[[int], None]) -> None:
        """Send *file*, whose bytes are those of *digest*; segments that an interrupted run has sent stay.

        It is read twice: first to know that it is what it should be, and by which MD5 the store can tell that too.

        Raises:
            TreeError: the file cannot be read, or holds other bytes; nothing of it is then sent.
        """
        try:
            size = file.stat().st_size
            segment = max(SEGMENT_BYTES, -(-size // SEGMENTS_MAX))
            with file.open("rb") as opened:
                if size <= _PIECE_BYTES:
                    body = opened.read()
                    check_content(Digest.of(body), digest, file)
                    self.put(path, body, headers)
                    advance(len(body))
                    return
                hashes = _hashes(opened, segment, digest, file)
                if size <= segment:
                    self._send_part(self._at(path), opened, (0, size), hashes[0], _fields(headers))
                    advance(size)
                    return
                self._need_segments()
                prefix = self.container.place.key(f"{digest}/{segment}/")
                there, rows = self._listed(self._segments, prefix), []
                for number, md5 in enumerate(hashes):
                    name, start = f"{prefix}{number:04}", number * segment
                    length = min(segment, size - start)
                    found = there.get(name)
                    if found is None or (found.size, found.etag) != (length, md5):
                        self._send_part((self._segments, name), opened, (start, length), md5, {})
                    rows.append({"path": f"/{self._segments}/{name}", "etag": md5, "size_bytes": length})
                    advance(length)
            self._put(path, json.dumps(rows).encode(), _fields(headers), query_string="multipart-manifest=put")
        except OSError as error:
            raise TreeError(str(file), f"cannot be read ({error.strerror})", "run again") from None

    def remove(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._delete(*self._at(path))

    def unused(self, used: Set[Digest], grace: float) -> list[str]:
        """Return the segments of blobs that are none of *used*, and were written *grace* seconds ago."""
        prefix = self.container.place.key("")
        try:
            rows = self._listed(self._segments, prefix)
        except NotFoundError:
            return []
        return [name for name, found in sorted(rows.items()) if found.age > grace and _is_unused(name, prefix, used)]

    def remove_unused(self, name: str) -> None:
        """Remove one of :meth:`unused`."""
        self._delete(self._segments, name)

    # Segments.

    def _send_part(
        self, to: tuple[str, str], opened: BinaryIO, part: tuple[int, int], md5: str, fields: Mapping[str, str]
    ) -> None:
        start, length = part

        def send(store: Connection) -> None:
            opened.seek(start)
            body = LengthWrapper(opened, length, md5=False)
            store.put_object(*to, body, content_length=length, etag=md5, headers=dict(fields))

        self.container.ask(f"swift://{to[0]}/{to[1]}", send)

    def _need_segments(self) -> None:
        """Have a container for segments, which those may read who may read the objects.

        Raises:
            SourceError: there is one, which is not open to all as the other is.
        """
        with self._mutex:
            if self._has_segments:
                return
            name = self.container.place.container
            readers = self._readers(name) or ""
            theirs = self._readers(self._segments)
            where = f"swift://{self._segments}"
            if theirs is None:
                fields = {"X-Container-Read": readers} if readers else {}
                self.container.ask(where, lambda store: store.put_container(self._segments, headers=fields))
            elif _ANYBODY in readers.split(",") and _ANYBODY not in theirs.split(","):
                what = f"is not open to all, as {name} is, so that nobody could read its large blobs"
                raise SourceError(where, what, f"run: swift post --read-acl '{readers}' {self._segments}")
            self._has_segments = True

    def _readers(self, name: str) -> str | None:
        """Return who may read the container *name*, as far as we are told; None where there is none."""
        try:
            found = self.container.ask(f"swift://{name}", lambda store: store.head_container(name))
        except NotFoundError:
            return None
        return str(found.get("x-container-read", "")).replace(" ", "")

    # Requests.

    def _put(self, path: str, body: bytes, fields: Mapping[str, str], *, query_string: str = "") -> None:
        # Of a list of segments the store makes an ETag of its own.
        etag = None if query_string else _md5(body)
        self._ask(
            path,
            lambda store: store.put_object(
                *self._at(path),
                _body(body),
                content_length=len(body),
                etag=etag,
                headers=dict(fields),
                query_string=query_string or None,
            ),
        )

    def _put_new(self, path: str, body: bytes, fields: Mapping[str, str]) -> str | None:
        def put(store: Connection) -> bool:
            try:
                given = {**fields, "If-None-Match": "*"}
                store.put_object(*self._at(path), _body(body), content_length=len(body), etag=_md5(body), headers=given)
            except ClientException as error:
                if error.http_status not in {http.client.PRECONDITION_FAILED, http.client.CONFLICT}:
                    raise
                return False
            return True

        try:
            is_new = self._ask(path, put)
        except NotFoundError:
            raise self._missing() from None
        if is_new:
            return _md5(body)
        # It may be our own, which arrived before its answer was lost.
        found = self.get(path)
        return found[1].etag if found and found[0] == body else None

    def _missing(self) -> SourceError:
        name = self.container.place.container
        return SourceError(f"swift://{name}", "is no container of this account", f"run: swift post {name}")

    def _delete(self, container: str, name: str) -> None:
        def delete(store: Connection) -> None:
            try:
                store.delete_object(container, name)
            except ClientException as error:
                if error.http_status != http.client.NOT_FOUND:
                    raise

        self.container.ask(f"swift://{container}/{name}", delete)

    def _listed(self, container: str, prefix: str) -> dict[str, Found]:
        def pages(store: Connection) -> Iterator[tuple[dict[str, str], list[dict[str, Any]]]]:
            marker = ""
            while True:
                answer, rows = store.get_container(container, prefix=prefix, marker=marker)
                if not rows:
                    return
                yield answer, rows
                marker = rows[-1]["name"]

        def read(store: Connection) -> dict[str, Found]:
            return {str(row["name"]): _of_row(row, answer) for answer, rows in pages(store) for row in rows}

        return self.container.ask(f"swift://{container}/{prefix}", read)

    def _ask(self, path: str, question: Callable[[Connection], Any]) -> Any:
        return self.container.ask(self.where(path), question)

    def _at(self, path: str) -> tuple[str, str]:
        place = self.container.place
        return place.container, place.key(path)


def _body(content: bytes) -> io.BytesIO | None:
    """Return *content* so that swiftclient can send it again: it does so with what can be rewound, not with bytes."""
    return io.BytesIO(content) if content else None


def _fields(headers: Headers) -> dict[str, str]:
    """Return *headers* as Swift takes them; clusters that were not told to keep the digest's own keep its copy."""
    fields = {"Content-Type": headers.media_type, "Cache-Control": headers.cache, **_API_VERSION}
    digest = {_DIGEST: str(headers.digest), _KEPT_DIGEST: str(headers.digest)} if headers.digest else {}
    return {**fields, **digest}


def _found(answer: Mapping[str, str]) -> Found:
    return Found(
        size=int(answer["content-length"]),
        etag=answer.get("etag", "").strip('"'),
        age=(_now(answer) - parsedate_to_datetime(answer["last-modified"])).total_seconds(),
        media_type=answer.get("content-type", ""),
        digest=answer.get(_KEPT_DIGEST.lower(), ""),
    )


def _of_row(row: Mapping[str, Any], answer: Mapping[str, str]) -> Found:
    written = datetime.fromisoformat(row["last_modified"]).replace(tzinfo=UTC)
    age = (_now(answer) - written).total_seconds()
    return Found(int(row["bytes"]), str(row["hash"]).strip('"'), age, str(row["content_type"]))


def _now(answer: Mapping[str, str]) -> datetime:
    """Return the time on the store's clock as it gave *answer*."""
    try:
        return parsedate_to_datetime(answer["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _hashes(opened: BinaryIO, segment: int, digest: Digest, file: Path) -> list[str]:
    """Return the MD5 of each *segment* bytes of a file, having seen that it is what it should be."""
    whole, found, left = hashlib.sha256(), [], 0
    while piece := opened.read(min(left or segment, _PIECE_BYTES)):
        if not left:
            found.append(hashlib.md5(usedforsecurity=False))
            left = segment
        whole.update(piece)
        found[-1].update(piece)
        left -= len(piece)
    check_content(Digest(whole.hexdigest()), digest, file)
    return [one.hexdigest() for one in found]


def _is_unused(name: str, prefix: str, used: Set[Digest]) -> bool:
    try:
        return Digest.parse(name.removeprefix(prefix).partition("/")[0]) not in used
    except InputError:
        return False  # Another prefix's, or somebody else's.


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
