"""The ``oci:`` and ``oci-archive:`` sources: an OCI image layout (OCI Image Specification 1.1, image-layout.md)."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seawall.digest import Digest
from seawall.errors import InputError, SourceError
from seawall.layout_files import Archive, Folder, LayoutFiles
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, parse_manifest
from seawall.media_type import BY_MEDIA_TYPE
from seawall.reference import LayoutArchiveLocation, LayoutLocation, is_tag, listed_subject
from seawall.referrer_list import claimed

_VERSION_NAME = "oci-layout"
_INDEX_NAME = "index.json"
_VERSION = "1.0.0"
_REF_NAME = "org.opencontainers.image.ref.name"
_PIECE_BYTES = 1024 * 1024
_INDEX_MAX_BYTES = 64 * 1024 * 1024
_TAGS_SHOWN = 10
_REMAKE = "make the layout again"


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    descriptor: Descriptor


class LayoutSource:
    """Images of one OCI image layout; may be used by several threads.

    A folder is read anew each time it is asked, an archive is gone through once; so is what refers to what.

    Args:
        location: where it is.
        spool_folder: where an archive that is gzipped as a whole is unzipped to; see :class:`~seawall.spool.Spool`.
    """

    def __init__(self, location: LayoutLocation | LayoutArchiveLocation, spool_folder: Path | None = None) -> None:
        self._location = location
        self._files: LayoutFiles = (
            Folder(location.path) if isinstance(location, LayoutLocation) else Archive(location.path, spool_folder)
        )
        self._by_subject: dict[Digest, list[Descriptor]] | None = None
        self._mutex = threading.Lock()

    @property
    def requests(self) -> int:
        """0: files are not asked over the network."""
        return 0

    def resolve(self, tag: str) -> Descriptor:
        """Return media type, digest and size of the manifest that *tag* names now.

        A tag is the annotation ``org.opencontainers.image.ref.name`` of ``index.json``. Some tools write a full
        name there (``docker.io/library/alpine:3.20``), whose tag counts where no annotation is the tag itself. Where
        *tag* is ``""``, the only manifest that ``index.json`` lists is meant, whatever its name.

        Raises:
            SourceError: it is no image layout, or names no such tag, or names two manifests by it.
        """
        where = f"{self._location}:{tag}" if tag else str(self._location)
        entries = self._entries()
        found = {entry.descriptor.digest: entry.descriptor for entry in entries if tag in {entry.name, ""}}
        found = found or {entry.descriptor.digest: entry.descriptor for entry in entries if _tag_of(entry.name) == tag}
        if not found:
            names = sorted({entry.name for entry in entries if entry.name})
            shown = ", ".join(names[:_TAGS_SHOWN]) + (", …" if len(names) > _TAGS_SHOWN else "")
            raise SourceError(where, "no such tag", f"write one that it has ({shown or 'it has none'})")
        if len(found) > 1:
            digests = " and ".join(str(digest) for digest in sorted(found)[:2])
            if not tag:
                raise SourceError(where, f"holds {len(found)} manifests, {digests}", "write the tag of one of them")
            raise SourceError(where, f"names two manifests, {digests}", "remove one of them from index.json")
        descriptor = next(iter(found.values()))
        if descriptor.media_type not in BY_MEDIA_TYPE:
            raise SourceError(where, f"media type {descriptor.media_type[:100]!r} is not that of a manifest", _REMAKE)
        return descriptor

    def tags(self) -> tuple[str, ...]:
        """Return every tag that ``index.json`` names, each once, as :meth:`resolve` knows them.

        Raises:
            SourceError: it is no image layout.
        """
        named = (entry.name if is_tag(entry.name) else _tag_of(entry.name) for entry in self._entries())
        return tuple(dict.fromkeys(name for name in named if name is not None and is_tag(name)))

    def manifest(self, digest: Digest) -> tuple[bytes, str]:
        """Return the bytes of the manifest *digest*, which match it, and its media type in ``index.json``, or ``""``.

        Raises:
            SourceError: there is no such manifest, it is larger than 4 MiB, or the file holds other bytes.
        """
        types = {entry.descriptor.digest: entry.descriptor.media_type for entry in self._entries()}
        return self._content(digest), types.get(digest, "")

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Return what of ``index.json`` refers to the manifest *subject*, and what the list behind its tag names.

        The manifests of ``index.json`` are read once, when this is first asked.

        Raises:
            SourceError: it is no image layout, or a manifest is missing or malformed.
        """
        with self._mutex:
            if self._by_subject is None:
                self._by_subject = self._read_subjects()
        return tuple({row.digest: row for row in self._by_subject.get(subject, ())}.values())

    def _read_subjects(self) -> dict[Digest, list[Descriptor]]:
        found: dict[Digest, list[Descriptor]] = {}
        for entry in self._entries():
            descriptor = entry.descriptor
            if descriptor.media_type not in BY_MEDIA_TYPE:
                continue
            content = self._content(descriptor.digest)
            where = f"{self._location}@{descriptor.digest}"
            listed = listed_subject(_tag_of(entry.name) or entry.name)
            if listed is not None:
                found.setdefault(listed, []).extend(claimed(content, where))
                continue
            own = parse_manifest(content, where, descriptor.media_type).subject
            if own is not None:
                found.setdefault(own, []).append(descriptor)
        return found

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of *blob* from *start* on, in pieces of at most 1 MiB, never more in all than its size.

        Raises:
            SourceError: there is no such blob, or it has another size.
        """
        self._check_version()
        name = _blob_name(blob.digest)
        with self._files.opened(name) as (file, size):
            if size != blob.size:
                raise _other_size(self._files.where_is(name), size, blob.size)
            file.seek(start)
            left = blob.size - start
            while left:
                piece = file.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise _other_size(self._files.where_is(name), blob.size - left, blob.size)
                left -= len(piece)
                yield piece

    def _content(self, digest: Digest) -> bytes:
        name = _blob_name(digest)
        content = self._read(name, MANIFEST_MAX_BYTES)
        if Digest.of(content) != digest:
            raise SourceError(self._files.where_is(name), f"holds other bytes than {digest}", _REMAKE)
        return content

    def _check_version(self) -> None:
        if not self._files.has(_VERSION_NAME):
            raise SourceError(
                self._files.where, f"is no OCI image layout (it has no {_VERSION_NAME} file)", "correct the path"
            )
        version = self._document(_VERSION_NAME, MANIFEST_MAX_BYTES).get("imageLayoutVersion")
        if version != _VERSION:
            where = self._files.where_is(_VERSION_NAME)
            raise SourceError(where, f"imageLayoutVersion is {str(version)[:100]!r}, not {_VERSION!r}", _REMAKE)

    def _entries(self) -> tuple[_Entry, ...]:
        """Return what ``index.json`` lists."""
        self._check_version()
        where = self._files.where_is(_INDEX_NAME)
        rows = self._document(_INDEX_NAME, _INDEX_MAX_BYTES).get("manifests") or []
        if not isinstance(rows, list):
            raise SourceError(where, "manifests is not a list", _REMAKE)
        return tuple(_entry(row, f"{where}: manifests[{number}]") for number, row in enumerate(rows))

    def _document(self, name: str, limit: int) -> dict[str, Any]:
        where = self._files.where_is(name)
        try:
            document = json.loads(self._read(name, limit))
        except (ValueError, RecursionError):
            raise SourceError(where, "is not JSON", _REMAKE) from None
        if not isinstance(document, dict):
            raise SourceError(where, "is not a JSON object", _REMAKE)
        return document

    def _read(self, name: str, limit: int) -> bytes:
        with self._files.opened(name) as (file, _):
            content = file.read(limit + 1)
        if len(content) > limit:
            where = self._files.where_is(name)
            raise SourceError(where, f"is larger than {limit} bytes", "check that the layout holds container images")
        return content


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _entry(row: Any, where: str) -> _Entry:
    if not isinstance(row, dict):
        raise SourceError(where, "is not an object", _REMAKE)
    media_type, digest, size = row.get("mediaType"), row.get("digest"), row.get("size")
    annotations = row.get("annotations") or {}
    name = annotations.get(_REF_NAME, "") if isinstance(annotations, dict) else ""
    if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(name, str):
        raise SourceError(where, "mediaType, digest or annotation is missing or no string", _REMAKE)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise SourceError(where, "size is missing or no number of bytes", _REMAKE)
    try:
        return _Entry(name, Descriptor(media_type, Digest.parse(digest), size))
    except InputError as error:
        raise SourceError(where, error.what, _REMAKE) from None


def _tag_of(name: str) -> str | None:
    """Return the tag of a full image name, None where it has none."""
    before, _, tag = name.rpartition(":")
    return tag if before and "/" not in tag and "@" not in before else None


def _other_size(where: str, found: int, wanted: int) -> SourceError:
    return SourceError(where, f"has {found} bytes, not the {wanted} of its descriptor", _REMAKE)
