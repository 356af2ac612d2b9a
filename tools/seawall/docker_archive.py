"""What ``docker save``, skopeo and a Docker engine write: a tar archive with a ``manifest.json``.

The Docker Image Specification 1.2 ("Combined Image JSON + Filesystem Changeset Format") names the files; engines from
25 on lay the same files out as an OCI layout, and ``manifest.json`` stands beside its ``index.json``. The manifest is
made from ``manifest.json`` in both, so that one image gets one digest whichever engine it comes out of.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from seawall.compression import Compression, compressed, compression_of, decompressed
from seawall.digest import Digest
from seawall.errors import InputError, SourceError
from seawall.manifest import MANIFEST_MAX_BYTES, Manifest, parse_manifest
from seawall.media_type import DOCKER_MANIFEST, OCI_MANIFEST
from seawall.spool import Extent, Spool
from seawall.tar_stream import Readable, TarStream

MANIFEST_NAME = "manifest.json"

_HEAD_BYTES = 512
_DOCUMENTS_MAX_BYTES = 32 * 1024 * 1024
_LINKS_MAX = 8
_REMAKE = "save the image again"
_NAMED_BY_DIGEST = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")

_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+"


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer in the spool, compressed."""

    extent: Extent
    compression: Compression
    diff_id: Digest
    """The digest of the layer uncompressed (config.md, "Layer DiffID")."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How layers are kept that come uncompressed, and where."""

    spool: Spool
    compression: Compression


