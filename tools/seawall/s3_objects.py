"""Objects of a bucket: put, copied, sent in parts and removed, each checked by the store as it arrives."""

import base64
import contextlib
import hashlib
import http.client
from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import botocore.exceptions

from seawall.digest import Digest
from seawall.errors import NotFoundError, TreeError
from seawall.s3 import Bucket, status_of
from seawall.store_objects import Found, Headers, check_content

PART_BYTES = 8 * 1024 * 1024
"""What is no larger is one PUT; what is larger is sent in parts of it, which bounds the memory of each job."""
PARTS_MAX = 10_000
"""Amazon S3's "multipart upload limits"."""
COPY_MAX_BYTES = 5 * 1024 * 1024 * 1024
"""The largest object that one CopyObject takes (Amazon S3, "CopyObject")."""

DIGEST_METADATA = "docker-content-digest"


class Objects:
    """Writes objects of *bucket*, as :class:`~seawall.store_objects.StoreObjects` wants them written.

    Args:
        bucket: where.
        acl: a canned ACL for each object, as ``public-read``; empty: the bucket's own rules.
    """

    def __init__(self, bucket: Bucket, acl: str = "") -> None:
        self.bucket = bucket
        self._acl = {"ACL": acl} if acl else {}

    def where(self, path: str) -> str:
        """Return *path* as errors name it."""
        return f"{self.bucket.place}/{path}" if path else str(self.bucket.place)

    def head(self, path: str) -> Found | None:
        """Return what the store says of an object; None where it has none."""
        try:
            with self.bucket.asked(self.where(path)):
                return _found(self.bucket.client.head_object(**self._at(path)))
        except NotFoundError:
            return None

    def get(self, path: str) -> tuple[bytes, Found] | None:
        """Return the bytes of a small object and what the store says of it; None where it has none."""
        try:
            with self.bucket.asked(self.where(path)):
                answer = self.bucket.client.get_object(**self._at(path))
                with contextlib.closing(answer["Body"]) as body:
                    return bytes(body.read()), _found(answer)
        except NotFoundError:
            return None

    def put(self, path: str, body: bytes | bytearray, headers: Headers) -> None:
        """Put an object in one piece; the store refuses it where it is not what was sent."""
        with self.bucket.asked(self.where(path)):
            self._put(path, body, headers)

    def put_if(self, path: str, body: bytes, headers: Headers, etag: str | None) -> str | None:
        """Put an object in the place of the one with *etag*, or where the store knows no conditions in any case.

        Args:
            path: the object.
            body: its bytes.
            headers: what it is stored with.
            etag: of what is to be there; None: nothing is.

        Returns:
            Its own ETag; None where something else is there.
        """
        if etag is None:
            return self._put_if(path, body, headers, {"IfNoneMatch": "*"})
        # Ceph's gateway compares it as it is stored: without the quotes that it is told with.
        for spelled in (etag, etag.strip('"')):
            written = self._put_if(path, body, headers, {"IfMatch": spelled})
            if written is not None:
                return written
        return None

    def _put_if(self, path: str, body: bytes, headers: Headers, condition: Mapping[str, str]) -> str | None:
        try:
            return str(self._put(path, body, headers, condition)["ETag"])
        except botocore.exceptions.ClientError as error:
            status = status_of(error)
            if status in {http.client.PRECONDITION_FAILED, http.client.CONFLICT}:
                return None
            # What was there and is gone: Amazon's store answers so to an If-Match.
            if status == http.client.NOT_FOUND and "IfMatch" in condition:
                return None
            with self.bucket.asked(self.where(path)):
                if status != http.client.NOT_IMPLEMENTED:
                    raise
                return str(self._put(path, body, headers)["ETag"])
        except botocore.exceptions.BotoCoreError:
            with self.bucket.asked(self.where(path)):
                raise

    def copy(self, source: str, path: str, size: int, headers: Headers) -> bool:  # noqa: ARG002 - they come along
        """Copy the object *source* within the store, with its headers; return whether it was there, and could be."""
        if size > COPY_MAX_BYTES:
            return False
        try:
            with self.bucket.asked(self.where(path)):
                place = self.bucket.place
                self.bucket.client.copy_object(
                    **self._at(path), **self._acl, CopySource={"Bucket": place.bucket, "Key": place.key(source)}
                )
        except NotFoundError:
            return False
        return True

    def remove(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self.bucket.asked(self.where(path)), contextlib.suppress(NotFoundError):
            self.bucket.client.delete_object(**self._at(path))

    def unused(self, used: Set[Digest], grace: float) -> list[str]:  # noqa: ARG002
        """Return nothing: what uploads in parts left behind is the store's own to remove, by a lifecycle rule."""
        return []

    def remove_unused(self, name: str) -> None:
        """Remove one of :meth:`unused`, as any object."""
        self.remove(name)

    def listed(self, prefix: str) -> dict[str, Found]:
        """Return every object whose path begins with *prefix*, by its path; without media types and digests."""
        place, found = self.bucket.place, {}
        start = len(place.key(""))
        with self.bucket.asked(self.where(prefix)):
            pages = self.bucket.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=place.bucket, Prefix=place.key(prefix)):
                now = _now(page)
                for row in page.get("Contents", ()):
                    age = (now - row["LastModified"]).total_seconds()
                    found[row["Key"][start:]] = Found(int(row["Size"]), str(row.get("ETag", "")), age)
        return found

    def send(self, file: Path, path: str, digest: Digest, headers: Headers, advance: Callable[[int], None]) -> None:
        """Send *file*, whose bytes are those of *digest*; what an interrupted run has sent in parts is not sent again.

        Raises:
            TreeError: the file cannot be read, or holds other bytes; nothing of it can then be seen.
        """
        try:
            size = file.stat().st_size
            part_size = max(PART_BYTES, -(-size // PARTS_MAX))
            if size <= part_size:
                body = file.read_bytes()
                check_content(Digest.of(body), digest, file)
                self.put(path, body, headers)
                advance(len(body))
            else:
                self._send_parts(file, path, (digest, part_size), headers, advance)
        except OSError as error:
            raise TreeError(str(file), f"cannot be read ({error.strerror})", "run again") from None

    def _send_parts(
        self, file: Path, path: str, content: tuple[Digest, int], headers: Headers, advance: Callable[[int], None]
    ) -> None:
        digest, part_size = content
        client, where = self.bucket.client, self.where(path)
        target = self._at(path)
        upload, there = self._unfinished(path)
        if upload is None:
            with self.bucket.asked(where):
                upload = client.create_multipart_upload(**target, **self._acl, **_fields(headers))["UploadId"]
        hasher, done = hashlib.sha256(), []
        with file.open("rb") as opened:
            for number, part in enumerate(iter(lambda: opened.read(part_size), b""), 1):
                hasher.update(part)
                md5 = hashlib.md5(part, usedforsecurity=False)
                etag = there.get(number)
                # A store that makes other ETags than Amazon's has the part sent again.
                if etag is None or etag.strip('"') != md5.hexdigest():
                    with self.bucket.asked(where):
                        etag = str(
                            client.upload_part(
                                **target,
                                UploadId=upload,
                                PartNumber=number,
                                Body=part,
                                ContentMD5=_base64(md5.digest()),
                            )["ETag"]
                        )
                done.append({"PartNumber": number, "ETag": etag})
                advance(len(part))
        if hasher.hexdigest() != digest.hex:
            with self.bucket.asked(where):
                client.abort_multipart_upload(**target, UploadId=upload)
        check_content(Digest(hasher.hexdigest()), digest, file)
        with self.bucket.asked(where):
            client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": done})

    def _unfinished(self, path: str) -> tuple[str | None, dict[int, str]]:
        """Return the upload in parts of an object that was begun last and not ended, and its parts with their ETags."""
        client, target = self.bucket.client, self._at(path)
        with self.bucket.asked(self.where(path)):
            rows = client.list_multipart_uploads(Bucket=target["Bucket"], Prefix=target["Key"]).get("Uploads", ())
            found = sorted((row["Initiated"], row["UploadId"]) for row in rows if row["Key"] == target["Key"])
            if not found:
                return None, {}
            upload = str(found[-1][1])
            pages = client.get_paginator("list_parts").paginate(**target, UploadId=upload)
            return upload, {row["PartNumber"]: row["ETag"] for page in pages for row in page.get("Parts", ())}

    def _put(
        self, path: str, body: bytes | bytearray, headers: Headers, condition: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = self.bucket.client.put_object(
            **self._at(path), **self._acl, **_fields(headers), Body=body, ContentMD5=md5_of(body), **(condition or {})
        )
        return answer

    def _at(self, path: str) -> dict[str, str]:
        return {"Bucket": self.bucket.place.bucket, "Key": self.bucket.place.key(path)}


def _fields(headers: Headers) -> dict[str, Any]:
    """Return *headers* as boto3 wants them."""
    found: dict[str, Any] = {"ContentType": headers.media_type, "CacheControl": headers.cache}
    return found | ({"Metadata": {DIGEST_METADATA: str(headers.digest)}} if headers.digest else {})


def _found(answer: dict[str, Any]) -> Found:
    return Found(
        size=int(answer["ContentLength"]),
        etag=str(answer.get("ETag", "")),
        age=(_now(answer) - answer["LastModified"]).total_seconds(),
        media_type=str(answer.get("ContentType", "")),
        digest=str(answer.get("Metadata", {}).get(DIGEST_METADATA, "")),
    )


def _now(answer: dict[str, Any]) -> datetime:
    """Return the time on the store's clock as it gave *answer*."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


def md5_of(body: bytes | bytearray) -> str:
    """Return the Content-MD5 of *body* (RFC 1864): against the line, not against an enemy."""
    return _base64(hashlib.md5(body, usedforsecurity=False).digest())


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
