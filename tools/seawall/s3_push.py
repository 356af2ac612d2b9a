"""Pushing into a bucket: the tree's files under ``v2/`` as objects, content first and pointers last.

There is no lock in a bucket. What is content is the same whoever writes it; the tag list is changed only if nobody
changed it meanwhile (``If-Match``), and a release's number is taken by whoever writes it first (``If-None-Match``).
Stores without conditional writes take both unconditionally.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any

from seawall.cache_control import CONTENT_CACHE, LIVE_CACHE
from seawall.digest import Digest
from seawall.errors import InputError, NotFoundError, SeawallError, SourceError
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, Manifest
from seawall.place import S3Place
from seawall.progress import Progress
from seawall.publication import JSON, OCTETS
from seawall.pushing import OpenBlob, Package, Shipment, plan_push
from seawall.release import Release, TagMove, release_text
from seawall.s3 import Bucket
from seawall.s3_files import S3Files
from seawall.s3_objects import PART_BYTES, PARTS_MAX, Objects, md5_of
from seawall.store_objects import Found, Headers
from seawall.sync import until
from seawall.tree import RELEASES, V2

_JSON = Headers(JSON, LIVE_CACHE)
_TRIES = 5
_LIST_BYTES = 64 * 1024 * 1024
_DISTRUST = "do not trust this source; nothing points at it"


class S3Push:
    """Pushes to the tree in the bucket of *place*.

    Args:
        place: the tree.
        jobs: how many objects are asked for or sent at a time.
    """

    def __init__(self, place: S3Place, jobs: int) -> None:
        self._place = place
        self._jobs = jobs
        self._bucket = Bucket(place)
        self._objects = Objects(self._bucket)
        self._files = S3Files(place, self._bucket)

    @property
    def requests(self) -> int:
        """How many requests were sent so far."""
        return self._bucket.requests

    def compare(self, package: Package) -> Shipment:
        """Return what has to be sent for *package* to be there; one HEAD for each of its parts.

        Raises:
            SeawallError: the store cannot be asked, or refuses.
        """
        folder = f"{V2}/{package.reference.repository}"

        def has_blob(blob: Descriptor) -> bool:
            found = self._objects.head(f"{folder}/blobs/{blob.digest}")
            return found is not None and found.size == blob.size

        def has_manifest(manifest: Manifest) -> bool:
            found = self._objects.head(f"{folder}/manifests/{manifest.digest}")
            return found is not None and _is(found, manifest)

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="head") as pool:
            blobs = pool.map(has_blob, package.blobs)
            manifests = pool.map(has_manifest, package.manifests)
            there = {blob.digest for blob, found in zip(package.blobs, blobs, strict=True) if found}
            known = {one.digest for one, found in zip(package.manifests, manifests, strict=True) if found}
        return plan_push(package, known, there, self._tagged(f"{folder}/manifests/{package.reference.tag}"))

    def send(self, shipment: Shipment, open_blob: OpenBlob, progress: Progress) -> int | None:
        """Send *shipment*; return the number of the release, or None where the tag did not move.

        Killed at any moment, the bucket serves all that it served before; the next run finishes.

        Raises:
            SeawallError: the source does not answer, or the store refuses.
        """
        package = shipment.package
        folder = f"{V2}/{package.reference.repository}"
        progress.expect(shipment.size, f"{len(shipment.blobs)} blobs")
        stop = threading.Event()

        def put(blob: Descriptor) -> None:
            self._put_blob(f"{folder}/blobs/{blob.digest}", blob, until(stop, open_blob(blob)), progress)

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="put") as pool:
            try:
                done, _ = wait([pool.submit(put, blob) for blob in shipment.blobs], return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        for manifest in shipment.manifests:
            self._put_manifest(f"{folder}/manifests/{manifest.digest}", manifest, CONTENT_CACHE)
            progress.advance(len(manifest.content))
        if not shipment.moves:
            return None
        self._list_tag(package.reference.repository, str(package.reference.tag))
        self._put_manifest(f"{folder}/manifests/{package.reference.tag}", package.manifests[-1], LIVE_CACHE)
        progress.say(f"{package.reference} -> {package.digest}")
        return self._record(shipment)

    def _tagged(self, path: str) -> Digest | None:
        found = self._objects.head(path)
        if found is None:
            return None
        try:
            return Digest.parse(found.digest)
        except InputError:
            # Somebody else put it there, or the store keeps no such thing: its bytes say it too.
            return Digest.of(self._files.read(path, MANIFEST_MAX_BYTES, self._where(path)))

    def _put_blob(self, path: str, blob: Descriptor, pieces: Iterator[bytes], progress: Progress) -> None:
        where = self._where(path)
        size = max(PART_BYTES, -(-blob.size // PARTS_MAX))
        parts = _parts(blob, pieces, size, where)
        if blob.size <= size:
            body = next(parts)
            self._objects.put(path, bytes(body), Headers(OCTETS, CONTENT_CACHE))
            progress.advance(len(body))
            return
        target = {"Bucket": self._place.bucket, "Key": self._place.key(path)}
        client = self._bucket.client
        with self._bucket.asked(where):
            upload = client.create_multipart_upload(**target, ContentType=OCTETS, CacheControl=CONTENT_CACHE)
            target["UploadId"] = upload["UploadId"]
        done: list[dict[str, Any]] = []
        try:
            for number, part in enumerate(parts, 1):
                with self._bucket.asked(where):
                    answer = client.upload_part(**target, PartNumber=number, Body=part, ContentMD5=md5_of(part))
                done.append({"PartNumber": number, "ETag": answer["ETag"]})
                progress.advance(len(part))
            with self._bucket.asked(where):
                client.complete_multipart_upload(**target, MultipartUpload={"Parts": done})
        except BaseException:
            # Parts of an upload that nobody completes are kept, and paid for.
            with contextlib.suppress(SeawallError), self._bucket.asked(where):
                client.abort_multipart_upload(**target)
            raise

    def _put_manifest(self, path: str, manifest: Manifest, cache: str) -> None:
        self._objects.put(path, manifest.content, Headers(manifest.kind.media_type, cache, manifest.digest))

    def _list_tag(self, repository: str, tag: str) -> None:
        """Have *tag* in the list of tags, whoever else changes the list at the same time."""
        path = f"{V2}/{repository}/tags/list"

        def attempt() -> bool:
            found = self._objects.head(path)
            tags = self._listed(path) if found else self._tags(repository)
            if found and tag in tags:
                return True
            document = {"name": repository, "tags": sorted({*tags, tag})}
            content = json.dumps(document, separators=(",", ":")).encode()
            return self._objects.put_if(path, content, _JSON, found.etag if found else None) is not None

        self._until_done(attempt, path)

    def _listed(self, path: str) -> list[str]:
        content = self._files.read(path, _LIST_BYTES, self._where(path))
        try:
            tags = json.loads(content)["tags"] or []
        except (ValueError, RecursionError, LookupError, TypeError):
            tags = None
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise SourceError(self._where(path), "is not a list of tags", "remove it; the next push makes it anew")
        return tags

    def _tags(self, repository: str) -> tuple[str, ...]:
        try:
            return self._files.tags(repository, f"{self._place}/{V2}/{repository}")
        except NotFoundError:
            return ()

    def _record(self, shipment: Shipment) -> int:
        """Write the record of the release, under the first number that nobody has taken; return that."""
        reference = shipment.package.reference
        move = TagMove(reference.repository, str(reference.tag), shipment.before, shipment.package.digest)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        number = self._last_release()

        def attempt() -> bool:
            nonlocal number
            number += 1
            text = release_text(Release(number, now, "push", "", (move,)))
            path = f"{RELEASES}/{number}.json"
            return self._objects.put_if(path, text.encode(), _JSON, None) is not None

        self._until_done(attempt, RELEASES)
        return number

    def _last_release(self) -> int:
        prefix = self._place.key(f"{RELEASES}/")
        numbers = [0]
        with self._bucket.asked(self._where(RELEASES)):
            pages = self._bucket.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._place.bucket, Prefix=prefix):
                names = (row["Key"].removeprefix(prefix).removesuffix(".json") for row in page.get("Contents", ()))
                numbers += [int(name) for name in names if name.isdecimal()]
        return max(numbers)

    def _until_done(self, attempt: Callable[[], bool], path: str) -> None:
        if not any(attempt() for _ in range(_TRIES)):
            raise SourceError(self._where(path), f"was changed by others {_TRIES} times meanwhile", "run again")

    def _where(self, path: str) -> str:
        return f"{self._place}/{path}"


def _parts(blob: Descriptor, pieces: Iterator[bytes], size: int, where: str) -> Iterator[bytearray]:
    """Yield *pieces* in parts of *size* bytes; the last only after all of *blob* was seen to be what it should."""
    hasher = hashlib.sha256()
    part, came = bytearray(), 0
    for piece in pieces:
        hasher.update(piece)
        came += len(piece)
        left = memoryview(piece)
        while left and came <= blob.size:
            if len(part) == size:
                yield part
                part = bytearray()
            room = size - len(part)
            part += left[:room]
            left = left[room:]
        if came > blob.size:
            break
    if came != blob.size or hasher.hexdigest() != blob.digest.hex:
        raise SourceError(where, f"source sent other bytes ({came}, sha256:{hasher.hexdigest()})", _DISTRUST)
    yield part


def _is(found: Found, manifest: Manifest) -> bool:
    return (found.size, found.media_type) == (len(manifest.content), manifest.kind.media_type)