@dataclass(slots=True)
class Contents:
    """What was read of an archive, by the names of its members."""

    where: str
    documents: dict[str, bytes] = field(default_factory=dict)
    too_large: set[str] = field(default_factory=set)
    """Documents that were not kept."""
    layers: dict[str, PackedLayer] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def resolved(self, name: str) -> str:
        """Return the name of the file that *name* is, or leads to by links.

        Raises:
            SourceError: links lead to each other.
        """
        for _ in range(_LINKS_MAX):
            if name not in self.links:
                return name
            name = self.links[name]
        raise self.refused(f"has links that lead nowhere from {name!r}")

    def document(self, name: str) -> bytes:
        """Return the document *name*.

        Raises:
            SourceError: it is missing or too large.
        """
        found = self.resolved(name)
        if found in self.too_large:
            raise self.refused(f"has a {name[:200]!r} that is larger than {MANIFEST_MAX_BYTES} bytes")
        if found not in self.documents:
            raise self.refused(f"has no {name[:200]!r}")
        return self.documents[found]

    def refused(self, what: str) -> SourceError:
        """Return the error that says *what* is wrong with the archive."""
        return SourceError(self.where, what, _REMAKE)


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """A row of ``manifest.json``."""

    names: tuple[str, ...]
    """``RepoTags``: as the engine shows them, ``alpine:3.20``."""
    config: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image as a tree can hold it, made of what an archive has."""

    manifest: Manifest
    config: bytes
    layers: tuple[PackedLayer, ...]


def read_contents(file: Readable, where: str, wants: Callable[[str], bool], packing: Packing) -> Contents:
    """Return what the archive *file* has: its documents, and in the spool, compressed, the layers that *wants* names.

    It is read once, from front to back. A layer that is compressed already stays as it is.

    Raises:
        SourceError: it is malformed, or ends early.
        TreeError: the spool's disk refuses.
    """
    contents = Contents(where)
    kept = 0
    archive = TarStream(file, where)
    for member in archive.members():
        if member.link is not None:
            contents.links[member.name] = member.link
            continue
        head = archive.head(_HEAD_BYTES)
        if _is_document(head):
            if member.size > MANIFEST_MAX_BYTES:
                contents.too_large.add(member.name)
                continue
            kept += member.size
            if kept > _DOCUMENTS_MAX_BYTES:
                raise contents.refused(f"has documents of more than {_DOCUMENTS_MAX_BYTES} bytes")
            contents.documents[member.name] = b"".join([head, *archive.content()])
        elif wants(member.name):
            contents.layers[member.name] = _pack(head, archive, packing, f"{where}: {member.name}")
    return contents


def _is_document(head: bytes) -> bool:
    """Return whether a file that begins with *head* is text: the header of a tar has zeros in it, and JSON has none."""
    return b"\0" not in head and compression_of(head) is None


def _pack(head: bytes, archive: TarStream, packing: Packing, where: str) -> PackedLayer:
    pieces = itertools.chain((head,), archive.content())
    came = compression_of(head)
    hasher = hashlib.sha256()
    if came is None:
        extent = packing.spool.add(compressed(_hashed(pieces, hasher.update), packing.compression))
        return PackedLayer(extent, packing.compression, Digest(hasher.hexdigest()))
    extent = packing.spool.add(pieces)
    for piece in decompressed(packing.spool.read(extent), came, where):
        hasher.update(piece)
    return PackedLayer(extent, came, Digest(hasher.hexdigest()))


def _hashed(pieces: Iterable[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece


def archived_images(contents: Contents) -> tuple[ArchivedImage, ...]:
    """Return the rows of the archive's ``manifest.json``.

    Raises:
        SourceError: it is missing or malformed.
    """
    rows = _json(contents.document(MANIFEST_NAME), contents)
    if not isinstance(rows, list) or not rows:
        raise contents.refused(f"{MANIFEST_NAME} lists no images")
    return tuple(_row(row, contents) for row in rows)


def _row(row: Any, contents: Contents) -> ArchivedImage:
    if not isinstance(row, dict):
        raise contents.refused(f"{MANIFEST_NAME} lists what is no image")
    # Go writes null for an empty list.
    names, config, layers = row.get("RepoTags") or [], row.get("Config"), row.get("Layers") or []
    if not isinstance(config, str) or not _is_texts(names) or not _is_texts(layers):
        raise contents.refused(f"{MANIFEST_NAME} has a Config, RepoTags or Layers that is missing or no text")
    return ArchivedImage(tuple(names), config, tuple(layers))


def made_image(image: ArchivedImage, contents: Contents) -> MadeImage:
    """Return *image*, whose layers are in *contents*, with the manifest under which a tree holds it.

    The manifest is Docker's (image manifest version 2, schema 2), as ``docker push`` makes it and as every client reads
    it; where a layer is compressed as zstd, for which Docker's has no media type, it is OCI's. Config and image ID
    stay as they are.

    Raises:
        SourceError: something is missing, or the config does not name the layers that are there.
    """
    config = contents.document(image.config)
    digest = Digest.of(config)
    named = _NAMED_BY_DIGEST.fullmatch(contents.resolved(image.config))
    if named and named.group(1) != digest.hex:
        raise contents.refused(f"{image.config} holds other bytes ({digest})")
    names = tuple(contents.resolved(name) for name in image.layers)
    for name in names:
        if name not in contents.layers:
            raise contents.refused(f"has no layer {name[:200]!r}")
    layers = tuple(contents.layers[name] for name in names)
    _check_diff_ids(_diff_ids(config, image, contents), layers, image, contents)
    return MadeImage(_manifest(config, digest, layers, contents.where), config, layers)


def _diff_ids(config: bytes, image: ArchivedImage, contents: Contents) -> list[str]:
    document = _json(config, contents)
    rootfs = document.get("rootfs") if isinstance(document, dict) else None
    if not isinstance(rootfs, dict):
        raise contents.refused(f"{image.config} is no config of an image")
    diff_ids = rootfs.get("diff_ids") or []
    if not _is_texts(diff_ids):
        raise contents.refused(f"{image.config} has diff_ids that are no text")
    return list(diff_ids)


def _check_diff_ids(
    diff_ids: list[str], layers: tuple[PackedLayer, ...], image: ArchivedImage, contents: Contents
) -> None:
    if len(diff_ids) != len(layers):
        raise contents.refused(f"{image.config} names {len(diff_ids)} layers, and {MANIFEST_NAME} {len(layers)}")
    for number, (wanted, layer) in enumerate(zip(diff_ids, layers, strict=True)):
        try:
            is_it = Digest.parse(wanted) == layer.diff_id
        except InputError:
            is_it = False
        if not is_it:
            raise contents.refused(f"layer {number} is {layer.diff_id}, and {image.config} says {wanted[:80]}")


def _manifest(config: bytes, digest: Digest, layers: tuple[PackedLayer, ...], where: str) -> Manifest:
    is_oci = any(layer.compression == "zstd" for layer in layers)
    kind = OCI_MANIFEST if is_oci else DOCKER_MANIFEST
    rows = [
        {
            "mediaType": f"{_OCI_LAYER}{layer.compression}" if is_oci else _DOCKER_LAYER,
            "size": layer.extent.size,
            "digest": str(layer.extent.digest),
        }
        for layer in layers
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": kind.media_type,
        "config": {
            "mediaType": _OCI_CONFIG if is_oci else _DOCKER_CONFIG,
            "size": len(config),
            "digest": str(digest),
        },
        "layers": rows,
    }
    return parse_manifest(json.dumps(document, separators=(",", ":")).encode(), where, kind.media_type)


def _json(content: bytes, contents: Contents) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise contents.refused("has a document that is not JSON") from None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
