"""The files of a tree in a bucket of an S3 store: objects under the names that the files have."""

from collections.abc import Iterator
from contextlib import closing

from seawall.errors import NotFoundError, SourceError, TransientError
from seawall.place import S3Place
from seawall.reference import is_tag
from seawall.s3 import Bucket
from seawall.tree_files import PIECE_BYTES, TAGS_MAX


class S3Files:
    """Reads a tree in a bucket; may be used by several threads."""

    def __init__(self, place: S3Place, bucket: Bucket | None = None) -> None:
        self._place = place
        self._bucket = bucket or Bucket(place)

    @property
    def requests(self) -> int:
        """How many requests were sent so far."""
        return self._bucket.requests

    def read(self, path: str, limit: int, where: str) -> bytes:
        """Return the bytes of the file *path*, or its first *limit* + 1 bytes where it has more.

        Raises:
            NotFoundError: there is no such object.
            CredentialsError: the store refuses access.
            SourceError: it cannot be asked, or refuses for another reason.
        """
        with self._bucket.asked(where):
            answer = self._bucket.client.get_object(Bucket=self._place.bucket, Key=self._place.key(path))
            with closing(answer["Body"]) as body:
                return bytes(body.read(limit + 1))

    def pieces(self, path: str, size: int, start: int, where: str) -> Iterator[bytes]:
        """Yield the bytes of the file *path*, which has *size*, from byte *start* on, in pieces of at most 1 MiB.

        Raises:
            NotFoundError: there is no such object.
            TransientError: the connection broke.
            CredentialsError: the store refuses access.
            SourceError: it cannot be asked, refuses for another reason, or the object has another size.
        """
        ranged = {"Range": f"bytes={start}-"} if start else {}
        with self._bucket.asked(where):
            answer = self._bucket.client.get_object(Bucket=self._place.bucket, Key=self._place.key(path), **ranged)
            with closing(answer["Body"]) as body:
                left = size - start
                if answer["ContentLength"] != left:
                    what = f"comes with {answer['ContentLength']} bytes, not the {left} of its descriptor"
                    raise SourceError(where, what, "publish the image there again")
                while left:
                    piece = body.read(min(left, PIECE_BYTES))
                    if not piece:
                        raise TransientError(where, f"ended after {size - left} of {size} bytes", "try again later")
                    left -= len(piece)
                    yield piece

    def tags(self, repository: str, where: str) -> tuple[str, ...]:
        """Return every tag of *repository*, each once.

        Raises:
            NotFoundError: there is no such repository.
            CredentialsError: the store refuses access, to the list of its objects for one.
            SourceError: it cannot be asked, or refuses for another reason.
        """
        prefix = self._place.key(f"v2/{repository}/manifests/")
        found: list[str] = []
        with self._bucket.asked(where):
            pages = self._bucket.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._place.bucket, Prefix=prefix, Delimiter="/"
            )
            for page in pages:
                found += [row["Key"].removeprefix(prefix) for row in page.get("Contents", ())]
                if len(found) > TAGS_MAX:
                    raise SourceError(where, f"has more than {TAGS_MAX} manifests", "name the tags instead")
        if not found:
            raise NotFoundError(where, "has no manifest", "correct the name")
        return tuple(sorted(filter(is_tag, found)))
